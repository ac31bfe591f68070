package payments

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/view"
)

const (
	// handOver is how long a payment, or a refund, is left to the process that
	// asks for it. About as long as that takes; asking twice does no harm.
	handOver = 10 * time.Second
	// askFirst is how long after we failed it without the gateway's word a
	// payment is asked about first, and how often for an hour.
	askFirst = time.Minute
	// askFor is how long such a payment is asked about.
	askFor = 7 * 24 * time.Hour
)

type (
	// began is a new payment with its idempotency key, beside PaymentInitiated.
	// Refusal: ErrKeyTaken.
	began struct {
		domain.Payment
		product, user uuid.UUID
		key           uuid.UUID
		bodyHash      []byte
	}
	// change is what a payment has come to, beside its events or without any.
	// Refusal: errSeen.
	change struct {
		payment    uuid.UUID
		status     domain.PaymentStatus // "": as it is
		gatewayID  string               // "": as it is
		unsettled  bool                 // false: the gateway is asked no more
		unreadable string               // "": as it is
		refund     domain.RefundStatus  // "": as it is
		owed       domain.Money         // with domain.RefundOwed
		webhookID  string               // "" for none
		product    uuid.UUID            // with webhookID
		position   int64                // with webhookID, where there are no events
	}
)

// Guarded hands the item to an append.
func (i began) Guarded() eventstore.Guarded {
	return eventstore.Guarded{Guard: ledger{}, Data: i}
}

// Guarded hands the item to an append.
func (i change) Guarded() eventstore.Guarded {
	return eventstore.Guarded{Guard: ledger{}, Data: i}
}

// ledger is the guard that keeps the payments' rows, idempotency keys and
// callbacks' ids in the transaction of the events.
type ledger struct{}

// remembered is a key of payment_keys.
type remembered struct{ user, key uuid.UUID }

const (
	keysTakenSQL = `
select i.n from unnest($1::uuid[], $2::uuid[]) with ordinality as i(user_id, key, n)
join payment_keys k on k.user_id = i.user_id and k.idempotency_key = i.key`

	idsSeenSQL = `
select i.n from unnest($1::text[]) with ordinality as i(id, n) join webhook_ids w on w.id = i.id`
)

// Check implements eventstore.Guard.
func (ledger) Check(b *pgx.Batch, items []any, refused []error) {
	payments, keys, ids := map[uuid.UUID]bool{}, map[remembered]bool{}, map[string]bool{}
	var users, theirKeys []uuid.UUID
	var webhooks []string
	var starts, calls []int
	for n, it := range items {
		switch it := it.(type) {
		case began:
			key := remembered{it.user, it.key}
			if keys[key] {
				refused[n] = eventstore.ErrDefer
				continue
			}
			keys[key] = true
			users, theirKeys, starts = append(users, it.user), append(theirKeys, it.key), append(starts, n)
		case change:
			if payments[it.payment] || (it.webhookID != "" && ids[it.webhookID]) {
				refused[n] = eventstore.ErrDefer
				continue
			}
			payments[it.payment] = true
			if it.webhookID != "" {
				ids[it.webhookID] = true
				webhooks, calls = append(webhooks, it.webhookID), append(calls, n)
			}
		}
	}
	refuse := func(which []int, why error) func(pgx.Rows) error {
		return func(rows pgx.Rows) error {
			for rows.Next() {
				var n int
				if err := rows.Scan(&n); err != nil {
					return err
				}
				refused[which[n-1]] = why
			}
			return rows.Err()
		}
	}
	if len(starts) > 0 {
		b.Queue(keysTakenSQL, users, theirKeys).Query(refuse(starts, ErrKeyTaken))
	}
	if len(calls) > 0 {
		b.Queue(idsSeenSQL, webhooks).Query(refuse(calls, errSeen))
	}
}

const (
	beganSQL = `
insert into payments (payment_id, slot_id, product_id, user_id, amount, currency, method, status, initiated_at, posted_at, ask_at)
values ($1, $2, $3, $4, $5::text::numeric, $6, $7, $8, $9, $9, $10)`

	keySQL = `
insert into payment_keys (user_id, idempotency_key, body_hash, answer, product_id, position, created_at)
values ($1, $2, $3, $4, $5, $6, $7)`

	webhookSQL = `
insert into webhook_ids (id, product_id, position, seen_at)
select id, product, position, $4 from unnest($1::text[], $2::uuid[], $3::bigint[]) as w(id, product, position)`

	changeSQL = `
update payments p set
    status = coalesce(nullif(c.status, ''), p.status),
    gateway_payment_id = coalesce(nullif(c.gateway_id, ''), p.gateway_payment_id),
    unsettled = c.unsettled,
    ask_at = case when c.unsettled then $1::timestamptz + $2::interval end,
    ask_until = case when c.unsettled then $1::timestamptz + $3::interval else p.ask_until end,
    unreadable = coalesce(nullif(c.unreadable, ''), p.unreadable),
    refund_status = coalesce(nullif(c.refund, ''), p.refund_status),
    refund_amount = coalesce(c.owed, p.refund_amount),
    refund_currency = coalesce(nullif(c.currency, ''), p.refund_currency),
    refund_due_at = case c.refund when 'DUE' then $1::timestamptz else p.refund_due_at end,
    refund_ask_at = case c.refund when 'DUE' then $1::timestamptz when 'REFUNDED' then null else p.refund_ask_at end,
    refund_refused = case c.refund when 'REFUNDED' then null else p.refund_refused end
from unnest($4::uuid[], $5::text[], $6::text[], $7::bool[], $8::text[], $9::text[], $10::text[]::numeric[], $11::text[])
     as c(payment, status, gateway_id, unsettled, unreadable, refund, owed, currency)
where p.payment_id = c.payment`
)

// Apply implements eventstore.Guard.
func (ledger) Apply(b *pgx.Batch, at time.Time, items []eventstore.Applied) {
	var changes []change
	var ids []string
	var products []uuid.UUID
	var positions []int64
	for _, it := range items {
		switch data := it.Data.(type) {
		case began:
			data.write(b, at, it.Positions[len(it.Positions)-1])
		case change:
			changes = append(changes, data)
			if data.webhookID == "" {
				continue
			}
			position := data.position
			if n := len(it.Positions); n > 0 {
				position = it.Positions[n-1]
			}
			ids, products, positions = append(ids, data.webhookID), append(products, data.product), append(positions, position)
		}
	}
	if len(ids) > 0 {
		b.Queue(webhookSQL, ids, products, positions, at)
	}
	applyChanges(b, at, changes)
}

// answer is the payment as it is first answered.
func (i began) answer(at time.Time) view.Payment {
	p := i.Payment
	p.CreatedAt, p.UpdatedAt = at, at
	if p.Status == domain.SuccessfulPayment {
		p.ConfirmedAt = at
	}
	return view.PaymentOf(p, i.product, i.user)
}

func (i began) write(b *pgx.Batch, at time.Time, position int64) {
	var askAt *time.Time
	if i.Status == domain.PendingPayment {
		t := at.Add(handOver)
		askAt = &t
	}
	b.Queue(beganSQL, i.ID, i.SlotID, i.product, i.user, i.Price.String(), i.Price.Currency(), string(i.Method), string(i.Status), at, askAt)
	answer, err := json.Marshal(i.answer(at))
	if err != nil { // a struct of texts and times
		panic(err)
	}
	b.Queue(keySQL, i.user, i.key, i.bodyHash, answer, i.product, position, at)
}

func applyChanges(b *pgx.Batch, at time.Time, changes []change) {
	if len(changes) == 0 {
		return
	}
	n := len(changes)
	ids, unsettled := make([]uuid.UUID, n), make([]bool, n)
	status, gatewayIDs, unreadable := make([]string, n), make([]string, n), make([]string, n)
	refunds, owed, currencies := make([]string, n), make([]*string, n), make([]string, n)
	for i, c := range changes {
		ids[i], unsettled[i] = c.payment, c.unsettled
		status[i], gatewayIDs[i], unreadable[i] = string(c.status), c.gatewayID, c.unreadable
		refunds[i] = string(c.refund)
		if c.refund == domain.RefundOwed {
			amount := c.owed.String()
			owed[i], currencies[i] = &amount, c.owed.Currency()
		}
	}
	b.Queue(changeSQL, at, askFirst, askFor, ids, status, gatewayIDs, unsettled, unreadable, refunds, owed, currencies)
}
