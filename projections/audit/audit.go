// Package audit is the read model slot_audit_log: one row for each event of a slot, including those
// of its payments. A row never changes.
package audit

import (
	"fmt"
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
func (Projection) Name() string { return "slot_audit_log" }

// Key implements projections.Projection: the slot.
func (Projection) Key(e domain.Envelope) (uuid.UUID, bool) {
	return Projection{}.RawKey(e.Event.EventType(), e.ProductID, e.StreamID)
}

// RawKey implements projections.Projection.
func (Projection) RawKey(eventType string, _, stream uuid.UUID) (uuid.UUID, bool) {
	if !slices.Contains(domain.SlotEventTypes, eventType) {
		return uuid.Nil, false
	}
	return stream, true
}

// NewFold implements projections.Projection.
func (Projection) NewFold(generation int) projections.Fold {
	return &fold{table: projections.Table("slot_audit_log", generation), status: map[uuid.UUID]domain.SlotStatus{}}
}

// Row is one row of the table.
type Row struct {
	EventID    uuid.UUID
	Type       string
	SlotID     uuid.UUID
	ProductID  uuid.UUID
	UserID     uuid.UUID
	OldStatus  domain.SlotStatus // "" for none
	NewStatus  domain.SlotStatus
	TraceID    string
	Actor      string
	RecordedAt time.Time
	Position   int64
	Metadata   []byte // a JSON object
}

type fold struct {
	table  string
	rows   []*Row
	status map[uuid.UUID]domain.SlotStatus // of slots, if known in this batch
}

var rows = table.New([]table.Column[Row]{
	table.Of("event_id", table.ID, func(r *Row) *uuid.UUID { return &r.EventID }),
	table.Of("type", table.Text, func(r *Row) *string { return &r.Type }),
	table.Of("slot_id", table.ID, func(r *Row) *uuid.UUID { return &r.SlotID }),
	table.Of("product_id", table.ID, func(r *Row) *uuid.UUID { return &r.ProductID }),
	table.Of("user_id", table.ID, func(r *Row) *uuid.UUID { return &r.UserID }),
	table.Of("old_status", table.TextOrNull, func(r *Row) *string { return (*string)(&r.OldStatus) }),
	table.Of("new_status", table.Text, func(r *Row) *string { return (*string)(&r.NewStatus) }),
	table.Of("trace_id", table.Text, func(r *Row) *string { return &r.TraceID }),
	table.Of("actor", table.Text, func(r *Row) *string { return &r.Actor }),
	table.Of("recorded_at", table.Time, func(r *Row) *time.Time { return &r.RecordedAt }),
	table.Of("position", table.Long, func(r *Row) *int64 { return &r.Position }),
	table.Of("metadata", table.JSON, func(r *Row) *[]byte { return &r.Metadata }),
}, nil)

// Load reads the slot's status for events that do not change it. All other events determine the
// status.
func (f *fold) Load(b *pgx.Batch, events []domain.Envelope) {
	slot := func(e domain.Envelope) (uuid.UUID, bool) { return e.StreamID, true }
	determines := func(e domain.Event) bool { return !keepsStatus(e) }
	ids := projections.KeysToLoad(events, slot, determines)
	if len(ids) == 0 {
		return
	}
	b.Queue(fmt.Sprintf(`
		SELECT s.id, a.new_status
		FROM unnest($1::uuid[]) AS s(id)
		CROSS JOIN LATERAL (SELECT new_status FROM %s WHERE slot_id = s.id ORDER BY position DESC LIMIT 1) a`, f.table), ids).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var id uuid.UUID
			var status domain.SlotStatus
			if err := rows.Scan(&id, &status); err != nil {
				return err
			}
			f.status[id] = status
		}
		return rows.Err()
	})
}

func (f *fold) Apply(e domain.Envelope) error {
	var user uuid.UUID
	was, is := domain.ActiveSlot, domain.ActiveSlot
	switch c := e.Event.(type) {
	case domain.SlotAcquired:
		user, was = c.UserID, ""
	case domain.SlotExpiringSoon:
		user = c.UserID
	case domain.SlotExpired:
		user, is = c.UserID, domain.ExpiredSlot
	case domain.PaymentInitiated:
		user = c.UserID
	case domain.PaymentCompleted:
		user, is = c.UserID, domain.CompletedSlot
	case domain.SlotReturned:
		user, was, is = c.UserID, domain.CompletedSlot, domain.ReturnedSlot
	default:
		_, owner, ok := domain.PaymentOf(e.Event)
		if !ok {
			return fmt.Errorf("no rule for %T", e.Event)
		}
		user, was = owner, f.status[e.StreamID]
		is = was
	}
	if is == "" {
		return fmt.Errorf("slot %s has no status yet", e.StreamID)
	}
	meta, err := metadata(e)
	if err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	row := &Row{
		EventID: e.EventID, Type: e.Event.EventType(), SlotID: e.StreamID, ProductID: e.ProductID, UserID: user,
		OldStatus: was, NewStatus: is, TraceID: e.TraceID(), Actor: e.Actor, RecordedAt: e.RecordedAt, Position: e.Position, Metadata: meta,
	}
	f.rows = append(f.rows, row)
	f.status[e.StreamID] = is
	return nil
}

// Write does not change rows. Checkpoints prevent an event from being applied twice; the key
// prevents a duplicate row even if a checkpoint was set back by hand.
func (f *fold) Write(b *pgx.Batch) { rows.Upsert(b, f.table, f.rows) }
