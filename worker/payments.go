package worker

import (
	"context"
	"sync"
	"time"

	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/internal/guard"
)

const (
	// payEvery is how often it is looked at what is due of payments.
	payEvery = 250 * time.Millisecond
	// paymentsMost is how many steps one look finds at most.
	paymentsMost = 256
	// paymentsAtOnce: a gateway that is slow to answer must not hold up the rest.
	paymentsAtOnce = 64
	// stepWithin bounds one step: the gateway's answer and what follows from it.
	stepWithin = 30 * time.Second
	// purgeEvery is how often old keys and ids are forgotten.
	purgeEvery = 10 * time.Minute
)

// pay takes the steps that are due of payments: asks the gateway for money and
// about it, and gives it back.
func (w *Worker) pay(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	places := make(chan struct{}, paymentsAtOnce)
	tick := time.NewTicker(payEvery)
	defer tick.Stop()
	for {
		jobs, err := w.cfg.Payments.Due(ctx, paymentsMost)
		if err != nil {
			return err
		}
		w.metrics.jobsDue.Set(float64(len(jobs)))
		for _, job := range jobs {
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			running.Go(func() {
				defer guard.Log("take a step of a payment")
				defer func() { <-places }()
				w.step(ctx, job)
			})
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// step takes one. A job that another look finds again before this one has taken
// it does nothing the second time.
func (w *Worker) step(ctx context.Context, job payments.Job) {
	name := "AskGateway"
	if job.Step == payments.Refund {
		name = "Refund"
	}
	ctx, cancel := context.WithTimeout(ctx, stepWithin)
	defer cancel()
	ctx, span := begin(ctx, name)
	defer span.End()
	start := time.Now()
	err := w.cfg.Payments.Do(ctx, job)
	w.metrics.jobSeconds.WithLabelValues(name).Observe(time.Since(start).Seconds())
	if err != nil {
		w.metrics.failures.WithLabelValues(name).Inc()
		w.warn(ctx, "a payment's next step failed, it comes up again", "step", name, "payment", job.Payment, "error", err)
	}
}

// purge forgets what needs not be remembered any longer.
func (w *Worker) purge(ctx context.Context) error {
	tick := time.NewTicker(purgeEvery)
	defer tick.Stop()
	for {
		if err := w.cfg.Payments.Purge(ctx); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
