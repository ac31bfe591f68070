package kafka

import (
	"time"

	"github.com/IBM/sarama"
)

const (
	// Topic is the default name of the topic with the events of every product.
	Topic = "dopamine.product-events.v1"
	// Group is the default name of the projectors' consumer group.
	Group = "dopamine"
	// DefaultPartitions is the default partition count of the topic.
	DefaultPartitions = 12
)

// clientID is the name in the brokers' logs and quotas.
const clientID = "dopamine"

// baseConfig returns the configuration that all clients share.
func baseConfig(cluster Cluster) *sarama.Config {
	c := sarama.NewConfig()
	c.ClientID = clientID
	c.Version = sarama.V4_0_0_0 // sarama's default is 2.8: no topic ids
	c.Net.DialTimeout = 5 * time.Second
	// Otherwise a metadata request for a missing topic would cause the broker to create it, with
	// its own partition count and retention.
	c.Metadata.AllowAutoTopicCreation = false
	cluster.configure(c)
	return c
}

// producerConfig survives an outage of about 30 s without changing the order. With sarama's
// defaults the look-up of the leader gives up before the producer does, a breaker then rejects
// immediately, and later messages overtake.
func producerConfig(cluster Cluster) *sarama.Config {
	c := baseConfig(cluster)
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Idempotent = true
	c.Net.MaxOpenRequests = 1
	c.Producer.Compression = sarama.CompressionLZ4
	c.Producer.Return.Successes = true
	c.Producer.Return.Errors = true
	c.Producer.Retry.Max = 1000
	c.Metadata.Retry.Max = 300
	c.Metadata.Retry.Backoff = 100 * time.Millisecond
	c.Producer.Partitioner = sarama.NewManualPartitioner
	c.ChannelBufferSize = 4096
	return c
}

// groupConfig has an eager balancer, since Setup runs at each assignment only
// there, and leaves offsets to us.
func groupConfig(cluster Cluster, sessionTimeout time.Duration) *sarama.Config {
	c := baseConfig(cluster)
	c.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategyRange()}
	c.Consumer.Group.Session.Timeout = sessionTimeout
	c.Consumer.Group.Heartbeat.Interval = sessionTimeout / 6
	c.Consumer.Group.ResetInvalidOffsets = false
	c.Consumer.Offsets.AutoCommit.Enable = false
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Fetch.Default = 4 << 20
	c.Consumer.Return.Errors = true
	c.ChannelBufferSize = 4096
	return c
}
