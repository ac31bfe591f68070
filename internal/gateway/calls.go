package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/otel/trace"

	"github.com/dopaminestore/dopamine/internal/telemetry"
)

// Call is a kind of call; each has its own concurrency and circuit breaker.
type Call string

// The kinds of calls, as metrics and spans name them.
const (
	CallPay         Call = "pay"
	CallFindPayment Call = "find_payment"
	CallCancel      Call = "cancel"
	CallRefund      Call = "refund"
	CallFindRefund  Call = "find_refund"
)

// concurrency is the number of calls of each kind in flight in one process.
// Payments are started by buyers, the rest by the worker.
var concurrency = map[Call]int{
	CallPay:         256,
	CallFindPayment: 64,
	CallCancel:      32,
	CallRefund:      32,
	CallFindRefund:  32,
}

const (
	// breakerFailures consecutive failures within breakerInterval open a breaker
	// for breakerTimeout; then breakerTrials calls are tried.
	breakerFailures = 10
	breakerInterval = 30 * time.Second
	breakerTimeout  = 3 * time.Second
	breakerTrials   = 5
	// breakerMemory is how long the metric shows an open breaker if no call has tried the gateway
	// since.
	breakerMemory = time.Minute
)

// Calls limits, measures and traces the calls of an adapter. It never retries.
// Safe for concurrent use.
type Calls struct {
	timeout time.Duration
	metrics *metrics
	kinds   map[Call]*kind
}

type kind struct {
	slots   chan struct{}
	breaker *gobreaker.CircuitBreaker[struct{}]
	opened  atomic.Int64 // Unix time in nanoseconds
}

// leftAlone reports whether the gateway is not called, or was not when it was last tried. After
// breakerMemory without a call nothing is known.
func (k *kind) leftAlone(now time.Time) bool {
	return k.breaker.State() != gobreaker.StateClosed && now.Sub(time.Unix(0, k.opened.Load())) < breakerMemory
}

// NewCalls returns Calls that bound each call by timeout. registerer may be nil.
func NewCalls(timeout time.Duration, registerer prometheus.Registerer, logger *slog.Logger) *Calls {
	c := &Calls{timeout: timeout, metrics: newMetrics(registerer), kinds: make(map[Call]*kind, len(concurrency))}
	for name, limit := range concurrency {
		k := &kind{slots: make(chan struct{}, limit)}
		k.breaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
			Name:         string(name),
			MaxRequests:  breakerTrials,
			Interval:     breakerInterval,
			Timeout:      breakerTimeout,
			ReadyToTrip:  func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= breakerFailures },
			IsSuccessful: answered,
			IsExcluded:   func(err error) bool { return errors.Is(err, errCallerGone) },
			OnStateChange: func(_ string, _, to gobreaker.State) {
				if to == gobreaker.StateOpen {
					k.opened.Store(time.Now().UnixNano())
				}
				logger.Warn("payment gateway circuit breaker changed", "call", string(name), "state", to.String())
			},
		})
		c.kinds[name] = k
		c.metrics.watch(name, k)
	}
	return c
}

// errCallerGone marks a call that its caller cancelled, which is no evidence about the gateway.
var errCallerGone = errors.New("gateway: caller gone")

// answered reports whether the gateway worked, regardless of its decision.
func answered(err error) bool {
	var rejected *Rejected
	return err == nil || errors.As(err, &rejected) || errors.Is(err, ErrUnknownReference)
}

// Do runs f once, or returns ErrNotSent. A payment does not wait for a call in
// use to end, since a buyer waits for it and the worker posts it later; the
// others wait until ctx ends.
func (c *Calls) Do(ctx context.Context, call Call, f func(context.Context) error) error {
	ctx, span := telemetry.Start(ctx, "gateway."+string(call), trace.WithSpanKind(trace.SpanKindClient))
	start := time.Now()
	err := c.run(ctx, call, f)
	c.metrics.done(call, err, time.Since(start))
	if answered(err) {
		telemetry.End(span, nil)
	} else {
		telemetry.End(span, err)
	}
	return err
}

func (c *Calls) run(ctx context.Context, call Call, f func(context.Context) error) error {
	k := c.kinds[call]
	if k.breaker.State() == gobreaker.StateOpen {
		return ErrNotSent
	}
	if err := k.enter(ctx, call != CallPay); err != nil {
		return err
	}
	defer func() { <-k.slots }()
	_, err := k.breaker.Execute(func() (struct{}, error) {
		bounded, cancel := context.WithTimeout(ctx, c.timeout)
		defer cancel()
		err := f(bounded)
		if err != nil && ctx.Err() != nil && !answered(err) {
			err = errors.Join(errCallerGone, err)
		}
		return struct{}{}, err
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return ErrNotSent
	}
	return err
}

func (k *kind) enter(ctx context.Context, wait bool) error {
	select {
	case k.slots <- struct{}{}:
		return nil
	default:
	}
	if !wait {
		return ErrNotSent
	}
	select {
	case k.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrNotSent, ctx.Err())
	}
}
