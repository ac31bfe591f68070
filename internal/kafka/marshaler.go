package kafka

import (
	"errors"

	"github.com/IBM/sarama"
	wmkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
)

// metadataKey is the metadata entry for the record's key inside the process. It never becomes a
// header.
const metadataKey = "kafka-key"

// marshaler is watermill-kafka's with two differences: the message's UUID is the event-id header,
// so it needs no further header, and the key is kept when a record is unmarshaled.
type marshaler struct{ wmkafka.MarshalerUnmarshaler }

func newMarshaler() marshaler {
	return marshaler{wmkafka.NewWithPartitioningMarshaler(func(_ string, m *message.Message) (string, error) {
		key := m.Metadata[metadataKey]
		if key == "" {
			return "", errors.New("the message has no key")
		}
		return key, nil
	})}
}

// Marshal implements watermill-kafka's Marshaler.
func (m marshaler) Marshal(topic string, msg *message.Message) (*sarama.ProducerMessage, error) {
	out, err := m.MarshalerUnmarshaler.Marshal(topic, msg)
	if err != nil {
		return nil, err
	}
	kept := out.Headers[:0]
	for _, h := range out.Headers {
		if k := string(h.Key); k != wmkafka.UUIDHeaderKey && k != metadataKey {
			kept = append(kept, h)
		}
	}
	out.Headers = kept
	return out, nil
}

// Unmarshal implements watermill-kafka's Unmarshaler.
func (m marshaler) Unmarshal(in *sarama.ConsumerMessage) (*message.Message, error) {
	msg, err := m.MarshalerUnmarshaler.Unmarshal(in)
	if err != nil {
		return nil, err
	}
	msg.UUID = msg.Metadata[HeaderEventID]
	msg.Metadata[metadataKey] = string(in.Key)
	return msg, nil
}
