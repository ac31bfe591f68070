package slots

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/internal/pgbinary"
)

func (f *fold) Write(b *pgx.Batch) {
	f.writeNames(b)
	f.writeRows(b)
}

func (f *fold) writeNames(b *pgx.Batch) {
	if len(f.names) == 0 {
		return
	}
	var (
		id   = make(pgbinary.IDs, 0, len(f.names))
		text = make([]string, 0, len(f.names))
		last = make([]int64, 0, len(f.names))
	)
	for k, n := range f.names {
		id, text, last = append(id, pgbinary.ID(k)), append(text, n.text), append(last, n.last)
	}
	b.Queue(fmt.Sprintf(`
		INSERT INTO %s (product_id, name, last_position)
		SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[])
		ON CONFLICT (product_id) DO UPDATE SET name = EXCLUDED.name, last_position = EXCLUDED.last_position`, f.namesTable), id, text, last)
}

// sorted puts ended slots first: a buyer whose slot has ended may hold the next one in the same
// batch, and the index that allows one live slot is checked for each row as it is written.
func (f *fold) sorted() []*Row {
	rows := make([]*Row, 0, len(f.rows))
	for _, r := range f.rows {
		rows = append(rows, r)
	}
	live := func(r *Row) int {
		if r.Status == Expired || r.Status == Returned {
			return 0
		}
		return 1
	}
	slices.SortFunc(rows, func(a, b *Row) int {
		return cmp.Or(cmp.Compare(live(a), live(b)), bytes.Compare(a.ID[:], b.ID[:]))
	})
	return rows
}

func (f *fold) writeRows(b *pgx.Batch) {
	if len(f.rows) == 0 {
		return
	}
	n := len(f.rows)
	var (
		id, product, user          = make(pgbinary.IDs, 0, n), make(pgbinary.IDs, 0, n), make(pgbinary.IDs, 0, n)
		unit                       = make([]int32, 0, n)
		sequence, last             = make([]int64, 0, n), make([]int64, 0, n)
		acquired, expires, created = make([]time.Time, 0, n), make([]time.Time, 0, n), make([]time.Time, 0, n)
		status                     = make([]string, 0, n)
		regrant                    = make(pgbinary.IDs, 0, n)
		ended                      = make([]*time.Time, 0, n)
		reclaim                    = make([]*string, 0, n)
	)
	for _, r := range f.sorted() {
		id, product, user = append(id, pgbinary.ID(r.ID)), append(product, pgbinary.ID(r.ProductID)), append(user, pgbinary.ID(r.UserID))
		unit, sequence = append(unit, r.Unit), append(sequence, r.ArrivalSequence)
		acquired, expires = append(acquired, r.AcquisitionTime), append(expires, r.ExpirationTimestamp)
		status, created, regrant = append(status, r.Status), append(created, r.CreatedAt), append(regrant, pgbinary.OptionalID(r.RegrantOf))
		ended, reclaim, last = append(ended, r.EndedAt), append(reclaim, r.ReclaimStatus), append(last, r.LastPosition)
	}
	b.Queue(fmt.Sprintf(`
		INSERT INTO %s (id, product_id, user_id, unit, arrival_sequence, acquisition_timestamp, expiration_timestamp, status,
		                created_at, regrant_of, ended_at, reclaim_status, last_position)
		SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::int[], $5::bigint[], $6::timestamptz[], $7::timestamptz[], $8::text[],
		                     $9::timestamptz[], $10::uuid[], $11::timestamptz[], $12::text[], $13::bigint[])
		ON CONFLICT (id) DO UPDATE SET
			status = EXCLUDED.status, ended_at = EXCLUDED.ended_at, reclaim_status = EXCLUDED.reclaim_status,
			last_position = EXCLUDED.last_position`, f.table),
		id, product, user, unit, sequence, acquired, expires, status, created, regrant, ended, reclaim, last)
}
