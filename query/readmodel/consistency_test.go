package readmodel

import (
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/consistency"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/tools/dbtest"
)

// While an event of a product is parked, every request that has read its later position waits for it:
// each reads only a few snapshots, because an operator is needed.
func TestRead_RepeatsOnlyAFewTimesForAParkedEvent(t *testing.T) {
	t.Parallel()
	pool, product := dbtest.Read(t), uuid.New()
	dbtest.Exec(t, pool, `INSERT INTO projection_checkpoints (projection, generation, topic, partition, partitions, topic_id, next_offset, position, event_id)
		VALUES ('products', 1, $1, 0, 1, 'a topic', 0, 50, gen_random_uuid())`, kafka.Topic)
	dbtest.Exec(t, pool, `INSERT INTO parked_events (projection, generation, row_key, position, topic, partition, product_id, error, behind)
		VALUES ('products', 1, $1, 40, $2, 0, $1, 'no such column', false)`, product, kafka.Topic)
	read := func(position int64) (snapshots int, err error) {
		err = New(pool, nil, kafka.Topic).Read(t.Context(), Snapshot{
			Projections: []string{Products},
			Min:         []consistency.ProductPosition{{Product: product, Position: position, Incarnation: 1}},
			Queue:       func(*pgx.Batch, Generations) { snapshots++ },
		})
		return snapshots, err
	}
	snapshots, err := read(39)
	require.NoError(t, err)
	require.Equal(t, 1, snapshots)

	snapshots, err = read(50)
	require.ErrorIs(t, err, errBehind)
	require.LessOrEqual(t, snapshots, 6, "pauses of 0.1, 0.2, 0.4 and 0.8 s, and the rest of 2 s")
}
