package relay

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/internal/telemetry"
)

type metrics struct {
	published    prometheus.Counter
	failedChunks prometheus.Counter
	unencodable  prometheus.Counter
	chunkSeconds prometheus.Histogram
	position     prometheus.Gauge
	lag          prometheus.Gauge
	stalled      prometheus.Gauge
	blocked      prometheus.Gauge
	leading      prometheus.Gauge
}

// newMetrics registers the metrics with reg, which may be nil.
func newMetrics(reg prometheus.Registerer) *metrics {
	const subsystem = "relay"
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: telemetry.Namespace, Subsystem: subsystem, Name: name, Help: help})
	}
	m := &metrics{
		published:    counter("published_events_total", "Events that Kafka has acknowledged."),
		failedChunks: counter("failed_chunks_total", "Chunks that were not acknowledged completely and were retried."),
		unencodable:  counter("unencodable_events_total", "Events published without a value because they could not be encoded."),
		chunkSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: telemetry.Namespace, Subsystem: subsystem, Name: "chunk_seconds",
			Help: "Time from sending a chunk to its saved checkpoint.", Buckets: prometheus.DefBuckets,
		}),
		position: gauge("position", "Position up to which everything is in the topic."),
		lag:      gauge("lag_events", "Events in the store that are not in the topic yet; measured by every relay, once a second."),
		stalled:  gauge("stalled_seconds", "Seconds since the checkpoint last moved while events were waiting; 0 if none are."),
		blocked:  gauge("blocked", "1 while this relay publishes nothing until an operator acts; its log and /health/ready contain the reason."),
		leading:  gauge("leading", "1 while this process is the leading relay."),
	}
	if reg != nil {
		reg.MustRegister(m.published, m.failedChunks, m.unencodable, m.chunkSeconds, m.position, m.lag, m.stalled, m.blocked, m.leading)
	}
	return m
}
