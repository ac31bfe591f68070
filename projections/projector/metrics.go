package projector

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/internal/telemetry"
	"github.com/dopaminestore/dopamine/projections"
)

// visibleBuckets extend the default ones beyond 10 s: a projector that catches up after an outage
// applies events that are minutes old.
var visibleBuckets = append(slices.Clone(prometheus.DefBuckets), 30, 60, 120, 300)

type metrics struct {
	events       *prometheus.CounterVec
	batchSeconds *prometheus.HistogramVec
	batchEvents  *prometheus.HistogramVec
	visible      *prometheus.HistogramVec
	gapEvents    *prometheus.CounterVec
	duplicates   *prometheus.CounterVec
	parked       *prometheus.CounterVec
	parkedKeys   *prometheus.GaugeVec
	fenced       *prometheus.CounterVec
	lag          *prometheus.GaugeVec
	stalled      *prometheus.GaugeVec
	undecodable  prometheus.Counter
	foreign      prometheus.Counter
	blocked      prometheus.Gauge
	failures     *prometheus.CounterVec
}

// newMetrics registers the metrics with reg, which may be nil. Counters of each projection begin at
// 0: an alert on an increase would not notice the first one of a counter that did not exist before.
func newMetrics(reg prometheus.Registerer, models []projections.Projection) *metrics {
	const label = "projection"
	m := telemetry.NewMetrics(reg, "projector")
	all := &metrics{
		lag:          m.Gauges("lag_events", "Events in the store that the projection has not applied yet, measured once a second.", label),
		stalled:      m.Gauges("stalled_seconds", "Time since the projection last made progress while it is behind, or its progress cannot be read; 0 if it is not behind.", label),
		blocked:      m.Gauge("blocked", "1 while the projector is blocked and applies nothing; /health/ready has the reason."),
		foreign:      m.Counter("foreign_records_total", "Records skipped because the event store does not have their event (lost history, or forged)."),
		events:       m.Counters("events_total", "Events applied, parked or skipped.", label),
		batchSeconds: m.Histograms("batch_seconds", "Time of one batch's transaction, attempts included.", prometheus.DefBuckets, label),
		batchEvents:  m.Histograms("batch_events", "Events of one batch.", prometheus.ExponentialBuckets(1, 4, 7), label),
		visible:      m.Histograms("visible_seconds", "From when a batch's last event was recorded to when its rows were committed.", visibleBuckets, label),
		gapEvents:    m.Counters("gap_events_total", "Events that were missing in the topic's order and were read from the event store.", label),
		duplicates:   m.Counters("duplicate_records_total", "Records of events that were applied before.", label),
		parked:       m.Counters("parked_events_total", "Events parked because they, or one before them, could not be applied.", label),
		parkedKeys:   m.Gauges("parked_keys", "Row keys whose events are parked in the live read model, measured once a second.", label),
		fenced:       m.Counters("fenced_batches_total", "Batches refused because another process had moved the checkpoint.", label),
		undecodable:  m.Counter("undecodable_records_total", "Records whose value could not be decoded."),
		failures:     m.Counters("failures_total", "Failures that interrupted the work on the topic and are retried, by the part that failed.", "part"),
	}
	for _, p := range models {
		for _, c := range []*prometheus.CounterVec{all.events, all.gapEvents, all.duplicates, all.parked, all.fenced} {
			c.WithLabelValues(p.Name())
		}
		all.parkedKeys.WithLabelValues(p.Name())
	}
	for _, part := range []string{partKafka, partEventStore, partReadModels, partSlow} {
		all.failures.WithLabelValues(part)
	}
	return all
}

// Parts that can fail.
const (
	partKafka      = "kafka"
	partEventStore = "event_store"
	partReadModels = "read_models"
	partSlow       = "read_models_timeout"
)

// partError is a failure of one part.
type partError struct {
	part string
	error
}

func (e *partError) Unwrap() error { return e.error }

// failedIn names the part that failed, unless err names one already. It returns nil if err is nil.
func failedIn(part string, err error) error {
	if err == nil || errors.As(err, new(*partError)) {
		return err
	}
	return &partError{part, err}
}

// failedPart returns the part that an error names. An error that names none is of the read database.
func failedPart(err error) string {
	part := partReadModels
	if named := (*partError)(nil); errors.As(err, &named) {
		part = named.part
	}
	if part == partReadModels && errors.Is(err, context.DeadlineExceeded) {
		return partSlow
	}
	return part
}

// failed counts a failure.
func (m *metrics) failed(err error) { m.failures.WithLabelValues(failedPart(err)).Inc() }

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
