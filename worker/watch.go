package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/redis"
)

const (
	// watchEvery is how often the gates that decide are looked at: their decision
	// logs are at most two seconds behind them.
	watchEvery = time.Second
	// settleAfter is how long a grant may be on its way; it is withdrawn within
	// 15 s of its making.
	settleAfter = 10 * time.Second
	// settleMost is how many grants of a product are settled in one go.
	settleMost = 1000
	// watchFor is how long after its last lease a gate is looked at: longer than
	// a grant can be on its way unsettled, and than it takes until an idle log is
	// noted as carried.
	watchFor = 30 * time.Second
	// lookWithin bounds the look at one gate, so that one that hangs holds up no
	// other for long.
	lookWithin = 3 * time.Second
)

// watched are the products whose gates have something that is not settled:
// grants on their way, lines that were not carried.
type watched struct {
	mu  sync.Mutex
	ids map[uuid.UUID]struct{}
}

func newWatched() *watched { return &watched{ids: make(map[uuid.UUID]struct{})} }

func (w *watched) add(products ...uuid.UUID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range products {
		w.ids[p] = struct{}{}
	}
}

func (w *watched) remove(product uuid.UUID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.ids, product)
}

func (w *watched) list() []uuid.UUID {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.ids))
}

// watch carries the decision logs and settles grants whose append never came.
// Gates that have not decided for a while cost nothing.
func (w *Worker) watch(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		began := time.Now()
		leased, err := w.cfg.Claims.Leased(ctx, watchFor)
		if err != nil {
			return err
		}
		w.watched.add(leased...)
		deciding := make(map[uuid.UUID]struct{}, len(leased))
		for _, p := range leased {
			deciding[p] = struct{}{}
		}
		all := w.watched.list()
		each(all, func(p uuid.UUID) {
			_, decides := deciding[p]
			settled, err := w.look(ctx, p, !decides)
			if err != nil && ctx.Err() == nil {
				w.metrics.failures.WithLabelValues("watch").Inc()
				w.warn(ctx, "looking at a gate failed, trying again", "product", p, "error", err)
			}
			if settled {
				w.watched.remove(p)
			}
		})
		w.metrics.watched.Set(float64(len(all)))
		w.metrics.watchSeconds.Observe(time.Since(began).Seconds())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// look carries the product's log and withdraws what has been on its way for too
// long. settled, which only a gate that is idle can be: there is nothing left to
// come back for.
func (w *Worker) look(ctx context.Context, product uuid.UUID, idle bool) (settled bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	if err := w.gate.Ship(ctx, product); err != nil {
		return false, err
	}
	w.metrics.carried.Inc()
	old, err := w.gate.Pending(ctx, product, settleAfter, settleMost)
	if err != nil {
		return false, err
	}
	if len(old) > 0 {
		return false, w.settle(ctx, product, old)
	}
	if !idle {
		return false, nil
	}
	left, err := w.gate.Pending(ctx, product, 0, 1)
	return err == nil && len(left) == 0, err
}

// settle withdraws grants.
func (w *Worker) settle(ctx context.Context, product uuid.UUID, old []redis.PendingGrant) error {
	errs := make([]error, len(old))
	var group sync.WaitGroup
	for i, grant := range old { // at the same time: they share a batch
		group.Go(func() { errs[i] = w.withdraw(ctx, grant) })
	}
	group.Wait()
	w.feeder.mark(product)
	return errors.Join(errs...)
}

func (w *Worker) withdraw(ctx context.Context, grant redis.PendingGrant) error {
	ctx, span := begin(ctx, "WithdrawGrant")
	defer span.End()
	withdrawn := domain.GrantWithdrawn{ArrivalSequence: grant.Number, Unit: grant.Unit, SlotID: grant.SlotID()}
	events, err := encode(ctx, withdrawn)
	if err != nil {
		return fmt.Errorf("withdraw number %d: %w", grant.Number, err)
	}
	if err := w.cfg.Claims.Settle(ctx, patient{w.cfg.Store}, grant, events[0]); err != nil {
		return err
	}
	w.metrics.settled.Inc()
	w.log.InfoContext(ctx, "a grant whose append never came is settled", "product", grant.Product, "number", grant.Number)
	return nil
}
