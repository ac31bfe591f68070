package gateway

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/internal/telemetry"
)

const subsystem = "gateway"

type metrics struct {
	calls    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	register func(...prometheus.Collector)
}

// newMetrics registers with reg, which may be nil.
func newMetrics(reg prometheus.Registerer) *metrics {
	f := telemetry.NewMetrics(reg, subsystem)
	m := &metrics{
		calls: f.Counters("calls_total",
			"Calls to the payment gateway, by call and outcome: ok, rejected, unknown (reference), not-sent, credentials, failed.", "call", "outcome"),
		duration: f.Histograms("call_seconds", "Duration of calls to the payment gateway.", telemetry.DurationBuckets, "call"),
		register: func(...prometheus.Collector) {},
	}
	if reg != nil {
		m.register = reg.MustRegister
	}
	// So that the alert about refused credentials has a first value to compare with.
	for call := range concurrency {
		m.calls.WithLabelValues(string(call), "credentials")
	}
	return m
}

// watch exports whether a breaker is open. It is read at each scrape: the last change of a breaker
// may be long ago in a process that makes no further calls.
func (m *metrics) watch(call Call, k *kind) {
	m.register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: "breaker_open",
		Help: "1 while the circuit breaker of a kind of call to the payment gateway is open, until calls succeed or none was made for a minute.", ConstLabels: prometheus.Labels{"call": string(call)}},
		func() float64 {
			if k.leftAlone(time.Now()) {
				return 1
			}
			return 0
		}))
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
