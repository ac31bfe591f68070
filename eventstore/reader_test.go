package eventstore

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/dbtest"
)

// A server process that does not respond, here because it waits for a lock, does not end a read.
func TestReader_BoundsEachRead(t *testing.T) {
	t.Parallel()
	pool := dbtest.Write(t)
	tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{})
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	dbtest.Exec(t, tx, `lock table events, store_identity, store_incarnations in access exclusive mode`)

	r := NewReader(pool)
	require.Equal(t, readTimeout, r.timeout)
	r.timeout = 100 * time.Millisecond
	for name, read := range map[string]func(context.Context) error{
		"ReadAll":       func(ctx context.Context) error { _, err := r.ReadAll(ctx, 0, 10); return err },
		"Stream":        func(ctx context.Context) error { _, err := r.Stream(ctx, uuid.New(), 0); return err },
		"First":         func(ctx context.Context) error { _, err := r.First(ctx, uuid.New()); return err },
		"ReadPartition": func(ctx context.Context) error { _, err := r.ReadPartition(ctx, uuid.New(), 0, 1, 10); return err },
		"At":            func(ctx context.Context) error { _, err := r.At(ctx, 1); return err },
		"Events":        func(ctx context.Context) error { _, err := r.Events(ctx, []int64{1}); return err },
		"Head":          func(ctx context.Context) error { _, err := r.Head(ctx); return err },
		"Identity":      func(ctx context.Context) error { _, err := r.Identity(ctx); return err },
		"IDs":           func(ctx context.Context) error { _, err := r.IDs(ctx, []int64{1}); return err },
		"KeysDown":      func(ctx context.Context) error { _, err := r.KeysDown(ctx, 1, 10); return err },
		"Incarnations":  func(ctx context.Context) error { _, err := r.Incarnations(ctx); return err },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			require.ErrorIs(t, read(ctx), context.DeadlineExceeded)
			require.NoError(t, ctx.Err(), "only the test's deadline ended it")
		})
	}
}
