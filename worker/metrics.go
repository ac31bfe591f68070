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
	overdue      *prometheus.GaugeVec
	jobsDue      *prometheus.GaugeVec
	jobSeconds   *prometheus.HistogramVec
}

// newMetrics registers the metrics with reg, which may be nil.
func newMetrics(reg prometheus.Registerer) *metrics {
	m := telemetry.NewMetrics(reg, "worker")
	all := &metrics{
		failures:     m.Counters("failures_total", "Failures that are retried, by loop.", "loop"),
		position:     m.Gauge("position", "Position in the log up to which the affected gates were scheduled for a sync."),
		fed:          m.Histogram("feed_seconds", "Time to sync one gate.", telemetry.DurationBuckets),
		watched:      m.Gauge("watched_gates", "Gates that decided recently or have decisions that are not stored."),
		watchSeconds: m.Histogram("watch_seconds", "Time of one pass over all watched gates: logs shipped, grants withdrawn.", telemetry.DurationBuckets),
		carried:      m.Counter("logs_carried_total", "Shipments of a gate's decision log."),
		settled:      m.Counter("grants_settled_total", "Withdrawn grants, because they were never appended."),
		differing:    m.Gauge("differing_gates", "Gates whose counts differed from the claims when they were last compared."),
		swept:        m.Counters("slots_total", "Slots that were expired, warned of, or ended with a payment that timed out.", "sweep"),
		conflicts:    m.Counters("slot_conflicts_total", "Slots whose event lost a race with another event.", "sweep"),
		lateness:     m.Histograms("lateness_seconds", "Delay between the due time of a slot's event and the event.", telemetry.DurationBuckets, "sweep"),
		overdue:      m.Gauges("overdue_seconds", "Age of the oldest slot that is due and has not ended, in seconds; while it cannot be read, it grows. 0 if none is due.", "sweep"),
		jobsDue:      m.Gauges("payment_steps_due", "Steps of payments that were due when they were last listed, up to the size of a list.", "step"),
		jobSeconds:   m.Histograms("payment_step_seconds", "Time of a payment step, including the gateway's.", telemetry.DurationBuckets, "step"),
	}
	// An alert on a rate would not notice the first values of a metric that did not exist before.
	for _, name := range []string{sweepExpiry, sweepWarning, sweepPaymentTimeout} {
		all.swept.WithLabelValues(name)
		all.conflicts.WithLabelValues(name)
		all.lateness.WithLabelValues(name)
	}
	return all
}
