package relay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/schemaregistry"
)

// registerConcurrency bounds the schemas that are registered at the same time.
const registerConcurrency = 8

// register registers the schemas of all events, each under its record's name,
// before anything is published with them. A schema that is incompatible for readers
// ends the relay. Ids are kept from term to term, so that only the first
// term needs the registry. Without a registry there is nothing to do. It returns the
// function that encodes values.
func (r *Relay) register(ctx context.Context) (func([]byte, domain.Envelope) ([]byte, error), error) {
	if r.cfg.Registry == nil {
		return avsc.Marshal, nil
	}
	var mu sync.Mutex
	learned := map[string]int{} // kept even if another schema fails
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(registerConcurrency)
	for _, s := range avsc.Schemas() {
		if _, known := r.schemaIDs[s.EventType]; known {
			continue
		}
		group.Go(func() error {
			id, err := r.cfg.Registry.Register(ctx, s.Name, s.Text)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			learned[s.EventType] = id
			return nil
		})
	}
	err := group.Wait()
	maps.Copy(r.schemaIDs, learned)
	if incompatible := (*schemaregistry.IncompatibleError)(nil); errors.As(err, &incompatible) {
		return nil, &RefusedError{incompatible.Error() + ". Run the program that wrote that one, or a later one"}
	}
	if err != nil {
		return nil, fmt.Errorf("schema registry: %w", err)
	}
	registered, err := avsc.NewRegistered(r.schemaIDs)
	if err != nil {
		return nil, fmt.Errorf("schema registry: %w", err)
	}
	return registered.Marshal, nil
}
