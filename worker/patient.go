package worker

import (
	"context"
	"errors"
	"time"

	"github.com/dopaminestore/dopamine/eventstore"
)

// overloadPause is how soon a full append queue is tried again.
const overloadPause = 10 * time.Millisecond

// patient appends, and waits where the append queue is full, for as long as ctx
// lets it: the queue may be shared with the command API, and smaller than what is
// appended together here.
type patient struct{ store *eventstore.Store }

// Append is the store's, without ErrOverloaded while ctx lasts.
func (p patient) Append(ctx context.Context, a eventstore.Append) (eventstore.Result, error) {
	for {
		result, err := p.store.Append(ctx, a)
		if !errors.Is(err, eventstore.ErrOverloaded) || pause(ctx, overloadPause) != nil {
			return result, err
		}
	}
}
