// Package slots is the read model purchase_slots: one row for each slot, and a table with the
// current name of each product, which is kept after the product is deleted.
package slots

import (
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/pgbinary"
	"github.com/dopaminestore/dopamine/projections"
)

// The status of a slot.
const (
	Active    = string(domain.ActiveSlot)
	Completed = string(domain.CompletedSlot)
	Expired   = string(domain.ExpiredSlot)
	Returned  = string(domain.ReturnedSlot)
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
		rows: map[uuid.UUID]*Row{}, names: map[uuid.UUID]name{},
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
	Status              string
	CreatedAt           time.Time
	RegrantOf           *uuid.UUID
	EndedAt             *time.Time
	ReclaimStatus       *string
	LastPosition        int64
}

type name struct {
	text string
	last int64
}

type fold struct {
	table, namesTable string
	rows              map[uuid.UUID]*Row
	names             map[uuid.UUID]name
}

func (f *fold) Load(b *pgx.Batch, events []domain.Envelope) {
	seen := make(map[uuid.UUID]bool, len(events))
	var ids pgbinary.IDs
	for _, e := range events {
		switch e.Event.(type) {
		case domain.SlotAcquired:
			seen[e.StreamID] = true
		case domain.SlotExpired, domain.SlotReturned, domain.PaymentCompleted:
			if !seen[e.StreamID] {
				seen[e.StreamID] = true
				ids = append(ids, pgbinary.ID(e.StreamID))
			}
		}
	}
	if len(ids) == 0 {
		return
	}
	b.Queue(fmt.Sprintf(`
		SELECT id, product_id, user_id, unit, arrival_sequence, acquisition_timestamp, expiration_timestamp, status,
		       created_at, regrant_of, ended_at, reclaim_status, last_position
		FROM %s WHERE id = ANY($1)`, f.table), ids).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			r := &Row{}
			if err := rows.Scan(&r.ID, &r.ProductID, &r.UserID, &r.Unit, &r.ArrivalSequence, &r.AcquisitionTime, &r.ExpirationTimestamp, &r.Status,
				&r.CreatedAt, &r.RegrantOf, &r.EndedAt, &r.ReclaimStatus, &r.LastPosition); err != nil {
				return err
			}
			f.rows[r.ID] = r
		}
		return rows.Err()
	})
}

func (f *fold) Apply(e domain.Envelope) error {
	switch c := e.Event.(type) {
	case domain.ProductCreated:
		f.names[e.ProductID] = name{c.Name, e.Position}
	case domain.ProductDetailsChanged:
		f.names[e.ProductID] = name{c.Name, e.Position}
	case domain.SlotAcquired:
		f.rows[e.StreamID] = &Row{
			ID: e.StreamID, ProductID: e.ProductID, UserID: c.UserID, Unit: int32(c.Unit), ArrivalSequence: c.ArrivalSequence,
			AcquisitionTime: e.RecordedAt, ExpirationTimestamp: e.RecordedAt.Add(c.TTL()), Status: Active,
			CreatedAt: e.RecordedAt, RegrantOf: c.RegrantOf, LastPosition: e.Position,
		}
	case domain.SlotExpired:
		reclaim := string(c.ReclaimStatus)
		return f.end(e, Expired, &reclaim)
	case domain.PaymentCompleted:
		return f.end(e, Completed, nil)
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
	if row.Status != Completed {
		return fmt.Errorf("slot %s cannot become %s, it is %s", e.StreamID, Returned, row.Status)
	}
	row.Status, row.LastPosition = Returned, e.Position
	return nil
}

// end ends a slot, which happens once.
func (f *fold) end(e domain.Envelope, status string, reclaim *string) error {
	row := f.rows[e.StreamID]
	if row == nil {
		return fmt.Errorf("slot %s has no row", e.StreamID)
	}
	if row.Status != Active {
		return fmt.Errorf("slot %s cannot become %s, it is %s", e.StreamID, status, row.Status)
	}
	at := e.RecordedAt
	row.Status, row.EndedAt, row.ReclaimStatus, row.LastPosition = status, &at, reclaim, e.Position
	return nil
}
