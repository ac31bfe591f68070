package recovery

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
)

// LostMoney is what the topic knows of payments and the store lost.
type LostMoney struct {
	// Refunds are queried at the gateway by the worker, and recorded if they were made.
	Refunds []LostRefund
	// Payments began in what was lost: the store has none of their events, and refuses the
	// gateway's reports about them. An operator compares them with the provider's list.
	Payments []LostPayment
	// Undecodable is how many lost records about money could not be decoded.
	Undecodable int
}

// LostPayment is a payment whose beginning the store lost.
type LostPayment struct {
	Payment, Slot, User, Product uuid.UUID
	Amount, Currency             string
	GatewayID                    string // the gateway's id of the charge; "" if it is not known
	Outcome                      string // paymentPending, ...: the last one in the topic
}

// The outcomes of lost payments.
const (
	paymentPending = "PENDING"
	paymentSuccess = "SUCCESS"
	paymentFailed  = "FAILED"
)

// LostRefund is a refund whose beginning the store lost.
type LostRefund struct {
	Refund, Payment uuid.UUID
	Charge          string // the gateway's id of the charge; "" if it is not known
	GatewayID       string // the gateway's id of the refund; "" if it is not known
	Completed       bool   // it was recorded as made
	Amount          domain.Money
}

// isMoney reports whether LostMoney depends on events of a type: those that begin something,
// the outcomes of payments, and that a refund was made.
func isMoney(eventType string) bool {
	switch eventType {
	case domain.PaymentInitiated{}.EventType(), domain.PaymentCompleted{}.EventType(), domain.PaymentFailed{}.EventType(),
		domain.PaymentRegranted{}.EventType(), domain.RefundDue{}.EventType(), domain.RefundCompleted{}.EventType():
		return true
	}
	return false
}

// moneyRecord is a record about money, as far as it is decoded if it is lost.
type moneyRecord struct {
	key     string
	value   []byte
	headers avsc.Headers
}

// lostEvent is an event about money that the store lost.
type lostEvent struct {
	domain.Event
	stream, product uuid.UUID
}

// decode returns the record's event, or undecodable.
func (p *partition) decode(ctx context.Context, rec *moneyRecord) lostEvent {
	e, err := p.decoder.Unmarshal(ctx, rec.value, rec.headers)
	if err != nil {
		return lostEvent{Event: undecodable{}}
	}
	product, err := uuid.Parse(rec.key)
	if err != nil {
		return lostEvent{Event: undecodable{}}
	}
	return lostEvent{e.Event, rec.headers.StreamID, product}
}

// undecodable is an event about money that could not be decoded.
type undecodable struct{ domain.Event }

// add adds the lost events of a partition, in the order of their positions. The refund of a
// second charge is left out: the store lost the charge with it.
func (m *LostMoney) add(lost map[int64]lostEvent) {
	refunds, payments := map[uuid.UUID]int{}, map[uuid.UUID]int{}
	outcome := func(payment uuid.UUID, outcome, gatewayID string) {
		if i, ok := payments[payment]; ok {
			m.Payments[i].Outcome, m.Payments[i].GatewayID = outcome, cmp.Or(gatewayID, m.Payments[i].GatewayID)
		}
	}
	moved := func(payment, slot uuid.UUID) {
		if i, ok := payments[payment]; ok {
			m.Payments[i].Slot = slot
		}
	}
	for _, position := range slices.Sorted(maps.Keys(lost)) {
		rec := lost[position]
		switch e := rec.Event.(type) {
		case domain.PaymentInitiated:
			if _, again := payments[e.PaymentID]; again {
				continue
			}
			payments[e.PaymentID] = len(m.Payments)
			m.Payments = append(m.Payments, LostPayment{Payment: e.PaymentID, Slot: rec.stream, User: e.UserID, Product: rec.product,
				Amount: e.Price.Amount().String(), Currency: e.Price.Currency(), Outcome: paymentPending})
		case domain.PaymentCompleted:
			outcome(e.PaymentID, paymentSuccess, e.GatewayPaymentID)
			moved(e.PaymentID, rec.stream)
		case domain.PaymentRegranted:
			outcome(e.PaymentID, paymentSuccess, e.GatewayPaymentID)
			moved(e.PaymentID, e.NewSlotID)
		case domain.PaymentFailed:
			outcome(e.PaymentID, paymentFailed, e.GatewayPaymentID)
		case domain.RefundDue:
			outcome(e.PaymentID, paymentSuccess, e.GatewayPaymentID) // it was taken, perhaps too late to buy anything
			if _, again := refunds[e.RefundID]; again || e.Cause == domain.RefundDuplicateCharge {
				continue
			}
			refunds[e.RefundID] = len(m.Refunds)
			m.Refunds = append(m.Refunds, LostRefund{Refund: e.RefundID, Payment: e.PaymentID, Charge: e.GatewayPaymentID, Amount: e.Amount})
		case domain.RefundCompleted:
			if i, ok := refunds[e.RefundID]; ok {
				m.Refunds[i].Completed, m.Refunds[i].GatewayID = true, e.GatewayRefundID
			}
		case undecodable:
			m.Undecodable++
		}
	}
}

// join adds what another partition lost.
func (m *LostMoney) join(o LostMoney) {
	m.Refunds, m.Payments, m.Undecodable = append(m.Refunds, o.Refunds...), append(m.Payments, o.Payments...), m.Undecodable+o.Undecodable
}

const lostRefundSQL = `
INSERT INTO lost_refunds (refund_id, payment_id, charge, gateway_refund_id, completed, amount, currency)
VALUES ($1, $2, $3, $4, $5, $6::numeric, $7) ON CONFLICT DO NOTHING`

const lostPaymentSQL = `
INSERT INTO lost_payments (payment_id, slot_id, user_id, product_id, amount, currency, gateway_payment_id, outcome, incarnation)
VALUES ($1, $2, $3, $4, $5::numeric, $6, $7, $8, $9) ON CONFLICT DO NOTHING`

// record stores the refunds for the worker and the payments for an operator, in the
// transaction that begins the incarnation: a recovery that is continued does not compare again.
func (m *LostMoney) record(ctx context.Context, tx pgx.Tx, incarnation int64) error {
	batch := &pgx.Batch{}
	for _, r := range m.Refunds {
		batch.Queue(lostRefundSQL, r.Refund, r.Payment, r.Charge, r.GatewayID, r.Completed, r.Amount.Amount().String(), r.Amount.Currency())
	}
	for _, p := range m.Payments {
		batch.Queue(lostPaymentSQL, p.Payment, p.Slot, p.User, p.Product, p.Amount, p.Currency, p.GatewayID, p.Outcome, incarnation)
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("record the lost refunds and payments: %w", err)
	}
	return nil
}

// lostPayments reads the payments that the recovery of an incarnation found.
func lostPayments(ctx context.Context, conn *pgx.Conn, incarnation int64) ([]LostPayment, error) {
	rows, err := conn.Query(ctx, `
		SELECT payment_id, slot_id, user_id, product_id, trim_scale(amount)::text, currency, gateway_payment_id, outcome
		FROM lost_payments WHERE incarnation = $1 ORDER BY payment_id`, incarnation)
	if err != nil {
		return nil, fmt.Errorf("read the lost payments: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p LostPayment, err error) {
		err = row.Scan((*[16]byte)(&p.Payment), (*[16]byte)(&p.Slot), (*[16]byte)(&p.User), (*[16]byte)(&p.Product),
			&p.Amount, &p.Currency, &p.GatewayID, &p.Outcome)
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the lost payments: %w", err)
	}
	return all, nil
}
