package readmodel

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/singleflight"

	"github.com/dopaminestore/dopamine/internal/consistency"
	"github.com/dopaminestore/dopamine/internal/kafka"
)

const (
	// headTimeout bounds the query for the relay's position.
	headTimeout = 500 * time.Millisecond
	// headTTL is how long its result is reused.
	headTTL = 50 * time.Millisecond
)

// relayHead is how far the relay had published at some moment. It remains valid: an older head only
// proves less.
type relayHead struct {
	published int64   // every event up to and including this position is in Kafka
	last      []int64 // the last position in each partition
}

// relayHeads reads the relay's position from the write side.
type relayHeads struct {
	pool  *pgxpool.Pool // nil if the write side cannot be read
	reads singleflight.Group

	mu   sync.Mutex
	head relayHead
	at   time.Time
}

// now returns a current head, or the last known one if the write side does not respond.
func (r *relayHeads) now() relayHead {
	head, at := r.known()
	if time.Since(at) < headTTL {
		return head
	}
	<-r.reads.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.Background(), headTimeout)
		defer cancel()
		var next relayHead
		began := time.Now()
		err := r.pool.QueryRow(ctx, `SELECT position, last FROM relay_place`).Scan(&next.published, &next.last)
		if err != nil {
			return nil, err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.head, r.at = next, began
		return nil, nil
	})
	head, _ = r.known()
	return head
}

func (r *relayHeads) known() (relayHead, time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.head, r.at
}

// everything is the low-water mark of a table of which nothing is held back.
const everything = math.MaxInt64

// lowWater returns the position up to which a projection's table is complete: no further rows will
// appear at or below it. A partition that has applied everything the relay published to it is
// complete up to the relay's position. A partition that lags is complete up to its checkpoint. If a
// product is given, only its partition counts.
func lowWater(p progress, projection string, head relayHead, product uuid.UUID) int64 {
	partitions := p.partitions(projection)
	if partitions == 0 {
		return everything // no event was ever applied
	}
	of := func(partition int32) int64 {
		at := p[projection][partition].position
		if int(partition) < len(head.last) && at >= head.last[partition] {
			at = max(at, head.published)
		}
		return at
	}
	if product != uuid.Nil {
		return of(kafka.Partition(product, partitions))
	}
	low := int64(everything)
	for partition := range partitions {
		low = min(low, of(partition))
	}
	return low
}

// Completeness is the completeness of a list in the order of positions.
type Completeness struct {
	Mark    int64     // rows up to and including it are complete
	Known   bool      // false if the write side cannot be read; then nothing is held back
	product uuid.UUID // only its partition counts; uuid.Nil: all
}

// Token returns the value of X-Complete-Position.
func (c Completeness) Token() string {
	at := c.Mark
	if at == everything {
		at = 0
	}
	return consistency.Encode(c.product, at)
}

// Complete returns the current completeness of a projection.
func (r *Reader) Complete(ctx context.Context, projection string) (Completeness, error) {
	var at Completeness
	err := r.Read(ctx, Snapshot{Projections: []string{projection}, Queue: func(b *pgx.Batch, g Generations) {
		r.QueueComplete(b, g, projection, uuid.Nil, uuid.Nil, nil, &at)
	}})
	return at, err
}

// QueueComplete queues the queries for the projection's completeness in the batch's snapshot.
// Parked events will be applied at their old positions, so the first of them is a limit too. If
// slot is given instead of product, the product is looked up in the audit's table.
func (r *Reader) QueueComplete(b *pgx.Batch, g Generations, projection string, product, slot uuid.UUID, min []consistency.ProductPosition, into *Completeness) {
	*into = Completeness{Mark: everything, product: product}
	if r.write == nil {
		return
	}
	into.Known = true
	head := r.heads.now() // before the snapshot: whatever is published by now is either applied in the snapshot or lags
	if slot != uuid.Nil && product == uuid.Nil {
		b.Queue(`SELECT product_id FROM `+g.Table(AuditLog)+` WHERE slot_id = $1 LIMIT 1`, slot).Query(func(rows pgx.Rows) error {
			return EachRow(rows, func() error { return rows.Scan(&into.product) })
		})
	}
	queueProgress(b, r.topic, []string{projection}, func(p progress) error {
		into.Mark = lowWater(p, projection, head, into.product)
		return nil
	})
	b.Queue(`
SELECT min(p.position) FROM projection_generations g JOIN parked_events p USING (projection, generation)
WHERE g.state = 'live' AND g.projection = $1 AND p.position > 0
  AND ($2::uuid = '00000000-0000-0000-0000-000000000000' OR p.product_id = $2)
  AND ($3::uuid = '00000000-0000-0000-0000-000000000000' OR p.product_id = (SELECT product_id FROM `+g.Table(AuditLog)+` WHERE slot_id = $3 LIMIT 1))`,
		projection, product, slot).QueryRow(func(row pgx.Row) error {
		var first *int64
		if err := row.Scan(&first); err != nil {
			return err
		}
		if first != nil && *first <= into.Mark {
			into.Mark = *first - 1
		}
		for _, m := range min {
			if m.Position > into.Mark {
				return errBehind // the entry would be held back
			}
		}
		return nil
	})
}

// Incarnation returns the incarnation of the event store, or that of the read models if the store
// cannot be read.
func (r *Reader) Incarnation(ctx context.Context) (n int64, err error) {
	if r.write != nil {
		err = r.write.QueryRow(ctx, `SELECT coalesce(max(incarnation), 1) FROM store_incarnations`).Scan(&n)
	} else {
		err = r.pool.QueryRow(ctx, `SELECT coalesce(max(incarnation), 1) FROM projection_source`).Scan(&n)
	}
	return n, err
}
