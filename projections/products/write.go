package products

import (
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/internal/pgbinary"
)

func (f *fold) Write(b *pgx.Batch) {
	if len(f.gone) > 0 {
		ids := make([]uuid.UUID, 0, len(f.gone))
		for id := range f.gone {
			ids = append(ids, id)
		}
		b.Queue(fmt.Sprintf(`DELETE FROM %s WHERE id = ANY($1)`, f.table), ids)
	}
	if len(f.rows) == 0 {
		return
	}
	n := len(f.rows)
	var (
		id                         = make(pgbinary.IDs, 0, n)
		name, description          = make([]string, 0, n), make([]string, 0, n)
		price, currency            = make([]string, 0, n), make([]string, 0, n)
		stock, initial, total      = make([]int32, 0, n), make([]int32, 0, n), make([]int32, 0, n)
		saleDate, created, updated = make([]time.Time, 0, n), make([]time.Time, 0, n), make([]time.Time, 0, n)
		saleEnd                    = make([]*time.Time, 0, n)
		paused, cancelled          = make([]bool, 0, n), make([]bool, 0, n)
		revision                   = make([]*int64, 0, n)
		last                       = make([]int64, 0, n)
	)
	for _, r := range f.rows {
		id, name, description = append(id, pgbinary.ID(r.ID)), append(name, r.Name), append(description, r.Description)
		price, currency = append(price, r.Price), append(currency, r.Currency)
		stock, initial, total = append(stock, r.Stock), append(initial, r.InitialStock), append(total, r.TotalStock)
		saleDate, saleEnd, paused = append(saleDate, r.SaleDate), append(saleEnd, r.SaleEndDate), append(paused, r.Paused)
		created, updated, last = append(created, r.CreatedAt), append(updated, r.UpdatedAt), append(last, r.LastPosition)
		cancelled, revision = append(cancelled, r.Cancelled), append(revision, r.Revision)
	}
	b.Queue(fmt.Sprintf(`
		INSERT INTO %s (id, name, description, price, currency, stock, initial_stock, total_stock,
		                sale_date, sale_end_date, paused, created_at, updated_at, last_position, cancelled, revision)
		SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]::numeric[], $5::text[], $6::int[], $7::int[], $8::int[],
		                     $9::timestamptz[], $10::timestamptz[], $11::bool[], $12::timestamptz[], $13::timestamptz[], $14::bigint[],
		                     $15::bool[], $16::bigint[])
		ON CONFLICT (id) DO UPDATE SET
			name = EXCLUDED.name, description = EXCLUDED.description, price = EXCLUDED.price, currency = EXCLUDED.currency,
			stock = EXCLUDED.stock, initial_stock = EXCLUDED.initial_stock, total_stock = EXCLUDED.total_stock,
			sale_date = EXCLUDED.sale_date, sale_end_date = EXCLUDED.sale_end_date, paused = EXCLUDED.paused,
			created_at = EXCLUDED.created_at, updated_at = EXCLUDED.updated_at, last_position = EXCLUDED.last_position,
			cancelled = EXCLUDED.cancelled, revision = EXCLUDED.revision`, f.table),
		id, name, description, price, currency, stock, initial, total, saleDate, saleEnd, paused, created, updated, last, cancelled, revision)
}
