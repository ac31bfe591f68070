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
	appends := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: telemetry.Namespace, Subsystem: "store",
		Name: "batch_appends", Help: "Appends in one transaction, the refused ones included.", Buckets: telemetry.SizeBuckets})
	took := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: telemetry.Namespace, Subsystem: "store",
		Name: "batch_seconds", Help: "Duration of one append transaction.", Buckets: telemetry.DurationBuckets})
	events := prometheus.NewCounter(prometheus.CounterOpts{Namespace: telemetry.Namespace, Subsystem: "store",
		Name: "events_total", Help: "Events appended by this process."})
	r.MustRegister(appends, took, events)
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
	m := &gateMetrics{
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: telemetry.Namespace, Subsystem: "gate",
			Name: "call_seconds", Help: "Duration of one call of the gate, by script; lease and rebuild included.", Buckets: telemetry.DurationBuckets}, []string{"script"}),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: telemetry.Namespace, Subsystem: "gate",
			Name: "call_requests", Help: "Requests decided by one call.", Buckets: telemetry.SizeBuckets}, []string{"script"}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: telemetry.Namespace, Subsystem: "gate",
			Name: "failures_total", Help: "Calls that failed, by script."}, []string{"script"}),
	}
	m.rebuilt = prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: telemetry.Namespace, Subsystem: "gate",
		Name: "rebuilds_total", Help: "Gates built, by reason: first for a product that had none before, lost for one that lost its data."}, []string{"reason"})
	m.epoch = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: telemetry.Namespace, Subsystem: "gate",
		Name: "epoch_max", Help: "The highest epoch that this process raised a product's gate to; the maximum is 900000."})
	for _, reason := range []string{"first", "lost"} {
		m.rebuilt.WithLabelValues(reason)
	}
	r.MustRegister(m.took, m.requests, m.failed, m.rebuilt, m.epoch)
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
