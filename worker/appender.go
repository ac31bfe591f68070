package worker

import (
	"context"
	"errors"
	"time"

	"github.com/dopaminestore/dopamine/eventstore"
)

// overloadPause is how soon a full append queue is tried again.
const overloadPause = 10 * time.Millisecond

// waitingAppender appends, and waits while the append queue is full, for as long as
// ctx lets it: the queue may be shared with the command API, and smaller than what
// is appended together here.
type waitingAppender struct{ store *eventstore.Store }

// Append is the store's, without ErrOverloaded while ctx lasts.
func (a waitingAppender) Append(ctx context.Context, append eventstore.Append) (eventstore.Result, error) {
	for {
		result, err := a.store.Append(ctx, append)
		if !errors.Is(err, eventstore.ErrOverloaded) || pause(ctx, overloadPause) != nil {
			return result, err
		}
	}
}
