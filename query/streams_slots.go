package query

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/view"
)

const (
	// listenerRoom is how many events wait for one listener; who lets more come
	// together is let go, and comes back with Last-Event-ID.
	listenerRoom = 64
	// historyMost is how many events of one buyer one look reads. A buyer makes a
	// few a minute; who has more is told of the newest states all the same.
	historyMost = 1000
)

// buyerProjections are the ones of which all have to have passed an event.
var buyerProjections = []string{purchaseSlots, purchases, auditLog}

// buyerEvent is an event of a buyer's stream as it is written.
type buyerEvent struct {
	event   []byte
	product uuid.UUID
	place   int64
}

// buyerListener is one open stream of a buyer.
type buyerListener struct {
	events chan buyerEvent // closed by the feed where it lets go of the listener
}

// slotStream is GET /v1/slots/my-slots/stream. It begins with the buyer's active
// slots; who comes back with Last-Event-ID is told besides what has changed since.
func (a *API) slotStream(c echo.Context) error {
	who, _ := httpapi.IdentityOf(c)
	min, err := httpapi.MinPositions(c)
	if err != nil {
		return err
	}
	since, _ := parseVector(c.Request().Header.Get(lastEventID)) // another's words mean nothing: as if there were none
	ctx := c.Request().Context()
	l, err := a.feed.listen(ctx, who.Sub)
	if err != nil {
		return err
	}
	defer a.feed.unlisten(who.Sub, l)
	first, from, err := a.models.buyerState(ctx, snapshot{of: buyerProjections, min: min}, who.Sub, since)
	if err != nil {
		return err
	}
	s, err := a.beginEvents(c, "slots")
	if err != nil {
		return err
	}
	defer s.end()
	for _, event := range first {
		if err := s.write(event); err != nil {
			return over(err)
		}
	}
	return over(s.forward(l, from))
}

// forward writes what comes, but for what the listener has been told already.
func (s *stream) forward(l *buyerListener, from vector) error {
	for {
		select {
		case e, more := <-l.events:
			if !more {
				return errEnded
			}
			if from.passed(e.product, e.place) {
				continue
			}
			if err := s.write(e.event); err != nil {
				return err
			}
		case <-s.silence.C:
			if err := s.write(heartbeatComment); err != nil {
				return err
			}
		case <-s.out.Stopping():
			return errEnded
		case <-s.ctx.Done():
			return errEnded
		}
	}
}

// listen begins to gather the buyer's events. What a snapshot that is read after
// it does not show will come.
func (f *feed) listen(ctx context.Context, buyer uuid.UUID) (*buyerListener, error) {
	l := &buyerListener{events: make(chan buyerEvent, listenerRoom)}
	enter := func(first vector) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.told == nil && first == nil {
			return false
		}
		if f.told == nil {
			f.told = first
		}
		if f.buyers[buyer] == nil {
			f.buyers[buyer] = map[*buyerListener]struct{}{}
		}
		f.buyers[buyer][l] = struct{}{}
		f.awake()
		return true
	}
	if enter(nil) {
		return l, nil
	}
	now, err := f.models.marks(ctx)
	if err != nil {
		return nil, failed("read the checkpoints", err)
	}
	enter(now.cut(buyerProjections))
	return l, nil
}

func (f *feed) unlisten(buyer uuid.UUID, l *buyerListener) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove(buyer, l)
}

// remove is called with f.mu held; a second time is fine.
func (f *feed) remove(buyer uuid.UUID, l *buyerListener) {
	delete(f.buyers[buyer], l)
	if len(f.buyers[buyer]) == 0 {
		delete(f.buyers, buyer)
	}
	if len(f.buyers) == 0 {
		f.told = nil
	}
}

// lookAtBuyers tells those who listen what lies between what was told and reached.
func (f *feed) lookAtBuyers(ctx context.Context, reached vector) error {
	f.mu.Lock()
	told := f.told
	if told == nil {
		f.mu.Unlock()
		return nil
	}
	if len(told) == 0 { // nothing had been applied yet
		told = make(vector, len(reached))
	}
	if len(told) != len(reached) { // the topic was made anew: places mean other partitions now
		f.dropAll()
		f.mu.Unlock()
		return nil
	}
	buyers := make([]uuid.UUID, 0, len(f.buyers))
	for id := range f.buyers {
		buyers = append(buyers, id)
	}
	f.mu.Unlock()
	low, any := reached.since(told)
	if !any {
		return nil
	}
	news, err := f.models.news(ctx, buyers, low, told, reached)
	if err != nil {
		return err
	}
	events, err := f.models.encode(ctx, news, told, reached)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for buyer, list := range events {
		for l := range f.buyers[buyer] {
			f.send(buyer, l, list)
		}
	}
	if f.told != nil {
		f.told = reached
	}
	return nil
}

// send hands events over, or lets go of who has no room for them.
func (f *feed) send(buyer uuid.UUID, l *buyerListener, list []buyerEvent) {
	for _, e := range list {
		select {
		case l.events <- e:
		default:
			f.metrics.dropped.Inc()
			close(l.events)
			f.remove(buyer, l)
			return
		}
	}
}

// dropAll lets go of all buyers who listen; they come back by themselves.
func (f *feed) dropAll() {
	for buyer, listeners := range f.buyers {
		for l := range listeners {
			close(l.events)
			f.remove(buyer, l)
		}
	}
}

// piece of news: what an event of the audit log changes for its buyer.
type piece struct {
	buyer, product, slot uuid.UUID
	payment              *uuid.UUID
	place                int64
	name                 string // of the event: slot, warning, payment
	id                   uuid.UUID
}

// newsOf says what an event's kind makes known to the buyer. The rest of the
// audit's row is in p.
func newsOf(kind string, p piece) []piece {
	slot, payment := p, p
	slot.name, slot.id = "slot", p.slot
	payment.name = "payment"
	if p.payment != nil {
		payment.id = *p.payment
	}
	switch kind {
	case "SlotAcquired", "SlotExpired":
		return []piece{slot}
	case "SlotExpiringSoon":
		slot.name = "warning"
		return []piece{slot}
	case "PaymentCompleted":
		return []piece{slot, payment}
	}
	if p.payment == nil {
		return nil
	}
	return []piece{payment}
}

// news reads what the audit log says of the buyers between told and reached. A
// slot or payment that changed several times is told of once, at the last.
func (r *readModels) news(ctx context.Context, buyers []uuid.UUID, low int64, told, reached vector) ([]piece, error) {
	var all []piece
	high := slices.Max(reached)
	err := r.read(ctx, snapshot{of: []string{auditLog}, queue: func(b *pgx.Batch, g generations) {
		all = all[:0]
		// By buyer, whatever the planner thinks of the range: it may be wide where a
		// partition was idle for long, while a buyer has few events.
		b.Queue(`
SELECT a.user_id, a.product_id, a.slot_id, (a.metadata->>'paymentId')::uuid, a.position, a.type
FROM unnest($1::uuid[]) buyer CROSS JOIN LATERAL (
    SELECT * FROM `+g.table(auditLog)+` WHERE user_id = buyer AND position > $2 AND position <= $3
    ORDER BY position DESC LIMIT $4) a
ORDER BY a.position`, buyers, low, high, historyMost).Query(func(rows pgx.Rows) error {
			var p piece
			var kind string
			_, err := pgx.ForEachRow(rows, []any{&p.buyer, &p.product, &p.slot, &p.payment, &p.place, &kind}, func() error {
				if reached.passed(p.product, p.place) && !told.passed(p.product, p.place) {
					all = append(all, newsOf(kind, p)...)
				}
				p.payment = nil
				return nil
			})
			return err
		})
	}})
	if err != nil {
		return nil, err
	}
	type subject struct {
		name string
		id   uuid.UUID
	}
	last := make(map[subject]int64, len(all))
	for _, p := range all {
		last[subject{p.name, p.id}] = p.place
	}
	return slices.DeleteFunc(all, func(p piece) bool { return last[subject{p.name, p.id}] != p.place }), nil
}

// encode reads the states that the news are about and makes the events, by
// buyer. Only a buyer's last event bears the new vector: who loses the stream
// between two is told the second again.
func (r *readModels) encode(ctx context.Context, news []piece, told, reached vector) (map[uuid.UUID][]buyerEvent, error) {
	if len(news) == 0 {
		return nil, nil
	}
	var slotIDs, paymentIDs []uuid.UUID
	last := map[uuid.UUID]int{}
	for i, p := range news {
		if p.name == "payment" {
			paymentIDs = append(paymentIDs, p.id)
		} else {
			slotIDs = append(slotIDs, p.id)
		}
		last[p.buyer] = i
	}
	slots, payments := map[uuid.UUID]view.Slot{}, map[uuid.UUID]view.Payment{}
	err := r.read(ctx, snapshot{of: []string{purchaseSlots, purchases}, queue: func(b *pgx.Batch, g generations) {
		b.Queue(`SELECT `+slotColumns+` FROM `+slotsFrom(g)+` WHERE s.id = ANY($1)`, slotIDs).Query(func(rows pgx.Rows) error {
			return each(rows, func() error {
				s, err := scanSlot(rows)
				slots[s.ID] = s
				return err
			})
		})
		b.Queue(`SELECT `+paymentColumns+` FROM `+g.table(purchases)+` WHERE id = ANY($1)`, paymentIDs).Query(func(rows pgx.Rows) error {
			return each(rows, func() error {
				p, err := scanPayment(rows)
				payments[p.ID] = p
				return err
			})
		})
	}})
	if err != nil {
		return nil, err
	}
	before, after := told.String(), reached.String()
	events := make(map[uuid.UUID][]buyerEvent, len(last))
	for i, p := range news {
		var data any
		var there bool
		if p.name == "payment" {
			data, there = find(payments, p.id)
		} else {
			data, there = find(slots, p.id)
		}
		if !there {
			continue // set aside: it is not in the read model
		}
		id := before
		if last[p.buyer] == i {
			id = after
		}
		event, err := encodeEvent(p.name, id, data)
		if err != nil {
			return nil, err
		}
		events[p.buyer] = append(events[p.buyer], buyerEvent{event, p.product, p.place})
	}
	return events, nil
}

func find[T any](all map[uuid.UUID]T, id uuid.UUID) (any, bool) {
	v, there := all[id]
	return v, there
}

func each(rows pgx.Rows, row func() error) error {
	for rows.Next() {
		if err := row(); err != nil {
			return err
		}
	}
	return rows.Err()
}

// buyerState reads what a stream begins with, and the vector from which it goes
// on: the active slots, and what changed behind since, where that is given.
func (r *readModels) buyerState(ctx context.Context, s snapshot, buyer uuid.UUID, since vector) ([][]byte, vector, error) {
	type found struct {
		name    string
		product uuid.UUID
		place   int64
		active  bool
		data    any
	}
	var all []found
	var from vector
	low := int64(0)
	if since != nil {
		low = slices.Min(append([]int64{1<<63 - 1}, since...))
	}
	s.queue = func(b *pgx.Batch, g generations) {
		all = all[:0]
		queueProgress(b, s.of, func(p progress) error {
			from = p.cut(s.of)
			return nil
		})
		b.Queue(`SELECT `+slotColumns+`, s.last_position FROM `+slotsFrom(g)+`
			WHERE s.user_id = $1 AND (s.status = 'ACTIVE' OR $2 AND s.last_position > $3) ORDER BY s.last_position`, buyer, since != nil, low).Query(func(rows pgx.Rows) error {
			return each(rows, func() error {
				f := found{name: "slot"}
				v, err := scanSlot(rows, &f.place)
				f.product, f.active, f.data = v.ProductID, v.EndedAt == nil, v
				all = append(all, f)
				return err
			})
		})
		if since == nil {
			return
		}
		b.Queue(`SELECT `+paymentColumns+`, last_position FROM `+g.table(purchases)+` WHERE user_id = $1 AND last_position > $2 ORDER BY last_position`, buyer, low).Query(func(rows pgx.Rows) error {
			return each(rows, func() error {
				f := found{name: "payment"}
				v, err := scanPayment(rows, &f.place)
				f.product, f.data = v.ProductID, v
				all = append(all, f)
				return err
			})
		})
		b.Queue(`SELECT `+slotColumns+`, a.position FROM `+slotsFrom(g)+` JOIN `+g.table(auditLog)+` a ON a.slot_id = s.id
			WHERE s.user_id = $1 AND s.status = 'ACTIVE' AND a.user_id = $1 AND a.type = 'SlotExpiringSoon' AND a.position > $2 ORDER BY a.position`, buyer, low).Query(func(rows pgx.Rows) error {
			return each(rows, func() error {
				f := found{name: "warning"}
				v, err := scanSlot(rows, &f.place)
				f.product, f.data = v.ProductID, v
				all = append(all, f)
				return err
			})
		})
	}
	if err := r.read(ctx, s); err != nil {
		return nil, nil, err
	}
	comparable := len(since) == len(from) // else the topic was made anew: told again rather than missed
	all = slices.DeleteFunc(all, func(f found) bool { return !f.active && comparable && since.passed(f.product, f.place) })
	events := make([][]byte, len(all))
	for i, f := range all {
		id := from.String()
		if i < len(all)-1 { // not everything is told yet
			id = since.String()
		}
		event, err := encodeEvent(f.name, id, f.data)
		if err != nil {
			return nil, nil, fmt.Errorf("begin a stream: %w", err)
		}
		events[i] = event
	}
	return events, from, nil
}
