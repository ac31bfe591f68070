package eventstore

import (
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// count returns the number of events of the append.
func (a Append) count() (n int) {
	for _, stream := range a.Streams {
		n += len(stream.Events)
	}
	return n
}

// validate rejects appends that can never succeed.
func (a Append) validate() error {
	if len(a.Streams) == 0 && len(a.Guards) == 0 {
		return errors.New("eventstore: append has no events and no guards")
	}
	var seen []uuid.UUID // an append has few events
	if n := a.count(); n > 0 {
		seen = make([]uuid.UUID, 0, n)
	}
	for _, stream := range a.Streams {
		if len(stream.Events) == 0 {
			return fmt.Errorf("eventstore: append to stream %s has no events", stream.Stream)
		}
		if stream.Expected < Any {
			return fmt.Errorf("eventstore: append to stream %s: expected version %d", stream.Stream, stream.Expected)
		}
		for _, event := range stream.Events {
			if event.ID == uuid.Nil || event.Type == "" {
				return fmt.Errorf("eventstore: append to stream %s: an event needs an id and a type", stream.Stream)
			}
			for _, other := range seen {
				if other == event.ID {
					return fmt.Errorf("eventstore: append to stream %s: event id %s twice", stream.Stream, event.ID)
				}
			}
			seen = append(seen, event.ID)
		}
	}
	return nil
}
