package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/problem"
	"github.com/dopaminestore/dopamine/internal/telemetry"
)

// refusalLogInterval is the minimum time between two log messages about refusals of one kind and
// reason: an attacker, or a secret that was replaced on one side only, sends thousands per second.
const refusalLogInterval = time.Minute

// Kinds of refused credentials.
const (
	refusedToken    = "token"
	refusedCallback = "callback"
)

// refusals counts and logs requests whose token or signature was refused. Neither contains
// anything that the request contained.
type refusals struct {
	log     *slog.Logger
	now     func() time.Time
	counter *prometheus.CounterVec

	mu     sync.Mutex
	bursts map[refusedReason]*refusalBurst
}

type refusedReason struct{ kind, reason string }

// refusalBurst is what happened since the last log message.
type refusalBurst struct {
	logged time.Time
	more   int
}

func newRefusals(r prometheus.Registerer, log *slog.Logger, now func() time.Time) *refusals {
	f := &refusals{log: log, now: now, bursts: map[refusedReason]*refusalBurst{},
		counter: telemetry.NewMetrics(r, "http").Counters("refused_credentials_total",
			"Requests whose token or signature was refused, by kind (token, callback) and reason.", "kind", "reason")}
	for _, reason := range []string{telemetry.RefusedSignature, telemetry.RefusedTimestamp} {
		f.counter.WithLabelValues(refusedCallback, reason) // 0 until the first, so that an increase is seen
	}
	return f
}

// note counts a 401. A request without a token is no refusal: every client sends one.
func (f *refusals) note(ctx context.Context, route string, err error) {
	key := refusedReason{refusedToken, ""}
	var p *problem.Error
	switch {
	case errors.As(err, &p) && p.Slug() == problem.InvalidSignature:
		key = refusedReason{refusedCallback, callbackReason(err)}
	case errors.Is(err, auth.ErrToken):
		key.reason = auth.Reason(err)
	case errors.Is(err, errHeader):
		key.reason = auth.ReasonMalformed
	default:
		return
	}
	f.counter.WithLabelValues(key.kind, key.reason).Inc()
	f.mu.Lock()
	b := f.bursts[key]
	if b == nil {
		b = &refusalBurst{}
		f.bursts[key] = b
	}
	now := f.now()
	if !b.logged.IsZero() && now.Sub(b.logged) < refusalLogInterval {
		b.more++
		f.mu.Unlock()
		return
	}
	suppressed := b.more
	b.logged, b.more = now, 0
	f.mu.Unlock()
	f.log.WarnContext(ctx, "credentials refused", "kind", key.kind, "reason", key.reason, "route", route, "unlogged_before", suppressed)
}

// callbackReason returns why a callback was refused, as its parser reports it.
func callbackReason(err error) string {
	var r interface{ RefusalReason() string }
	if errors.As(err, &r) {
		return r.RefusalReason()
	}
	return telemetry.RefusedSignature
}
