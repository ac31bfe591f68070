package streams

import (
	"cmp"
	"context"
	"hash/maphash"
	"maps"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/consistency"
	"github.com/dopaminestore/dopamine/query/readmodel"
)

const (
	// buyerRows is the maximum number of slots, and of payments, that a buyer's stream covers: the
	// newest. It bounds the cost of a buyer who keeps acquiring and releasing.
	buyerRows = 1000
	// buyersBatch is the number of buyers read at a time.
	buyersBatch = 500
	// maxNews is the maximum number of a buyer's entries that are examined to find whether an
	// advanced partition has news. If a buyer has more, that counts as news.
	maxNews = 1000
)

// buyerProjections are the projections that a buyer's stream is read from. An event counts as news
// only when all of them have passed it, so that slot and payment are sent together.
var buyerProjections = []string{readmodel.PurchaseSlots, readmodel.Purchases, readmodel.AuditLog}

// buyerState is a buyer's content of the read models in one snapshot.
type buyerState struct {
	began    time.Time // on this process's clock, before it was read
	at       resumption
	rows     []buyerRow  // ordered by position
	products []uuid.UUID // of the active slots
	pending  []uuid.UUID // payments that are pending and have no next action
	changed  chan struct{}
}

// subject identifies what a row is about.
type subject struct {
	name string // of the event: slot, warning, payment
	id   uuid.UUID
}

type buyerRow struct {
	subject
	product  uuid.UUID
	position int64
	active   bool   // an active slot
	content  uint64 // a hash of what clients see, except for what changes with the clock
	data     any
}

var contentSeed = maphash.MakeSeed()

// contentOf returns a hash that is equal for content that is sent only once.
func contentOf(data any) (uint64, error) {
	b, err := json.Marshal(data)
	return maphash.Bytes(contentSeed, b), err
}

// pollBuyers reads the subscribed buyers who may have news, and publishes their new states to their
// streams.
func (f *feed) pollBuyers(ctx context.Context, seen, now progressSnapshot) error {
	reached, sent := now.minPositions(buyerProjections), seen.minPositions(buyerProjections)
	// If the number of partitions differs, the topic was recreated and positions are distributed
	// differently.
	all := len(reached) != len(sent) || now.fingerprint(buyerProjections) != seen.fingerprint(buyerProjections)
	due, others := f.buyersDue(time.Now(), all)
	if !all && len(others) > 0 {
		woken, err := f.news(ctx, others, sent, reached)
		if err != nil {
			return err
		}
		due = append(due, woken...)
	}
	for _, buyer := range f.actionsKnown(ctx) {
		if !slices.Contains(due, buyer) {
			due = append(due, buyer)
		}
	}
	for some := range slices.Chunk(due, buyersBatch) {
		began := time.Now()
		states, err := f.buyerStates(ctx, some, nil)
		if err != nil {
			return err
		}
		f.showBuyers(states, began)
	}
	return nil
}

// buyersDue returns the buyers that must be read regardless of the audit, and the others with the
// products of which they hold slots.
func (f *feed) buyersDue(now time.Time, all bool) (due []uuid.UUID, others map[uuid.UUID][]uuid.UUID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	others = make(map[uuid.UUID][]uuid.UUID, len(f.buyers))
	again := 0
	for id, t := range f.buyers {
		switch {
		case all || !t.read.After(t.entered):
			due = append(due, id)
		case now.Sub(t.read) > refreshInterval && again < buyersBatch:
			again++
			due = append(due, id)
		default:
			others[id] = t.now.Load().products
		}
	}
	return due, others
}

func (f *feed) showBuyers(states map[uuid.UUID]*buyerState, began time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, s := range states {
		if t := f.buyers[id]; t != nil {
			s.began, t.read = began, began
			t.publish(s)
		}
	}
}

// news returns the buyers for whom the audit has an entry between sent and reached, or who hold a
// slot of a product whose name changed.
func (f *feed) news(ctx context.Context, buyers map[uuid.UUID][]uuid.UUID, sent, reached vector) ([]uuid.UUID, error) {
	low, more := reached.since(sent)
	if !more {
		return nil, nil
	}
	ids := slices.Collect(maps.Keys(buyers))
	holders := map[uuid.UUID][]uuid.UUID{} // by product
	for id, products := range buyers {
		for _, product := range products {
			holders[product] = append(holders[product], id)
		}
	}
	products := slices.AppendSeq([]uuid.UUID{}, maps.Keys(holders))
	fresh := func(product uuid.UUID, position int64) bool {
		return reached.passed(product, position) && !sent.passed(product, position)
	}
	woken := map[uuid.UUID]struct{}{}
	entries := map[uuid.UUID]int{}
	err := f.models.Read(ctx, readmodel.Snapshot{Projections: []string{readmodel.AuditLog, readmodel.PurchaseSlots}, Queue: func(b *pgx.Batch, g readmodel.Generations) {
		clear(woken)
		clear(entries)
		// By buyer, whatever the planner estimates for the range: it may be wide if a partition was
		// idle for long, while a buyer has few events.
		b.Queue(`
SELECT buyer, a.product_id, a.position FROM unnest($1::uuid[]) buyer CROSS JOIN LATERAL (
    SELECT product_id, position FROM `+g.Table(readmodel.AuditLog)+` WHERE user_id = buyer AND position > $2 AND position <= $3
    ORDER BY position DESC LIMIT $4) a`, ids, low, slices.Max(reached), maxNews).Query(func(rows pgx.Rows) error {
			var buyer, product uuid.UUID
			var position int64
			_, err := pgx.ForEachRow(rows, []any{&buyer, &product, &position}, func() error {
				entries[buyer]++
				if fresh(product, position) || entries[buyer] == maxNews {
					woken[buyer] = struct{}{}
				}
				return nil
			})
			return err
		})
		b.Queue(`SELECT product_id, last_position FROM `+g.ProductNames()+` WHERE product_id = ANY($1) AND last_position > $2`, products, low).Query(func(rows pgx.Rows) error {
			var product uuid.UUID
			var position int64
			_, err := pgx.ForEachRow(rows, []any{&product, &position}, func() error {
				if fresh(product, position) {
					for _, buyer := range holders[product] {
						woken[buyer] = struct{}{}
					}
				}
				return nil
			})
			return err
		})
	}})
	if err != nil {
		return nil, err
	}
	return slices.Collect(maps.Keys(woken)), nil
}

// buyerState reads the state of one buyer that includes the given positions.
func (f *feed) buyerState(ctx context.Context, buyer uuid.UUID, min []consistency.ProductPosition) (*buyerState, error) {
	states, err := f.buyerStates(ctx, []uuid.UUID{buyer}, min)
	return states[buyer], err
}

// buyerStates reads the states of buyers in one snapshot.
func (f *feed) buyerStates(ctx context.Context, buyers []uuid.UUID, min []consistency.ProductPosition) (map[uuid.UUID]*buyerState, error) {
	var states map[uuid.UUID]*buyerState
	add := func(buyer uuid.UUID, row buyerRow, content any) (err error) {
		if row.content, err = contentOf(content); err == nil {
			states[buyer].rows = append(states[buyer].rows, row)
		}
		return err
	}
	err := f.models.Read(ctx, readmodel.Snapshot{Projections: buyerProjections, Min: min, Queue: func(b *pgx.Batch, g readmodel.Generations) {
		states = make(map[uuid.UUID]*buyerState, len(buyers))
		for _, id := range buyers {
			states[id] = &buyerState{}
		}
		b.Queue(marksSQL, f.models.Topic()).Query(func(rows pgx.Rows) error {
			now, err := collectProgressSnapshot(rows)
			for _, s := range states {
				s.at = resumption{now.minPositions(buyerProjections), now.fingerprint(buyerProjections)}
			}
			return err
		})
		// The offset keeps the planner from filtering by type first.
		b.Queue(`
SELECT `+readmodel.SlotColumns+`, s.last_position,
       CASE WHEN s.status = 'ACTIVE' THEN (
           SELECT position FROM (SELECT type, position FROM `+g.Table(readmodel.AuditLog)+` WHERE slot_id = s.id OFFSET 0) a
           WHERE type = 'SlotExpiringSoon' LIMIT 1) END
FROM unnest($1::uuid[]) buyer CROSS JOIN LATERAL (
    SELECT * FROM `+g.Table(readmodel.PurchaseSlots)+` WHERE user_id = buyer ORDER BY created_at DESC, id DESC LIMIT $2) s
LEFT JOIN `+g.ProductNames()+` n ON n.product_id = s.product_id`, buyers, buyerRows).Query(func(rows pgx.Rows) error {
			return readmodel.EachRow(rows, func() error {
				var position int64
				var warned *int64
				v, err := readmodel.ScanSlot(rows, &position, &warned)
				if err != nil {
					return err
				}
				row := buyerRow{subject: subject{"slot", v.ID}, product: v.ProductID, position: position, active: v.EndedAt == nil, data: v}
				v.RemainingTimeSeconds = 0
				if err := add(v.UserID, row, v); err != nil {
					return err
				}
				if row.active {
					states[v.UserID].products = append(states[v.UserID].products, v.ProductID)
				}
				if warned == nil {
					return nil
				}
				row.name, row.position, row.active = "warning", *warned, false
				return add(v.UserID, row, *warned)
			})
		})
		b.Queue(`
SELECT `+readmodel.PaymentColumns+`, last_position FROM unnest($1::uuid[]) buyer CROSS JOIN LATERAL (
    SELECT * FROM `+g.Table(readmodel.Purchases)+` WHERE user_id = buyer ORDER BY created_at DESC, id DESC LIMIT $2) p`, buyers, buyerRows).Query(func(rows pgx.Rows) error {
			return readmodel.EachRow(rows, func() error {
				var position int64
				v, err := readmodel.ScanPayment(rows, &position)
				if err != nil {
					return err
				}
				shown := apimodel.PaymentWithAction{Payment: v}
				states[v.UserID].rows = append(states[v.UserID].rows, buyerRow{subject: subject{"payment", v.ID}, product: v.ProductID, position: position, data: shown})
				return nil
			})
		})
	}})
	if err != nil {
		return nil, err
	}
	if err := f.addActions(ctx, states); err != nil {
		return nil, err
	}
	for _, s := range states {
		slices.SortStableFunc(s.rows, func(a, b buyerRow) int { return cmp.Compare(a.position, b.position) })
	}
	return states, nil
}

// addActions adds to the pending payments of the states what their buyers have to do next, which
// only the write side has.
func (f *feed) addActions(ctx context.Context, states map[uuid.UUID]*buyerState) error {
	var pending []uuid.UUID
	for _, s := range states {
		for _, row := range s.rows {
			if p, ok := row.data.(apimodel.PaymentWithAction); ok && p.PaymentStatus == domain.PendingPayment {
				pending = append(pending, p.ID)
			}
		}
	}
	actions := f.models.NextActions(ctx, pending)
	for _, s := range states {
		for i, row := range s.rows {
			p, ok := row.data.(apimodel.PaymentWithAction)
			if !ok {
				continue
			}
			p.NextAction = actions[p.ID]
			if p.PaymentStatus == domain.PendingPayment && p.NextAction == nil {
				s.pending = append(s.pending, p.ID)
			}
			var err error
			if s.rows[i].content, err = contentOf(p); err != nil {
				return err
			}
			s.rows[i].data = p
		}
	}
	return nil
}

// actionsKnown returns the buyers with a pending payment whose next action has become known since
// it was read.
func (f *feed) actionsKnown(ctx context.Context) []uuid.UUID {
	f.mu.Lock()
	buyers := map[uuid.UUID]uuid.UUID{} // by payment
	for buyer, t := range f.buyers {
		for _, payment := range t.now.Load().pending {
			buyers[payment] = buyer
		}
	}
	f.mu.Unlock()
	var due []uuid.UUID
	for payment := range f.models.NextActions(ctx, slices.AppendSeq([]uuid.UUID{}, maps.Keys(buyers))) {
		due = append(due, buyers[payment])
	}
	return due
}
