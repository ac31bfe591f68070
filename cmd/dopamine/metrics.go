package main

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/telemetry"
	"github.com/dopaminestore/dopamine/redis"
)

// observeBatches counts what the event store appends.
func observeBatches(r prometheus.Registerer) func(eventstore.Batch) {
	m := telemetry.NewMetrics(r, "store")
	appends := m.Histogram("batch_appends", "Appends in one transaction, the refused ones included.", telemetry.SizeBuckets)
	took := m.Histogram("batch_seconds", "Duration of one append transaction.", telemetry.DurationBuckets)
	events := m.Counter("events_total", "Events appended by this process.")
	return func(b eventstore.Batch) {
		appends.Observe(float64(b.Appends))
		took.Observe(b.Took.Seconds())
		events.Add(float64(b.Events))
	}
}

type gateMetrics struct {
	took     *prometheus.HistogramVec
	requests *prometheus.HistogramVec
	failed   *prometheus.CounterVec
	rebuilt  *prometheus.CounterVec
	epoch    prometheus.Gauge
	highest  atomic.Int64
}

// newGateMetrics counts what the gate does.
func newGateMetrics(r prometheus.Registerer) redis.Observer {
	f := telemetry.NewMetrics(r, "gate")
	m := &gateMetrics{
		took:     f.Histograms("call_seconds", "Duration of one call of the gate, by script; lease and rebuild included.", telemetry.DurationBuckets, "script"),
		requests: f.Histograms("call_requests", "Requests decided by one call.", telemetry.SizeBuckets, "script"),
		failed:   f.Counters("failures_total", "Calls that failed, by script.", "script"),
		rebuilt:  f.Counters("rebuilds_total", "Gates built, by reason: first for a product that had none before, lost for one that lost its data.", "reason"),
		epoch:    f.Gauge("epoch_max", "The highest epoch that this process raised a product's gate to; the maximum is 900000."),
	}
	for _, reason := range []string{"first", "lost"} {
		m.rebuilt.WithLabelValues(reason)
	}
	return m
}

func (m *gateMetrics) note(script string, took time.Duration, err error) {
	m.took.WithLabelValues(script).Observe(took.Seconds())
	if err != nil {
		m.failed.WithLabelValues(script).Inc()
	}
}

// Called implements redis.Observer.
func (m *gateMetrics) Called(script string, requests int, took time.Duration, err error) {
	m.note(script, took, err)
	m.requests.WithLabelValues(script).Observe(float64(requests))
}

// Renewed implements redis.Observer.
func (m *gateMetrics) Renewed(took time.Duration, err error) { m.note("lease", took, err) }

// Rebuilt implements redis.Observer.
func (m *gateMetrics) Rebuilt(took time.Duration, first bool, err error) {
	m.note("rebuild", took, err)
	if err != nil {
		return
	}
	reason := "lost"
	if first {
		reason = "first"
	}
	m.rebuilt.WithLabelValues(reason).Inc()
}

// Raised implements redis.Observer.
func (m *gateMetrics) Raised(epoch int64) {
	for highest := m.highest.Load(); epoch > highest; highest = m.highest.Load() {
		if m.highest.CompareAndSwap(highest, epoch) {
			m.epoch.Set(float64(epoch))
			return
		}
	}
}
