package recovery

import (
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
	// Payments began and ended in what was lost: the store has none of their events, and
	// refuses the gateway's reports about them. They are for a person to compare.
	Payments []LostPayment
	// Undecodable is how many lost records about money could not be decoded.
	Undecodable int
}

// LostPayment is a payment whose beginning the store lost.
type LostPayment struct {
	Payment uuid.UUID
	Price   domain.Money
}

// LostRefund is a refund whose beginning the store lost.
type LostRefund struct {
	Refund, Payment uuid.UUID
	Charge          string // the gateway's id of the charge; "" if it is not known
	GatewayID       string // the gateway's id of the refund; "" if it is not known
	Completed       bool   // it was recorded as made
	Amount          domain.Money
}

// isMoney reports whether LostMoney depends on events of a type: those that begin something,
// and that a refund was made.
func isMoney(eventType string) bool {
	switch eventType {
	case domain.PaymentInitiated{}.EventType(), domain.RefundDue{}.EventType(), domain.RefundCompleted{}.EventType():
		return true
	}
	return false
}

// moneyRecord is a record about money, as far as it is decoded if it is lost.
type moneyRecord struct {
	value   []byte
	headers avsc.Headers
}

// decode returns the record's event, or undecodable.
func (p *partition) decode(ctx context.Context, rec *moneyRecord) domain.Event {
	e, err := p.decoder.Unmarshal(ctx, rec.value, rec.headers)
	if err != nil {
		return undecodable{}
	}
	return e.Event
}

// undecodable is an event about money that could not be decoded.
type undecodable struct{ domain.Event }

// add adds the lost events of a partition, in the order of their positions. The refund of a
// second charge is left out: the store lost the charge with it.
func (m *LostMoney) add(lost map[int64]domain.Event) {
	refunds := map[uuid.UUID]int{}
	for _, position := range slices.Sorted(maps.Keys(lost)) {
		switch e := lost[position].(type) {
		case domain.PaymentInitiated:
			m.Payments = append(m.Payments, LostPayment{e.PaymentID, e.Price})
		case domain.RefundDue:
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

// record stores the refunds for the worker, in the transaction that begins the incarnation:
// a recovery that is continued does not compare again.
func (m *LostMoney) record(ctx context.Context, tx pgx.Tx) error {
	batch := &pgx.Batch{}
	for _, r := range m.Refunds {
		batch.Queue(lostRefundSQL, r.Refund, r.Payment, r.Charge, r.GatewayID, r.Completed, r.Amount.Amount().String(), r.Amount.Currency())
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("record the lost refunds: %w", err)
	}
	return nil
}
