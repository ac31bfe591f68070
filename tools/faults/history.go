package main

import (
	"slices"
	"sync"
	"time"
)

// attempt is one request of a client, as the client saw it.
type attempt struct {
	Op       string        `json:"op"` // acquire, release, pay, refund, change
	Product  string        `json:"product,omitempty"`
	Buyer    string        `json:"buyer,omitempty"`
	Key      string        `json:"key,omitempty"`
	Node     int           `json:"node"`
	Sent     time.Duration `json:"sent"`     // since the run's start
	Answered time.Duration `json:"answered"` // likewise
	Status   int           `json:"status"`   // 0: no answer
	Slug     string        `json:"slug,omitempty"`
	Slot     string        `json:"slot,omitempty"`
	Unit     int           `json:"unit,omitempty"`
	Sequence int64         `json:"sequence,omitempty"`
	Payment  string        `json:"payment,omitempty"`
	Error    string        `json:"error,omitempty"`
}

func (a *attempt) granted() bool { return a.Op == "acquire" && a.Status == 201 }

// unanswered reports whether the outcome of the request is unknown.
func (a *attempt) unanswered() bool { return a.Status == 0 || a.Status >= 500 }

// history is what all clients saw.
type history struct {
	start time.Time
	mu    sync.Mutex
	all   []attempt
}

func (h *history) now() time.Duration { return time.Since(h.start) }

func (h *history) add(a attempt) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, a)
}

// list returns a copy, in the order of sending.
func (h *history) list() []attempt {
	h.mu.Lock()
	all := slices.Clone(h.all)
	h.mu.Unlock()
	slices.SortStableFunc(all, func(a, b attempt) int { return int(a.Sent - b.Sent) })
	return all
}

// longestGap is the longest time between two grants of a product within a window, and
// when it began.
func longestGap(all []attempt, product string, from, to time.Duration) (longest, began time.Duration) {
	var at []time.Duration
	for i := range all {
		if a := &all[i]; a.granted() && a.Product == product && a.Answered >= from && a.Answered <= to {
			at = append(at, a.Answered)
		}
	}
	slices.Sort(at)
	last := from
	for _, t := range append(at, to) {
		if t-last > longest {
			longest, began = t-last, last
		}
		last = t
	}
	return longest, began
}

// firstGrant is how long after a moment a product granted again; -1 for never.
func firstGrant(all []attempt, product string, after time.Duration) time.Duration {
	first := time.Duration(-1)
	for i := range all {
		if a := &all[i]; a.granted() && a.Product == product && a.Answered >= after && (first < 0 || a.Answered-after < first) {
			first = a.Answered - after
		}
	}
	return first
}
