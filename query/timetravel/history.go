package timetravel

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/eventstore"
)

const (
	// historyInterval is the least time between two checks of the store's history.
	historyInterval = time.Second
	// historyTimeout bounds a check.
	historyTimeout = time.Second
)

// history notices that the event store was restored to an earlier moment: results that are
// kept because a past moment never changes are then of a history that the store lost.
//
// It compares the last event that it has seen with the store. Events of a final moment are
// older than one check, so whenever one of them is lost, that event is lost, too.
type history struct {
	events *eventstore.Reader
	forget func() // called when the store lost events

	mu       sync.Mutex
	checked  time.Time
	position int64
	id       uuid.UUID
	number   int // of the history
}

// current returns the number of the history, which changes when the store lost events. If the
// store does not respond, it is the last one.
func (h *history) current(ctx context.Context) int {
	h.mu.Lock()
	position, id, number := h.position, h.id, h.number
	if time.Since(h.checked) < historyInterval {
		h.mu.Unlock()
		return number
	}
	h.checked = time.Now() // other requests do not wait for this check
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), historyTimeout)
	defer cancel()
	head, err := h.events.Head(ctx)
	if err != nil {
		return number
	}
	ids, err := h.events.IDs(ctx, []int64{position, head})
	if err != nil {
		return number
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if position > 0 && ids[position] != id {
		h.number++
		h.forget()
	}
	h.position, h.id = head, ids[head]
	return h.number
}
