package kafka

import (
	"errors"
	"fmt"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
)

// Publisher sends batches. It is a Watermill message.Publisher, safe for concurrent use. If order
// matters, publish from one goroutine.
type Publisher struct {
	producer   sarama.SyncProducer
	marshaler  marshaler
	partitions int32
}

var _ message.Publisher = (*Publisher)(nil)

// NewPublisher connects to the brokers. partitions is the topic's partition count: the partition is
// chosen here, not by the client library.
func NewPublisher(cluster Cluster, partitions int32) (*Publisher, error) {
	producer, err := sarama.NewSyncProducer(cluster.Brokers, producerConfig(cluster))
	if err != nil {
		return nil, fmt.Errorf("connect a producer to Kafka at %v: %w", cluster.Brokers, err)
	}
	return newPublisher(producer, partitions), nil
}

func newPublisher(producer sarama.SyncProducer, partitions int32) *Publisher {
	return &Publisher{producer: producer, marshaler: newMarshaler(), partitions: partitions}
}

// Publish sends the messages as one batch and returns when all are
// acknowledged. After an error any of them may lie in the topic, any may not.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	batch := make([]*sarama.ProducerMessage, len(messages))
	for i, m := range messages {
		key, err := uuid.Parse(m.Metadata[metadataKey])
		if err != nil {
			return fmt.Errorf("key of message %s: %w", m.UUID, err)
		}
		if batch[i], err = p.marshaler.Marshal(topic, m); err != nil {
			return fmt.Errorf("marshal message %s: %w", m.UUID, err)
		}
		batch[i].Partition = Partition(key, p.partitions)
	}
	err := p.producer.SendMessages(batch)
	var failed sarama.ProducerErrors
	if errors.As(err, &failed) && len(failed) > 0 {
		return fmt.Errorf("%d of %d messages were not acknowledged, the first: %w", len(failed), len(batch), failed[0].Err)
	}
	if err != nil {
		return fmt.Errorf("send %d messages: %w", len(batch), err)
	}
	return nil
}

// Close closes the connections.
func (p *Publisher) Close() error { return p.producer.Close() }
