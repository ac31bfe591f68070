package projections_test

import (
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/pgbinary"
	"github.com/dopaminestore/dopamine/projections"
)

// grantCounts is a read model with one row per product: how many slots were acquired.
type grantCounts struct{}

func (grantCounts) Name() string { return "grant_counts" }

// Key returns the product: its events are in one partition, so its row has one writer.
func (grantCounts) Key(e domain.Envelope) (uuid.UUID, bool) {
	_, acquired := e.Event.(domain.SlotAcquired)
	return e.ProductID, acquired
}

func (grantCounts) RawKey(eventType string, product, _ uuid.UUID) (uuid.UUID, bool) {
	return product, eventType == domain.SlotAcquired{}.EventType()
}

func (grantCounts) NewFold(generation int) projections.Fold {
	return &grantFold{table: projections.Table("grant_counts", generation), counts: map[uuid.UUID]int{}}
}

type grantFold struct {
	table  string
	counts map[uuid.UUID]int
}

// Load queues one query for the rows of all products in the batch.
func (f *grantFold) Load(b *pgx.Batch, events []domain.Envelope) {
	var products pgbinary.IDs
	for _, e := range events {
		products = append(products, pgbinary.ID(e.ProductID))
	}
	b.Queue(`SELECT product_id, grants FROM `+f.table+` WHERE product_id = ANY($1)`, products).Query(func(rows pgx.Rows) error {
		var product uuid.UUID
		var grants int
		_, err := pgx.ForEachRow(rows, []any{&product, &grants}, func() error {
			f.counts[product] = grants
			return nil
		})
		return err
	})
}

func (f *grantFold) Apply(e domain.Envelope) error {
	f.counts[e.ProductID]++
	return nil
}

// Write queues one upsert for all rows.
func (f *grantFold) Write(b *pgx.Batch) {
	var products pgbinary.IDs
	var counts []int
	for product, n := range f.counts {
		products, counts = append(products, pgbinary.ID(product)), append(counts, n)
	}
	b.Queue(`INSERT INTO `+f.table+` (product_id, grants) SELECT * FROM unnest($1::uuid[], $2::int[])
		ON CONFLICT (product_id) DO UPDATE SET grants = excluded.grants`, products, counts)
}

// A read model implements Projection and Fold. The projector calls Load, Apply for each event and
// Write, in one transaction per batch, together with the checkpoints.
func ExampleProjection() {
	var model projections.Projection = grantCounts{}
	lamp := uuid.MustParse("11111111-1111-4111-8111-111111111111")
	fold := model.NewFold(1)
	batch := &pgx.Batch{}
	events := []domain.Envelope{
		{Position: 1, ProductID: lamp, Event: domain.SlotAcquired{Unit: 1}},
		{Position: 2, ProductID: lamp, Event: domain.SlotExpired{Unit: 1}},
		{Position: 3, ProductID: lamp, Event: domain.SlotAcquired{Unit: 1}},
	}
	fold.Load(batch, events)
	for _, e := range events {
		if _, concerned := model.Key(e); concerned {
			_ = fold.Apply(e)
		}
	}
	fold.Write(batch)
	fmt.Println(model.Name(), fold.(*grantFold).counts[lamp], "grants,", batch.Len(), "statements")
	// Output: grant_counts 2 grants, 2 statements
}
