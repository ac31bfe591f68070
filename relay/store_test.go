package relay

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// hungStore is a store whose first read of events gets no response, as from a server process that
// stopped while the others work.
type hungStore struct {
	Store
	reads atomic.Int32
}

func (h *hungStore) ReadAll(ctx context.Context, after int64, limit int) ([]eventstore.Recorded, error) {
	if h.reads.Add(1) == 1 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return h.Store.ReadAll(ctx, after, limit)
}

func TestRelay_ReadWithoutResponseEndsTheTerm(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.warn(3, uuid.New())
	r := s.relay(testkit.FakeKafka(t), testkit.Topic(t), 10)
	store := &hungStore{Store: s.reader}
	r.cfg.Store, r.readTimeout = store, 2*time.Second
	s.run(r)
	s.awaitPlace(3)
	require.Greater(t, store.reads.Load(), int32(1))
}
