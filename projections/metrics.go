package projections

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/internal/telemetry"
)

type metrics struct {
	events       *prometheus.CounterVec
	batchSeconds *prometheus.HistogramVec
	batchEvents  *prometheus.HistogramVec
	visible      *prometheus.HistogramVec
	gapEvents    *prometheus.CounterVec
	duplicates   *prometheus.CounterVec
	parked       *prometheus.CounterVec
	fenced       *prometheus.CounterVec
	lag          *prometheus.GaugeVec
	stalled      *prometheus.GaugeVec
	undecodable  prometheus.Counter
	foreign      prometheus.Counter
	blocked      prometheus.Gauge
}

// newMetrics registers the metrics with reg, which may be nil.
func newMetrics(reg prometheus.Registerer) *metrics {
	const subsystem = "projector"
	labels := []string{"projection"}
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: name, Help: help, Buckets: buckets}, labels)
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: name, Help: help}, labels)
	}
	m := &metrics{
		lag:     gauge("lag_events", "Events in the store that the projection has not applied yet, measured once a second."),
		stalled: gauge("stalled_seconds", "Time since the projection last made progress while it is behind, or its progress cannot be read; 0 if it is not behind."),
		blocked: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: "blocked",
			Help: "1 while the projector is blocked and applies nothing; /health/ready has the reason."}),
		foreign: prometheus.NewCounter(prometheus.CounterOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: "foreign_records_total",
			Help: "Records skipped because the event store does not have their event (lost history, or forged)."}),
		events:       counter("events_total", "Events applied, parked or passed over."),
		batchSeconds: histogram("batch_seconds", "Time of one batch's transaction, attempts included.", prometheus.DefBuckets),
		batchEvents:  histogram("batch_events", "Events of one batch.", prometheus.ExponentialBuckets(1, 4, 7)),
		visible:      histogram("visible_seconds", "From when a batch's last event was recorded to when its rows were committed.", prometheus.DefBuckets),
		gapEvents:    counter("gap_events_total", "Events that were missing in the topic's order and were read from the event store."),
		duplicates:   counter("duplicate_records_total", "Records of events that were applied before."),
		parked:       counter("parked_events_total", "Events parked because they, or one before them, could not be applied."),
		fenced:       counter("fenced_batches_total", "Batches refused because another process had moved the checkpoint."),
		undecodable: prometheus.NewCounter(prometheus.CounterOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: "undecodable_records_total",
			Help: "Records whose value could not be decoded."}),
	}
	if reg != nil {
		reg.MustRegister(m.events, m.batchSeconds, m.batchEvents, m.visible, m.gapEvents, m.duplicates, m.parked, m.fenced, m.undecodable, m.foreign, m.blocked, m.lag, m.stalled)
	}
	return m
}

func (m *metrics) batch(projection string, items []item, took time.Duration) {
	if len(items) == 0 {
		return
	}
	m.events.WithLabelValues(projection).Add(float64(len(items)))
	m.batchSeconds.WithLabelValues(projection).Observe(took.Seconds())
	m.batchEvents.WithLabelValues(projection).Observe(float64(len(items)))
	if last := items[len(items)-1]; !last.env.RecordedAt.IsZero() {
		m.visible.WithLabelValues(projection).Observe(time.Since(last.env.RecordedAt).Seconds())
	}
}
