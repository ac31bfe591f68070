// Package arrival checks from outside that grants follow arrival (R6): a request that was sent
// after another one was answered has the higher number.
package arrival

import (
	"cmp"
	"slices"
	"time"
)

// Grant is a grant as its buyer saw it; all times are of one clock.
type Grant struct {
	Sent, Answered time.Duration
	Sequence       int64 // the gate's number
}

// Inversions calls report for each grant that was requested after the response with a higher number.
func Inversions(grants []Grant, report func(sequence, higher int64)) {
	bySent, byAnswer := slices.Clone(grants), slices.Clone(grants)
	slices.SortFunc(bySent, func(a, b Grant) int { return cmp.Compare(a.Sent, b.Sent) })
	slices.SortFunc(byAnswer, func(a, b Grant) int { return cmp.Compare(a.Answered, b.Answered) })
	var highest int64
	i := 0
	for _, g := range bySent {
		for ; i < len(byAnswer) && byAnswer[i].Answered < g.Sent; i++ {
			highest = max(highest, byAnswer[i].Sequence)
		}
		if g.Sequence < highest {
			report(g.Sequence, highest)
		}
	}
}
