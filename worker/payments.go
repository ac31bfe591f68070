package worker

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/sleep"
)

const (
	// stepInterval is how often due steps are listed.
	stepInterval = 250 * time.Millisecond
	// maxSteps is how many steps of a kind one list contains at most.
	maxSteps = 256
	// stepConcurrency is how many steps of a kind run at a time. Each kind has
	// its own limit, so that a gateway that is slow with one delays no other.
	stepConcurrency = 64
	// stepTimeout bounds one step: the gateway's response and its effects.
	stepTimeout = 30 * time.Second
	// purgeInterval is how often old keys and ids are deleted.
	purgeInterval = 10 * time.Minute
	// observeInterval is how often payments that need an operator are counted.
	observeInterval = 15 * time.Second
)

// pay executes the due steps of a kind: it posts payments and refunds, queries
// the gateway about them, and has payments cancelled.
func (w *Worker) pay(ctx context.Context, step payments.Step) error {
	return w.repeat(ctx, stepConcurrency, func() ([]uuid.UUID, error) {
		due, err := w.cfg.Payments.Due(ctx, step, maxSteps)
		w.metrics.jobsDue.WithLabelValues(string(step)).Set(float64(len(due)))
		return due, err
	}, func(id uuid.UUID) { w.step(ctx, step, id) })
}

// repeat lists due ids and handles them, a bounded number at a time. An id that
// is listed again before it was handled is not started twice.
func (w *Worker) repeat(ctx context.Context, concurrency int, list func() ([]uuid.UUID, error), do func(uuid.UUID)) error {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, concurrency)
	var inFlight sync.Map
	for range sleep.Every(ctx, stepInterval) {
		due, err := list()
		if err != nil {
			return err
		}
		for _, id := range due {
			if _, started := inFlight.LoadOrStore(id, nil); started {
				continue
			}
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			running.Go(func() {
				defer guard.Log("take a step of a payment")
				defer func() {
					inFlight.Delete(id)
					<-slots
				}()
				do(id)
			})
		}
	}
	return ctx.Err()
}

// step executes one step. If another list contains a job again before it was executed, the
// second execution does nothing.
func (w *Worker) step(ctx context.Context, step payments.Step, id uuid.UUID) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	ctx, span := begin(ctx, string(step))
	defer span.End()
	start := time.Now()
	err := w.cfg.Payments.Do(ctx, step, id)
	w.metrics.jobSeconds.WithLabelValues(string(step)).Observe(time.Since(start).Seconds())
	if err != nil {
		w.metrics.failures.WithLabelValues(string(step)).Inc()
		w.warn(ctx, "payment step failed, retrying", "step", step, "id", id, "error", err)
	}
}

// saleConcurrency is how many slots, or purchases, of cancelled sales are ended at
// a time. It leaves room in the append queue for buyers of other products.
const saleConcurrency = 16

// endSlots expires the slots of cancelled sales. The remaining work follows from
// the tables, so that another worker continues after a crash.
func (w *Worker) endSlots(ctx context.Context) error {
	return w.repeat(ctx, saleConcurrency, func() ([]uuid.UUID, error) {
		return w.cfg.Payments.CancelledSlots(ctx, maxSteps)
	}, func(slot uuid.UUID) {
		ctx, span := begin(ctx, "EndCancelled")
		defer span.End()
		product, err := w.cfg.Payments.EndCancelled(ctx, slot)
		if err != nil {
			w.metrics.failures.WithLabelValues("EndCancelled").Inc()
			w.warn(ctx, "slot of a cancelled sale not expired, retrying", "slot", slot, "error", err)
			return
		}
		w.syncer.mark(product)
	})
}

// refundSales makes the refunds of cancelled sales' purchases due, including those that
// succeed later.
func (w *Worker) refundSales(ctx context.Context) error {
	return w.repeat(ctx, saleConcurrency, func() ([]uuid.UUID, error) {
		return w.cfg.Payments.CancelledPurchases(ctx, maxSteps)
	}, func(payment uuid.UUID) {
		ctx, span := begin(ctx, "RefundCancelled")
		defer span.End()
		if err := w.cfg.Payments.RefundCancelled(ctx, payment); err != nil {
			w.metrics.failures.WithLabelValues("RefundCancelled").Inc()
			w.warn(ctx, "purchase of a cancelled sale not refunded, retrying", "payment", payment, "error", err)
		}
	})
}

// observe counts payments that need an operator.
func (w *Worker) observe(ctx context.Context) error {
	for range sleep.Every(ctx, observeInterval) {
		if err := w.cfg.Payments.Observe(ctx); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// purge deletes data that is no longer needed.
func (w *Worker) purge(ctx context.Context) error {
	for range sleep.Every(ctx, purgeInterval) {
		if err := w.cfg.Payments.Purge(ctx); err != nil {
			return err
		}
	}
	return ctx.Err()
}
