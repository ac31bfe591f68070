// Package slots is the read model purchase_slots: one row for each slot, and a table with the
// current name of each product, which is kept after the product is deleted.
package slots

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/table"
)

// Projection implements projections.Projection.
type Projection struct{}

var _ projections.Projection = Projection{}

// New returns the projection.
func New() Projection { return Projection{} }

// Name implements projections.Projection.
func (Projection) Name() string { return "purchase_slots" }

// Key implements projections.Projection.
func (Projection) Key(e domain.Envelope) (uuid.UUID, bool) {
	return Projection{}.RawKey(e.Event.EventType(), e.ProductID, e.StreamID)
}

// RawKey implements projections.Projection: the slot, or the product for its name.
func (Projection) RawKey(eventType string, product, stream uuid.UUID) (uuid.UUID, bool) {
	switch eventType {
	case "SlotAcquired", "SlotExpired", "SlotReturned", "PaymentCompleted":
		return stream, true
	case "ProductCreated", "ProductDetailsChanged":
		return product, true
	}
	return uuid.Nil, false
}

// NewFold implements projections.Projection.
func (Projection) NewFold(generation int) projections.Fold {
	return &fold{
		table: projections.Table("purchase_slots", generation), namesTable: projections.Table("purchase_slots_names", generation),
		rows: map[uuid.UUID]*Row{}, names: map[uuid.UUID]*name{},
	}
}

// Row is one row of the table.
type Row struct {
	ID                  uuid.UUID
	ProductID           uuid.UUID
	UserID              uuid.UUID
	Unit                int32
	ArrivalSequence     int64
	AcquisitionTime     time.Time
	ExpirationTimestamp time.Time
	Status              domain.SlotStatus
	CreatedAt           time.Time
	RegrantOf           *uuid.UUID
	EndedAt             *time.Time
	ReclaimStatus       domain.ReclaimStatus // "" for none
	LastPosition        int64
}

var rows = table.New([]table.Column[Row]{
	table.Of("id", table.ID, func(r *Row) *uuid.UUID { return &r.ID }),
	table.Of("product_id", table.ID, func(r *Row) *uuid.UUID { return &r.ProductID }),
	table.Of("user_id", table.ID, func(r *Row) *uuid.UUID { return &r.UserID }),
	table.Of("unit", table.Int, func(r *Row) *int32 { return &r.Unit }),
	table.Of("arrival_sequence", table.Long, func(r *Row) *int64 { return &r.ArrivalSequence }),
	table.Of("acquisition_timestamp", table.Time, func(r *Row) *time.Time { return &r.AcquisitionTime }),
	table.Of("expiration_timestamp", table.Time, func(r *Row) *time.Time { return &r.ExpirationTimestamp }),
	table.Of("created_at", table.Time, func(r *Row) *time.Time { return &r.CreatedAt }),
	table.Of("regrant_of", table.OptionalID, func(r *Row) **uuid.UUID { return &r.RegrantOf }),
}, []table.Column[Row]{
	table.Of("status", table.Text, func(r *Row) *string { return (*string)(&r.Status) }),
	table.Of("ended_at", table.OptionalTime, func(r *Row) **time.Time { return &r.EndedAt }),
	table.Of("reclaim_status", table.TextOrNull, func(r *Row) *string { return (*string)(&r.ReclaimStatus) }),
	table.Of("last_position", table.Long, func(r *Row) *int64 { return &r.LastPosition }),
})

// name is the current name of a product.
type name struct {
	product uuid.UUID
	text    string
	last    int64
}

var names = table.New([]table.Column[name]{
	table.Of("product_id", table.ID, func(n *name) *uuid.UUID { return &n.product }),
}, []table.Column[name]{
	table.Of("name", table.Text, func(n *name) *string { return &n.text }),
	table.Of("last_position", table.Long, func(n *name) *int64 { return &n.last }),
})

type fold struct {
	table, namesTable string
	rows              map[uuid.UUID]*Row
	names             map[uuid.UUID]*name
}

func (f *fold) Load(b *pgx.Batch, events []domain.Envelope) {
	rows.Load(b, f.table, projections.KeysToLoad(events, ofSlot, creates), func(r *Row) { f.rows[r.ID] = r })
}

func (f *fold) Apply(e domain.Envelope) error {
	switch c := e.Event.(type) {
	case domain.ProductCreated:
		f.names[e.ProductID] = &name{e.ProductID, c.Name, e.Position}
	case domain.ProductDetailsChanged:
		f.names[e.ProductID] = &name{e.ProductID, c.Name, e.Position}
	case domain.SlotAcquired:
		f.rows[e.StreamID] = &Row{
			ID: e.StreamID, ProductID: e.ProductID, UserID: c.UserID, Unit: int32(c.Unit), ArrivalSequence: c.ArrivalSequence,
			AcquisitionTime: e.RecordedAt, ExpirationTimestamp: e.RecordedAt.Add(c.TTL()), Status: domain.ActiveSlot,
			CreatedAt: e.RecordedAt, RegrantOf: c.RegrantOf, LastPosition: e.Position,
		}
	case domain.SlotExpired:
		return f.end(e, domain.ExpiredSlot, c.ReclaimStatus)
	case domain.PaymentCompleted:
		return f.end(e, domain.CompletedSlot, "")
	case domain.SlotReturned:
		return f.giveBack(e)
	default:
		return fmt.Errorf("no rule for %T", e.Event)
	}
	return nil
}

// giveBack returns a completed slot, which happens once. The time and the way of its end remain.
func (f *fold) giveBack(e domain.Envelope) error {
	row := f.rows[e.StreamID]
	if row == nil {
		return fmt.Errorf("slot %s has no row", e.StreamID)
	}
	if row.Status != domain.CompletedSlot {
		return fmt.Errorf("slot %s cannot become %s, it is %s", e.StreamID, domain.ReturnedSlot, row.Status)
	}
	row.Status, row.LastPosition = domain.ReturnedSlot, e.Position
	return nil
}

// end ends a slot, which happens once.
func (f *fold) end(e domain.Envelope, status domain.SlotStatus, reclaim domain.ReclaimStatus) error {
	row := f.rows[e.StreamID]
	if row == nil {
		return fmt.Errorf("slot %s has no row", e.StreamID)
	}
	if row.Status != domain.ActiveSlot {
		return fmt.Errorf("slot %s cannot become %s, it is %s", e.StreamID, status, row.Status)
	}
	at := e.RecordedAt
	row.Status, row.EndedAt, row.ReclaimStatus, row.LastPosition = status, &at, reclaim, e.Position
	return nil
}

func (f *fold) Write(b *pgx.Batch) {
	names.Upsert(b, f.namesTable, slices.Collect(maps.Values(f.names)))
	rows.Upsert(b, f.table, f.sorted())
}

// sorted puts ended slots first: a buyer whose slot has ended may hold the next one in the same
// batch, and the index that allows one live slot is checked for each row as it is written.
func (f *fold) sorted() []*Row {
	rows := slices.Collect(maps.Values(f.rows))
	live := func(r *Row) int {
		if r.Status == domain.ExpiredSlot || r.Status == domain.ReturnedSlot {
			return 0
		}
		return 1
	}
	slices.SortFunc(rows, func(a, b *Row) int {
		return cmp.Or(cmp.Compare(live(a), live(b)), bytes.Compare(a.ID[:], b.ID[:]))
	})
	return rows
}
