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
	m := &metrics{
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: telemetry.Namespace, Subsystem: subsystem,
			Name: "failures_total", Help: "What failed and is tried again, by what it was for."}, []string{"loop"}),
		position:     gauge("position", "Position in the log up to which the gates concerned were marked for feeding."),
		fed:          seconds("feed_seconds", "Time to tell one gate what happened."),
		watched:      gauge("watched_gates", "Gates that decided lately or have something unsettled."),
		watchSeconds: seconds("watch_seconds", "Time to look once at all watched gates: logs carried, grants settled."),
		carried:      counter("logs_carried_total", "Times that a gate's decision log was carried."),
		settled:      counter("grants_settled_total", "Grants whose append never came and that were withdrawn."),
		differing:    gauge("differing_gates", "Gates whose counts differed from the claims when they were last compared."),
	}
	if reg != nil {
		reg.MustRegister(m.failures, m.position, m.fed, m.watched, m.watchSeconds, m.carried, m.settled, m.differing)
	}
	return m
}
