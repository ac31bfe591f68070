package gateway

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/internal/telemetry"
)

type metrics struct {
	calls *prometheus.CounterVec
	took  *prometheus.HistogramVec
	open  prometheus.Gauge
}

// newMetrics registers with reg, which may be nil.
func newMetrics(reg prometheus.Registerer) *metrics {
	const subsystem = "gateway"
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: "calls_total",
			Help: "Calls to the payment gateway, by call and outcome: ok, refused, unknown (payment), not-asked, failed."}, []string{"call", "outcome"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: "call_seconds",
			Help: "Time that calls to the payment gateway took.", Buckets: telemetry.DurationBuckets}, []string{"call"}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: "breaker_open",
			Help: "1 while the payment gateway is left alone because it failed too often."}),
	}
	if reg != nil {
		reg.MustRegister(m.calls, m.took, m.open)
	}
	return m
}

func (m *metrics) done(call string, err error, took time.Duration) {
	outcome := "failed"
	var refused *Refused
	switch {
	case err == nil:
		outcome = "ok"
	case errors.As(err, &refused):
		outcome = "refused"
	case errors.Is(err, ErrNeverHeardOf):
		outcome = "unknown"
	case errors.Is(err, ErrNotAsked):
		outcome = "not-asked"
	}
	m.calls.WithLabelValues(call, outcome).Inc()
	if outcome != "not-asked" {
		m.took.WithLabelValues(call).Observe(took.Seconds())
	}
}
