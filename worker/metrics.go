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

// newMetrics registers the metrics with reg, which may be nil.
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
		failures:     counters("failures_total", "loop", "Failures that are retried, by loop."),
		position:     gauge("position", "Position in the log up to which the affected gates were scheduled for a sync."),
		fed:          seconds("feed_seconds", "Time to sync one gate."),
		watched:      gauge("watched_gates", "Gates that decided recently or have decisions that are not stored."),
		watchSeconds: seconds("watch_seconds", "Time of one pass over all watched gates: logs shipped, grants withdrawn."),
		carried:      counter("logs_carried_total", "Shipments of a gate's decision log."),
		settled:      counter("grants_settled_total", "Withdrawn grants, because they were never appended."),
		differing:    gauge("differing_gates", "Gates whose counts differed from the claims when they were last compared."),
		swept:        counters("slots_total", "sweep", "Slots that were expired, warned of, or ended with a payment that timed out."),
		conflicts:    counters("slot_conflicts_total", "sweep", "Slots whose event lost a race with another event."),
		lateness:     histograms("lateness_seconds", "sweep", "Delay between the due time of a slot's event and the event."),
		jobsDue: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: "payment_steps_due",
			Help: "Steps of payments that were due when they were last listed, up to the size of a list."}, []string{"step"}),
		jobSeconds: histograms("payment_step_seconds", "step", "Time of a payment step, including the gateway's."),
	}
	if reg != nil {
		reg.MustRegister(m.failures, m.position, m.fed, m.watched, m.watchSeconds, m.carried, m.settled, m.differing,
			m.swept, m.conflicts, m.lateness, m.jobsDue, m.jobSeconds)
	}
	return m
}
