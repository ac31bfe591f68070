package gateway

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/internal/telemetry"
)

type metrics struct {
	calls    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	open     *prometheus.GaugeVec
}

// newMetrics registers with reg, which may be nil.
func newMetrics(reg prometheus.Registerer) *metrics {
	const subsystem = "gateway"
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: "calls_total",
			Help: "Calls to the payment gateway, by call and outcome: ok, rejected, unknown (reference), not-sent, credentials, failed."}, []string{"call", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: "call_seconds",
			Help: "Duration of calls to the payment gateway.", Buckets: telemetry.DurationBuckets}, []string{"call"}),
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: "breaker_open",
			Help: "1 while the circuit breaker of a kind of call to the payment gateway is open."}, []string{"call"}),
	}
	if reg != nil {
		reg.MustRegister(m.calls, m.duration, m.open)
	}
	// So that the alert about refused credentials has a first value to compare with.
	for call := range concurrency {
		m.calls.WithLabelValues(string(call), "credentials")
		m.open.WithLabelValues(string(call)).Set(0)
	}
	return m
}

func (m *metrics) done(call Call, err error, took time.Duration) {
	outcome := "failed"
	var rejected *Rejected
	switch {
	case err == nil:
		outcome = "ok"
	case errors.Is(err, ErrCredentials): // also a rejection that is one
		outcome = "credentials"
	case errors.As(err, &rejected):
		outcome = "rejected"
	case errors.Is(err, ErrUnknownReference):
		outcome = "unknown"
	case errors.Is(err, ErrNotSent):
		outcome = "not-sent"
	}
	m.calls.WithLabelValues(string(call), outcome).Inc()
	if outcome != "not-sent" {
		m.duration.WithLabelValues(string(call)).Observe(took.Seconds())
	}
}
