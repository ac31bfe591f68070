package worker

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/presence"
	"github.com/dopaminestore/dopamine/internal/sleep"
)

// owners determines this worker's products: live workers share them by hash.
// A worker that cannot reach a Redis master publishes that in the list, and leaves the
// products there to the others. Nothing is locked: while the workers' lists
// differ, a product may have two owners or, for a second or two, none.
type owners struct {
	presence *presence.Presence // nil: all products are ours
	master   func(product uuid.UUID) string

	mu          sync.Mutex
	unreachable map[string]uuid.UUID // masters, each with a product to probe it with
}

func newOwners(p *presence.Presence, master func(uuid.UUID) string) *owners {
	return &owners{presence: p, master: master, unreachable: map[string]uuid.UUID{}}
}

// ours reports whether this worker owns the product. It also does while
// it is in no list, and if no worker reaches the product's master.
func (o *owners) ours(product uuid.UUID) bool {
	if o.presence == nil {
		return true
	}
	me := o.presence.ID()
	workers, _ := o.presence.Workers()
	owner, found := presence.Owner(workers, product, o.master(product))
	return !found || me == 0 || owner == me
}

// changed is closed when the live workers change; it is nil, and blocks forever, if there
// is no list.
func (o *owners) changed() <-chan struct{} {
	if o.presence == nil {
		return nil
	}
	_, changed := o.presence.Workers()
	return changed
}

// turned records that a master cannot be reached, or can be reached again.
func (o *owners) turned(master string, product uuid.UUID, open bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if open {
		o.unreachable[master] = product
	} else {
		delete(o.unreachable, master)
	}
	o.publish()
}

// publish updates the list. The caller holds mu.
func (o *owners) publish() {
	if o.presence != nil {
		o.presence.SetUnreachable(slices.Sorted(maps.Keys(o.unreachable)))
	}
}

const (
	// reachInterval is how often unreachable masters are probed.
	reachInterval = time.Second
	reachTimeout  = 2 * time.Second
)

// keepTrying detects when masters can be reached again: other workers own their
// products meanwhile.
func (w *Worker) keepTrying(ctx context.Context) error {
	for range sleep.After(ctx, reachInterval) {
		w.owners.mu.Lock()
		tried := maps.Clone(w.owners.unreachable)
		w.owners.mu.Unlock()
		var tries sync.WaitGroup
		for master, product := range tried {
			tries.Go(func() {
				defer guard.Log("end slots of an owner")
				trying, cancel := context.WithTimeout(ctx, reachTimeout)
				defer cancel()
				_, err := w.gate.State(trying, product)
				if err == nil || w.gate.Master(product) != master {
					w.owners.turned(master, product, false)
				}
			})
		}
		tries.Wait()
	}
	return nil
}
