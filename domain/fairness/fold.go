package fairness

import "fmt"

// Report summarizes a log. Numbers are nil if nothing was decided.
type Report struct {
	Decided             int64  `json:"decided"` // Granted and the sum of Refused
	Granted             int64  `json:"granted"`
	Refused             Counts `json:"refused"`
	Returned            int64  `json:"returned"`
	FirstSequence       *int64 `json:"firstSequence"`
	LastSequence        *int64 `json:"lastSequence"`
	LastGrantedSequence *int64 `json:"lastGrantedSequence"`
	Epochs              int64  `json:"epochs"`     // how many epochs the log has
	Inversions          int64  `json:"inversions"` // requests refused as sold out while a unit was free
	Breaks              int64  `json:"-"`          // lines that violate a rule
}

// Break is a line's violation of a rule.
type Break struct {
	Number int // of the line, from 1
	Line   Line
	Rule   string
}

func (b *Break) Error() string {
	return fmt.Sprintf("line %d: %s: %s", b.Number, b.Rule, b.Line.AppendJSON(nil))
}

// Fold is the state after the lines folded so far. Create it with NewFold; it is not safe
// for concurrent use.
type Fold struct {
	report Report
	lines  int
	epoch  int64 // of the last line, -1 before the first
	free   int64 // units on sale
	next   int64 // number of the next decision
	lost   int64 // decisions whose lines are missing, since free was last certain
	out    bits  // units granted in this epoch and not returned since
	in     bits  // units returned in this epoch and not granted since
}

// NewFold returns the fold of no lines.
func NewFold() *Fold { return &Fold{epoch: -1} }

// Report returns the report of the lines so far.
func (f *Fold) Report() Report { return f.report }

// Free returns how many units are on sale after the last line.
func (f *Fold) Free() int64 { return f.free }

// Add folds the next line. The error is a *Break if the line violates a rule;
// the line counts nevertheless, and the fold continues after it.
func (f *Fold) Add(l Line) error {
	rule := f.enter(l.Epoch)
	and := func(broken string) {
		if rule == "" {
			rule = broken
		}
	}
	switch l.Type {
	case Opened:
		f.free += l.Units
	case Granted:
		and(f.decide(l.Epoch, l.Sequence, l.Sequence))
		and(f.take(l.Unit))
		f.report.Granted++
		f.report.Decided++
		f.report.LastGrantedSequence = &l.Sequence
	case Returned:
		if f.in.has(l.Unit) {
			and("a unit that is free is returned again")
		}
		f.free++
		f.out.clear(l.Unit)
		f.in.set(l.Unit)
		f.report.Returned++
	case Refused:
		and(f.decide(l.Epoch, l.From, l.To))
		and(f.refuse(l))
	default:
		and("a line of unknown type")
	}
	f.lines++
	if rule == "" {
		return nil
	}
	f.report.Breaks++
	return &Break{Number: f.lines, Line: l, Rule: rule}
}

// With returns the report as it would be after one more run of refusals, without
// adding the run to the fold: the last line of a log is a run that may grow.
func (f *Fold) With(run Line) Report {
	then := *f
	if run.Epoch != f.epoch { // a new epoch would empty the sets that both share
		then.out, then.in = bits{}, bits{}
	}
	_ = then.Add(run) // counted in the report
	return then.report
}

// enter begins the line's epoch if it is a new one.
func (f *Fold) enter(epoch int64) (broken string) {
	if epoch == f.epoch {
		return ""
	}
	if epoch < f.epoch {
		broken = "the epoch is lower than that of the previous line"
	}
	f.epoch = epoch
	f.free, f.lost = 0, 0
	f.next = epoch*NumbersPerEpoch + 1
	f.out, f.in = f.out.empty(), f.in.empty()
	f.report.Epochs++
	return broken
}

// decide checks the numbers of one or more decisions.
func (f *Fold) decide(epoch, from, to int64) (broken string) {
	switch last := (epoch+1)*NumbersPerEpoch - 1; {
	case from != f.next:
		broken = fmt.Sprintf("the next number is %d", f.next)
		f.miss(from - f.next)
	case to < from:
		broken = "a run ends before it begins"
	case to > last:
		broken = fmt.Sprintf("the epoch's last number is %d", last)
	}
	f.next = max(from, to) + 1
	if f.report.FirstSequence == nil {
		f.report.FirstSequence = &from
	}
	f.report.LastSequence = &to
	return broken
}

// miss notes that lines are missing, with n decisions. Each of those may have been a grant,
// and nothing is known of the units that they granted and returned.
func (f *Fold) miss(n int64) {
	if n > 0 {
		f.lost += n
		f.out, f.in = bits{}, bits{} // not the memory that With shares
	}
}

func (f *Fold) take(unit int) (broken string) {
	switch {
	case f.free == 0 && f.lost > 0: // lines that returned or opened it may be missing, too
	case f.free == 0:
		broken = "no unit is free"
	case f.out.has(unit):
		broken = "the unit is granted already"
		f.free--
	default:
		f.free--
	}
	f.out.set(unit)
	f.in.clear(unit)
	return broken
}

func (f *Fold) refuse(l Line) (broken string) {
	sum := l.Refused.Total()
	if l.To-l.From+1 != sum {
		broken = fmt.Sprintf("the counts sum to %d, the numbers to %d", sum, l.To-l.From+1)
	}
	switch {
	case l.Refused.SoldOut == 0:
	case f.free <= f.lost: // the missing lines explain it: free was 0
		f.free, f.lost = 0, 0
	default:
		f.report.Inversions += l.Refused.SoldOut
		if broken == "" {
			broken = fmt.Sprintf("refused as sold out while %d units were free", f.free)
		}
	}
	f.report.Refused = f.report.Refused.plus(l.Refused)
	f.report.Decided += sum
	return broken
}

// bits is a set of units that grows to the highest one.
type bits []uint64

func (b bits) has(unit int) bool {
	return unit/64 < len(b) && b[unit/64]&(1<<(unit%64)) != 0
}

func (b *bits) set(unit int) {
	if missing := unit/64 + 1 - len(*b); missing > 0 {
		*b = append(*b, make(bits, missing)...)
	}
	(*b)[unit/64] |= 1 << (unit % 64)
}

func (b bits) clear(unit int) {
	if unit/64 < len(b) {
		b[unit/64] &^= 1 << (unit % 64)
	}
}

// empty returns the empty set, with the same memory.
func (b bits) empty() bits { return b[:0] }
