package payments

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/apimodel"
)

const (
	// handOver is how long a payment, or a refund, is left to the process that
	// posts it. About as long as that takes; posting twice does no harm.
	handOver = 10 * time.Second
	// queryFirst is how long after we failed it without an outcome a payment is
	// queried first, and the interval of queries for an hour.
	queryFirst = time.Minute
	// queryFor is how long such a payment is queried.
	queryFor = 7 * 24 * time.Hour
)

type (
	// began is a new payment with its idempotency key, together with PaymentInitiated.
	// Refusal: ErrKeyTaken.
	began struct {
		domain.Payment
		product, user uuid.UUID
		key           uuid.UUID
		bodyHash      []byte
		request       []byte // the body of the POST to the gateway; nil for none
	}
	// ledgerChange is a change of a payment, with or without events.
	// Refusals: errSeen, ErrKeyTaken, errRetry (a refund was posted meanwhile).
	ledgerChange struct {
		change
		before, after domain.Payment
		webhookID     string    // "" for none
		product       uuid.UUID // with webhookID
		position      int64     // with webhookID, if there are no events
	}
	// refundKey is the idempotency key of a refund by an admin.
	refundKey struct {
		payment, key uuid.UUID
		bodyHash     []byte
		refund       uuid.UUID
	}
)

// GuardItem returns the item for an append.
func (i began) GuardItem() eventstore.GuardItem {
	return eventstore.GuardItem{Guard: ledger{}, Data: i}
}

// GuardItem returns the item for an append.
func (i ledgerChange) GuardItem() eventstore.GuardItem {
	return eventstore.GuardItem{Guard: ledger{}, Data: i}
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

	refundKeysTakenSQL = `
select i.n from unnest($1::uuid[], $2::uuid[]) with ordinality as i(payment, key, n)
join refund_keys k on k.payment_id = i.payment and k.idempotency_key = i.key`

	idsSeenSQL = `
select i.n from unnest($1::text[]) with ordinality as i(id, n) join webhook_ids w on w.id = i.id`

	// postedSQL locks the rows: a process that is about to post one waits, and then sees
	// that it is not due any more. The CTE is materialized so that posted_at is compared
	// after the lock: a condition on a subquery would be applied before it, to the row as it
	// was, and a refund that is being posted would be neither locked nor seen.
	postedSQL = `
with locked as materialized (
    select i.n, r.posted_at from unnest($1::uuid[]) with ordinality as i(id, n)
    join payment_refunds r on r.refund_id = i.id for update of r)
select n from locked where posted_at is not null`
)

// Check implements eventstore.Guard.
func (ledger) Check(b *pgx.Batch, items []any, refused []error) {
	payments, keys, ids := map[uuid.UUID]bool{}, map[remembered]bool{}, map[string]bool{}
	var users, theirKeys, refundsOf, refundKeys, unposted []uuid.UUID
	var webhooks []string
	var starts, calls, asked, reversals []int
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
		case ledgerChange:
			if payments[it.after.ID] || it.webhookID != "" && ids[it.webhookID] {
				refused[n] = eventstore.ErrDefer
				continue
			}
			payments[it.after.ID] = true
			if it.webhookID != "" {
				ids[it.webhookID] = true
				webhooks, calls = append(webhooks, it.webhookID), append(calls, n)
			}
			if k := it.key; k != nil {
				refundsOf, refundKeys, asked = append(refundsOf, k.payment), append(refundKeys, k.key), append(asked, n)
			}
			for _, id := range it.unposted {
				unposted, reversals = append(unposted, id), append(reversals, n)
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
	if len(asked) > 0 {
		b.Queue(refundKeysTakenSQL, refundsOf, refundKeys).Query(refuse(asked, ErrKeyTaken))
	}
	if len(calls) > 0 {
		b.Queue(idsSeenSQL, webhooks).Query(refuse(calls, errSeen))
	}
	if len(unposted) > 0 {
		b.Queue(postedSQL, unposted).Query(refuse(reversals, errRetry))
	}
}

const (
	beganSQL = `
insert into payments (payment_id, slot_id, product_id, user_id, amount, currency, method, status, initiated_at, posted_at, ask_at, request)
values ($1, $2, $3, $4, $5::text::numeric, $6, $7, $8, $9, $9, $10, $11)`

	keySQL = `
insert into payment_keys (user_id, idempotency_key, body_hash, answer, product_id, position, created_at)
values ($1, $2, $3, $4, $5, $6, $7)`

	refundKeySQL = `
insert into refund_keys (payment_id, idempotency_key, body_hash, answer, product_id, position, created_at)
values ($1, $2, $3, $4, $5, $6, $7)`

	webhookSQL = `
insert into webhook_ids (id, product_id, position, seen_at)
select id, product, position, $4 from unnest($1::text[], $2::uuid[], $3::bigint[]) as w(id, product, position)`

	// What was pending keeps its place among the queries unless a plan says
	// otherwise. An outcome ends the next action, and a cancellation that was not
	// sent yet if the gateway reported it.
	changeSQL = `
update payments p set
    status = c.status,
    slot_id = c.slot,
    gateway_payment_id = coalesce(nullif(c.gateway_id, ''), p.gateway_payment_id),
    unsettled = case c.plan when 'query' then true when 'settle' then false when 'once' then false else p.unsettled end,
    ask_at = case c.plan when 'query' then $1::timestamptz + $2::interval when 'settle' then null
                         when 'now' then $1::timestamptz when 'once' then $1::timestamptz else p.ask_at end,
    ask_until = case when c.plan in ('query', 'now') then $1::timestamptz + $3::interval else p.ask_until end,
    cancel_requested = p.cancel_requested or c.cancel_requested,
    cancel_at = case when c.cancel then $1::timestamptz when c.plan in ('settle', 'once') then null else p.cancel_at end,
    next_action = case when c.status = 'PENDING' then p.next_action end,
    disputed = c.disputed, reversed = c.reversed, settled = nullif(c.settled, ''),
    sale_refunded = p.sale_refunded or c.sale_refunded
from unnest($4::uuid[], $5::uuid[], $6::text[], $7::text[], $8::text[], $9::bool[], $10::bool[], $11::bool[], $12::bool[], $13::text[], $14::bool[])
     as c(payment, slot, status, gateway_id, plan, cancel, cancel_requested, disputed, reversed, settled, sale_refunded)
where p.payment_id = c.payment`

	// A refund of a disputed payment is not posted before the dispute has ended; one
	// that may have reached the gateway is queried all the same.
	refundSQL = `
insert into payment_refunds as r (refund_id, payment_id, charge, gateway_refund_id, amount, currency, status, due_at, ask_at)
select i.id, i.payment, i.charge, nullif(i.gateway_id, ''), i.amount, i.currency, i.status, $1,
       case when i.status in ('DUE', 'PENDING') and not i.held then $1::timestamptz end
from unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[]::numeric[], $7::text[], $8::text[], $9::bool[])
     as i(id, payment, charge, gateway_id, amount, currency, status, held)
on conflict (refund_id) do update set
    status = excluded.status,
    gateway_refund_id = coalesce(excluded.gateway_refund_id, r.gateway_refund_id),
    due_at = case when $10::uuid[] @> array[r.refund_id] or r.ask_at is null and excluded.ask_at is not null then $1 else r.due_at end,
    reported = r.reported and not $10::uuid[] @> array[r.refund_id],
    ask_at = case when excluded.status not in ('DUE', 'PENDING') then null
                  when $10::uuid[] @> array[r.refund_id] then $1::timestamptz
                  when excluded.ask_at is null and r.posted_at is null then null
                  when r.ask_at is null then $1::timestamptz
                  else r.ask_at end`

	attentionGoneSQL = `delete from payment_attention where payment_id = any($1)`

	attentionSQL = `
insert into payment_attention (payment_id, n, cause, refund_id, code, since)
select payment, n, cause, nullif(refund, '00000000-0000-0000-0000-000000000000'::uuid), code, since
from unnest($1::uuid[], $2::int[], $3::text[], $4::uuid[], $5::text[], $6::timestamptz[]) as a(payment, n, cause, refund, code, since)`
)

// Apply implements eventstore.Guard.
func (ledger) Apply(b *pgx.Batch, at time.Time, items []eventstore.Applied) {
	var changes []ledgerChange
	var ids []string
	var products []uuid.UUID
	var positions []int64
	for _, it := range items {
		switch data := it.Data.(type) {
		case began:
			data.write(b, at, it.Positions[len(it.Positions)-1])
		case ledgerChange:
			changes = append(changes, data)
			position := data.position
			if n := len(it.Positions); n > 0 {
				position = it.Positions[n-1]
			}
			if data.key != nil {
				data.remember(b, at, position)
			}
			if data.webhookID == "" {
				continue
			}
			ids, products, positions = append(ids, data.webhookID), append(products, data.product), append(positions, position)
		}
	}
	if len(ids) > 0 {
		b.Queue(webhookSQL, ids, products, positions, at)
	}
	applyChanges(b, at, changes)
	applyRefunds(b, at, changes)
	applyAttention(b, at, changes)
}

// answer is the payment as it is in the first response.
func (i began) answer(at time.Time) apimodel.Payment {
	p := i.Payment
	p.CreatedAt, p.UpdatedAt = at, at
	if p.Status == domain.SuccessfulPayment {
		p.ConfirmedAt, p.Taken = at, p.Price
	}
	return apimodel.PaymentOf(p, i.product, i.user)
}

func (i began) write(b *pgx.Batch, at time.Time, position int64) {
	var askAt *time.Time
	if i.Status == domain.PendingPayment {
		t := at.Add(handOver)
		askAt = &t
	}
	b.Queue(beganSQL, i.ID, i.SlotID, i.product, i.user, i.Price.String(), i.Price.Currency(), string(i.Method), string(i.Status), at, askAt, i.request)
	answer, err := json.Marshal(i.answer(at))
	if err != nil { // a struct of texts and times
		panic(err)
	}
	b.Queue(keySQL, i.user, i.key, i.bodyHash, answer, i.product, position, at)
}

func (c ledgerChange) remember(b *pgx.Batch, at time.Time, position int64) {
	r, _ := c.after.Refund(c.key.refund)
	r.CreatedAt, r.UpdatedAt = at, at
	answer, err := json.Marshal(apimodel.RefundOf(r, c.after.ID))
	if err != nil { // likewise
		panic(err)
	}
	b.Queue(refundKeySQL, c.key.payment, c.key.key, c.key.bodyHash, answer, c.product, position, at)
}

// settledOf is what of a purchase's money the counts of a cancelled sale show.
func settledOf(p domain.Payment) string {
	switch p.Settlement() {
	case domain.SettledRefunded:
		return "refunded"
	case domain.SettledFailed:
		return "failed"
	}
	return ""
}

func applyChanges(b *pgx.Batch, at time.Time, changes []ledgerChange) {
	if len(changes) == 0 {
		return
	}
	n := len(changes)
	ids, slots := make([]uuid.UUID, n), make([]uuid.UUID, n)
	status, gatewayIDs, plans, settled := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	cancel, requested, disputed, reversed, saleRefunded := make([]bool, n), make([]bool, n), make([]bool, n), make([]bool, n), make([]bool, n)
	for i, c := range changes {
		ids[i], slots[i], status[i] = c.after.ID, c.after.SlotID, string(c.after.Status)
		gatewayIDs[i] = c.after.GatewayID
		if gatewayIDs[i] == "" {
			gatewayIDs[i] = c.gatewayID
		}
		plans[i], settled[i] = string(c.plan), settledOf(c.after)
		cancel[i], requested[i] = c.cancel, c.after.CancelRequested
		disputed[i], reversed[i], saleRefunded[i] = c.after.Disputed(), c.after.Reversed, c.saleRefunded
	}
	b.Queue(changeSQL, at, queryFirst, queryFor, ids, slots, status, gatewayIDs, plans, cancel, requested, disputed, reversed, settled, saleRefunded)
}

// applyRefunds writes the refunds of payments whose refunds or disputes changed.
func applyRefunds(b *pgx.Batch, at time.Time, changes []ledgerChange) {
	var ids, payments, now []uuid.UUID
	var charges, gatewayIDs, amounts, currencies, status []string
	var held []bool
	for _, c := range changes {
		now = append(now, c.post...)
		for i, r := range c.after.Refunds {
			same := i < len(c.before.Refunds) && c.before.Refunds[i].Status == r.Status && c.before.Refunds[i].GatewayID == r.GatewayID
			if same && c.before.Disputed() == c.after.Disputed() && len(c.post) == 0 {
				continue
			}
			ids, payments = append(ids, r.ID), append(payments, c.after.ID)
			charges, gatewayIDs = append(charges, r.ChargeID), append(gatewayIDs, r.GatewayID)
			amounts, currencies = append(amounts, r.Amount.String()), append(currencies, r.Amount.Currency())
			status, held = append(status, string(r.Status)), append(held, c.after.Disputed() && r.Status == domain.DueRefund)
		}
	}
	if len(ids) > 0 {
		if now == nil {
			now = []uuid.UUID{}
		}
		b.Queue(refundSQL, at, ids, payments, charges, gatewayIDs, amounts, currencies, status, held, now)
	}
}

// applyAttention writes what waits for an operator, of the payments of which that changed.
func applyAttention(b *pgx.Batch, at time.Time, changes []ledgerChange) {
	var gone, payments, refunds []uuid.UUID
	var ns []int32
	var causes, codes []string
	var since []time.Time
	for _, c := range changes {
		items := c.after.Attention()
		if slices.Equal(c.before.Attention(), items) {
			continue
		}
		gone = append(gone, c.after.ID)
		for _, item := range items {
			if item.Since.IsZero() { // of the events of this append
				item.Since = at
			}
			payments, ns, causes = append(payments, c.after.ID), append(ns, int32(item.Number)), append(causes, string(item.Cause))
			refunds, codes, since = append(refunds, item.Refund), append(codes, item.Code), append(since, item.Since)
		}
	}
	if len(gone) > 0 {
		b.Queue(attentionGoneSQL, gone)
	}
	if len(payments) > 0 {
		b.Queue(attentionSQL, payments, ns, causes, refunds, codes, since)
	}
}
