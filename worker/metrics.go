package worker

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/internal/telemetry"
)

type metrics struct {
	failures     *prometheus.CounterVec
	position     prometheus.Gauge
	fed          prometheus.Histogram
	watched      prometheus.Gauge
	watchSeconds prometheus.Histogram
	carried      prometheus.Counter
	settled      prometheus.Counter
	differing    prometheus.Gauge
	swept        *prometheus.CounterVec
	conflicts    *prometheus.CounterVec
	lateness     *prometheus.HistogramVec
	jobsDue      *prometheus.GaugeVec
	jobSeconds   *prometheus.HistogramVec
}

// newMetrics registers with reg, which may be nil.
func newMetrics(reg prometheus.Registerer) *metrics {
	const subsystem = "worker"
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: name, Help: help})
	}
	seconds := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: name,
			Help: help, Buckets: telemetry.DurationBuckets})
	}
	counters := func(name, label, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: name, Help: help}, []string{label})
	}
	histograms := func(name, label, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: name,
			Help: help, Buckets: telemetry.DurationBuckets}, []string{label})
	}
	m := &metrics{
		failures:     counters("failures_total", "loop", "What failed and is tried again, by what it was for."),
		position:     gauge("position", "Position in the log up to which the gates concerned were marked for feeding."),
		fed:          seconds("feed_seconds", "Time to tell one gate what happened."),
		watched:      gauge("watched_gates", "Gates that decided lately or have something unsettled."),
		watchSeconds: seconds("watch_seconds", "Time to look once at all watched gates: logs carried, grants settled."),
		carried:      counter("logs_carried_total", "Times that a gate's decision log was carried."),
		settled:      counter("grants_settled_total", "Grants whose append never came and that were withdrawn."),
		differing:    gauge("differing_gates", "Gates whose counts differed from the claims when they were last compared."),
		swept:        counters("slots_total", "sweep", "Slots that were expired, warned of, or ended with a payment that timed out."),
		conflicts:    counters("slot_conflicts_total", "sweep", "Slots to which something else happened first."),
		lateness:     histograms("lateness_seconds", "sweep", "How long after it was due something happened to a slot."),
		jobsDue: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: "payment_steps_due",
			Help: "Steps of payments that were due when they were last listed, up to the size of a list."}, []string{"step"}),
		jobSeconds: histograms("payment_step_seconds", "step", "Time that a step of a payment took, the gateway's included."),
	}
	if reg != nil {
		reg.MustRegister(m.failures, m.position, m.fed, m.watched, m.watchSeconds, m.carried, m.settled, m.differing,
			m.swept, m.conflicts, m.lateness, m.jobsDue, m.jobSeconds)
	}
	return m
}
