package query

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/singleflight"

	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/internal/position"
)

const (
	// headTimeout bounds a look at how far the relay is.
	headTimeout = 500 * time.Millisecond
	// headTTL is how long its result is used again.
	headTTL = 50 * time.Millisecond
)

// relayHead is how far the relay had published at some moment. It stays true: an older
// one only proves less.
type relayHead struct {
	published int64   // every event up to this position is in Kafka
	last      []int64 // the last one in each partition
}

// relayHeads reads how far the relay is, on the write side.
type relayHeads struct {
	pool  *pgxpool.Pool // nil: the write side cannot be read
	reads singleflight.Group

	mu   sync.Mutex
	head relayHead
	at   time.Time
}

// now returns a fresh head, or the last known one if the write side does not respond.
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

// everything is the mark of a table of which nothing is held back.
const everything = math.MaxInt64

// lowWater returns the position up to which a projection's table has every row that it
// will ever have. A partition that has applied all that the relay had published into it
// is complete up to where the relay was; one that lags only up to its checkpoint. With
// a product only its own partition counts.
func lowWater(p progress, projection string, head relayHead, product uuid.UUID) int64 {
	partitions := p.partitions(projection)
	if partitions == 0 {
		return everything // nothing was ever applied
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

// completeness is what a page of a list in the order of positions has to know.
type completeness struct {
	mark    int64     // rows up to it are complete
	known   bool      // false if the write side cannot be read from here: nothing is held back
	product uuid.UUID // whose partition alone counts; Nil: all
}

// token is the value of X-Complete-Position.
func (c completeness) token() string {
	at := c.mark
	if at == everything {
		at = 0
	}
	return position.Encode(c.product, at)
}

// complete returns the completeness of a projection as it is now.
func (r *readModels) complete(ctx context.Context, projection string) (completeness, error) {
	var at completeness
	err := r.read(ctx, snapshot{of: []string{projection}, queue: func(b *pgx.Batch, g generations) {
		r.queueComplete(b, g, projection, uuid.Nil, uuid.Nil, nil, &at)
	}})
	return at, err
}

// queueComplete queues the reading of the projection's completeness in the batch's
// snapshot. Events that are parked will be applied at their old positions, so that the
// first of them is a limit too. slot, if there is one, takes the place of the product,
// which is found in the audit's table.
func (r *readModels) queueComplete(b *pgx.Batch, g generations, projection string, product, slot uuid.UUID, min []position.Position, into *completeness) {
	*into = completeness{mark: everything, product: product}
	if r.heads.pool == nil {
		return
	}
	into.known = true
	head := r.heads.now() // before the snapshot: what it has published by now is in the snapshot or lags
	if slot != uuid.Nil && product == uuid.Nil {
		b.Queue(`SELECT product_id FROM `+g.table(auditLog)+` WHERE slot_id = $1 LIMIT 1`, slot).Query(func(rows pgx.Rows) error {
			return each(rows, func() error { return rows.Scan(&into.product) })
		})
	}
	queueProgress(b, r.topic, []string{projection}, func(p progress) error {
		into.mark = lowWater(p, projection, head, into.product)
		return nil
	})
	b.Queue(`
SELECT min(p.position) FROM projection_generations g JOIN parked_events p USING (projection, generation)
WHERE g.state = 'live' AND g.projection = $1 AND p.position > 0
  AND ($2::uuid = '00000000-0000-0000-0000-000000000000' OR p.product_id = $2)
  AND ($3::uuid = '00000000-0000-0000-0000-000000000000' OR p.product_id = (SELECT product_id FROM `+g.table(auditLog)+` WHERE slot_id = $3 LIMIT 1))`,
		projection, product, slot).QueryRow(func(row pgx.Row) error {
		var first *int64
		if err := row.Scan(&first); err != nil {
			return err
		}
		if first != nil && *first <= into.mark {
			into.mark = *first - 1
		}
		for _, m := range min {
			if m.Place > into.mark {
				return errBehind // it would be held back
			}
		}
		return nil
	})
}

// incarnation returns that of the event store, or of the read models if the store
// cannot be read from here.
func (r *readModels) incarnation(ctx context.Context) (n int64, err error) {
	if r.heads.pool != nil {
		err = r.heads.pool.QueryRow(ctx, `SELECT coalesce(max(incarnation), 1) FROM store_incarnations`).Scan(&n)
	} else {
		err = r.pool.QueryRow(ctx, `SELECT coalesce(max(incarnation), 1) FROM projection_source`).Scan(&n)
	}
	return n, err
}
