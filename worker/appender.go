package worker

import (
	"context"
	"errors"
	"time"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/sleep"
)

// overloadPause is how soon an append is retried if the queue is full.
const overloadPause = 10 * time.Millisecond

// retryingAppender appends, and retries ErrOverloaded until ctx is done: the queue may be
// shared with the command API, and smaller than the number of appends
// of one chunk.
type retryingAppender struct{ store *eventstore.Store }

// Append implements the store's Append, without ErrOverloaded until ctx is done.
func (a retryingAppender) Append(ctx context.Context, append eventstore.Append) (eventstore.Result, error) {
	for {
		result, err := a.store.Append(ctx, append)
		if !errors.Is(err, eventstore.ErrOverloaded) || sleep.For(ctx, overloadPause) != nil {
			return result, err
		}
	}
}
