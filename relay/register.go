package relay

import (
	"context"
	"errors"
	"fmt"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/schemaregistry"
)

// register puts the schemas of all events into the registry, each under its
// record's name, before anything is published with them: one that breaks the
// readers ends the relay. Without a registry there is nothing to do. The result
// writes values.
func (r *Relay) register(ctx context.Context) (func([]byte, domain.Envelope) ([]byte, error), error) {
	if r.cfg.Registry == nil {
		return avsc.Marshal, nil
	}
	ids := map[string]int{}
	for _, s := range avsc.Schemas() {
		id, err := r.cfg.Registry.Register(ctx, s.Name, s.Text)
		if incompatible := (*schemaregistry.IncompatibleError)(nil); errors.As(err, &incompatible) {
			return nil, &RefusedError{incompatible.Error() + ". Run the program that wrote that one, or a later one"}
		}
		if err != nil {
			return nil, fmt.Errorf("schema registry: %w", err)
		}
		ids[s.EventType] = id
	}
	registered, err := avsc.NewRegistered(ids)
	if err != nil {
		return nil, fmt.Errorf("schema registry: %w", err)
	}
	return registered.Marshal, nil
}
