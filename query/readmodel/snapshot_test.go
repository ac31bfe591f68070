package readmodel

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/internal/problem"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestSlowRead_IsCancelledOnBothSides checks which statements Postgres still runs after the
// response.
func TestSlowRead_IsCancelledOnBothSides(t *testing.T) {
	t.Parallel()
	pool := dbtest.Read(t)
	err := New(pool, nil, kafka.Topic).Read(t.Context(), Snapshot{Projections: []string{Products}, Timeout: 300 * time.Millisecond, Queue: func(b *pgx.Batch, _ Generations) {
		b.Queue(`SELECT pg_sleep(60)`)
	}})
	require.ErrorIs(t, err, problem.New(problem.Unavailable, ""))
	testkit.Eventually(t, 2*time.Second, "Postgres to end the query", func() error {
		var running int
		err := pool.QueryRow(context.Background(), `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND state = 'active' AND query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()`).Scan(&running)
		if err == nil && running > 0 {
			err = fmt.Errorf("%d still run", running)
		}
		return err
	})
}

func TestSnapshot_IsConsistent(t *testing.T) {
	t.Parallel()
	pool := dbtest.Read(t)
	models := New(pool, nil, kafka.Topic)
	count := func(b *pgx.Batch, n *int) {
		b.Queue(`SELECT count(*) FROM projection_source`).QueryRow(func(row pgx.Row) error { return row.Scan(n) })
	}
	written := make(chan error, 1)
	first, second := -1, -1
	err := models.Read(t.Context(), Snapshot{Projections: []string{Products, AuditLog}, Queue: func(b *pgx.Batch, _ Generations) {
		count(b, &first)
		b.Queue(`SELECT pg_sleep(1)`)
		count(b, &second)
		go func() { // commits while the snapshot's query sleeps
			_, err := pool.Exec(context.Background(), `INSERT INTO projection_source (store_id) SELECT gen_random_uuid() FROM pg_sleep(0.5)`)
			written <- err
		}()
	}})
	require.NoError(t, err)
	require.NoError(t, <-written)
	require.Equal(t, []int{0, 0}, []int{first, second})
}
