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
	m := telemetry.NewMetrics(reg, "relay")
	return &metrics{
		published:    m.Counter("published_events_total", "Events that Kafka has acknowledged."),
		failedChunks: m.Counter("failed_chunks_total", "Chunks that were not acknowledged completely and were retried."),
		unencodable:  m.Counter("unencodable_events_total", "Events published without a value because they could not be encoded."),
		chunkSeconds: m.Histogram("chunk_seconds", "Time from sending a chunk to its saved checkpoint.", prometheus.DefBuckets),
		position:     m.Gauge("position", "Position up to which everything is in the topic."),
		lag:          m.Gauge("lag_events", "Events in the store that are not in the topic yet; measured by every relay, once a second."),
		stalled:      m.Gauge("stalled_seconds", "Seconds since the checkpoint last moved while events were waiting; 0 if none are."),
		blocked:      m.Gauge("blocked", "1 while this relay publishes nothing until an operator acts; its log and /health/ready contain the reason."),
		leading:      m.Gauge("leading", "1 while this process is the leading relay."),
	}
}
