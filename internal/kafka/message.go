package kafka

import (
	"context"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
)

const (
	// HeaderEventID is the header that is a message's UUID.
	HeaderEventID = "event-id"
	// HeaderPreviousPosition is the position of the event before this one in
	// its partition, in the store's order; 0 for the first.
	HeaderPreviousPosition = "previous-position"
	// HeaderStore names the history that the event belongs to:
	// <store id>/<incarnation>. Records of a relay before this header have none.
	HeaderStore = "store"
	// TypeIncarnation is the event-type of the record that marks, in every partition, the beginning
	// of an incarnation of the store. It is not an event.
	TypeIncarnation = "IncarnationBegan"
)

// NewMessage returns the Watermill message of one event. key decides its partition. headers, which
// include HeaderEventID, become the record's headers; the message owns them.
func NewMessage(key uuid.UUID, headers map[string]string, value []byte) *message.Message {
	m := message.NewMessage(headers[HeaderEventID], value)
	m.Metadata = headers
	m.Metadata[metadataKey] = key.String()
	return m
}

// Key returns the record's key as text.
func Key(m *message.Message) string { return m.Metadata[metadataKey] }

// Headers are the record's headers as text, without the key.
func Headers(m *message.Message) map[string]string {
	out := make(map[string]string, len(m.Metadata))
	for k, v := range m.Metadata {
		if k != metadataKey {
			out[k] = v
		}
	}
	return out
}

// Delivery is the partition and offset of a message.
type Delivery struct {
	Session   *Session
	Partition int32
	Offset    int64
}

// DeliveryOf returns the delivery of a message of a Subscriber.
func DeliveryOf(m *message.Message) Delivery {
	d, _ := m.Context().Value(deliveryKey{}).(*deliveryContext)
	if d == nil {
		return Delivery{}
	}
	return d.delivery
}

type deliveryKey struct{}

// deliveryContext has the session's context and the delivery in one allocation.
type deliveryContext struct {
	context.Context
	delivery Delivery
}

func (c *deliveryContext) Value(key any) any {
	if key == (deliveryKey{}) {
		return c
	}
	return c.Context.Value(key)
}
