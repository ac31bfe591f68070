package payments

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/origin"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/gateway"
)

// ownerSQL reads whose payment it is, without reading its slot's history.
const ownerSQL = `select user_id from payments where payment_id = $1`

// Cancel requests that a pending payment is cancelled at the gateway, which the
// worker does. Repeating it changes nothing. Errors, in this order: ErrNoPayment,
// *domain.NotOwnerError, *RefusedError of a *domain.PaymentNotPendingError.
func (s *Service) Cancel(ctx context.Context, payment uuid.UUID, caller domain.Caller, by *origin.Origin) (Changed, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transitionTimeout)
	defer cancel()
	var owner uuid.UUID
	err := s.Pool.QueryRow(ctx, ownerSQL, payment).Scan(&owner)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Changed{}, ErrNoPayment
	case err != nil:
		return Changed{}, fmt.Errorf("read payment %s: %w", payment, err)
	case !caller.Admin && !(caller.Buyer && caller.User == owner):
		return Changed{}, &domain.NotOwnerError{}
	}
	t := &transition{Service: s, payment: payment, by: *by}
	var product uuid.UUID
	t.decide = func(_ context.Context, st *state) (change, error) {
		product = st.slot.ProductID
		events, err := st.slot.CancelPayment(payment)
		if err != nil {
			return change{}, &RefusedError{ProductPosition{st.slot.ProductID, st.last}, err}
		}
		return change{events: events, cancel: len(events) > 0}, nil
	}
	recorded, err := t.run(ctx)
	if err != nil {
		return Changed{ProductPosition: recorded}, err
	}
	return Changed{apimodel.PaymentOf(t.after, product, owner), recorded}, nil
}

const (
	// takeCancelSQL takes a payment that is to be cancelled for as long as the call
	// may take.
	takeCancelSQL = `
update payments set cancel_at = clock_timestamp() + $2::interval
where payment_id = $1 and cancel_at <= clock_timestamp() returning true`

	// cancelSentSQL ends the cancellation, but remembers that the gateway did not
	// know the payment: a post that was still under way may create it later.
	cancelSentSQL = `update payments set cancel_at = null, cancel_unknown = $2 where payment_id = $1`
)

// cancelStep asks the gateway to cancel a payment. Only a request without an
// answer is repeated, and one whose payment the gateway comes to know later; what
// became of the payment is queried.
func (s *Service) cancelStep(ctx context.Context, id uuid.UUID) error {
	var taken bool
	taking, cancel := context.WithTimeout(ctx, statementTimeout)
	err := s.Pool.QueryRow(taking, takeCancelSQL, id, handOver).Scan(&taken)
	cancel()
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("take the cancellation of payment %s: %w", id, err)
	}
	q, err := s.paymentQuery(ctx, id)
	if err != nil {
		return err
	}
	q.Unwanted = true
	answer, err := s.Gateway.CancelPayment(ctx, q)
	var rejected *gateway.Rejected
	unknown := errors.Is(err, gateway.ErrUnknownReference)
	switch {
	case unknown:
		if err := s.unknownPayment(ctx, id); err != nil {
			return err
		}
	case errors.As(err, &rejected):
		s.noteCredentials(ctx, err)
	case err != nil:
		return fmt.Errorf("cancel payment %s: %w", id, err)
	case answer.Status.Final():
		if _, err := s.ApplyReport(ctx, Report{Reference: id, Payment: answer}); err != nil {
			return err
		}
	}
	return s.exec(ctx, "note that a cancellation was answered", cancelSentSQL, id, unknown)
}

const (
	// cancelledSlotsSQL lists slots of cancelled sales that are active. A sale that
	// was cancelled stays so, and no slot of it becomes active again, so that the
	// index of active slots of a product is empty once all have ended.
	cancelledSlotsSQL = `
select c.slot_id from sale_cancellations s
cross join lateral (select slot_id from slot_claims where product_id = s.product_id and due_at is not null limit $1) c
limit $1`

	// cancelledPaymentsSQL lists purchases of cancelled sales whose refund was not
	// decided yet.
	cancelledPaymentsSQL = `
select p.payment_id from sale_cancellations s
cross join lateral (select payment_id from payments
                    where product_id = s.product_id and status = 'SUCCESS' and amount > 0 and not sale_refunded limit $1) p
limit $1`
)

// CancelledSlots lists active slots of cancelled sales, CancelledPurchases
// purchases of them that are still to be refunded, limit of them at most.
func (s *Service) CancelledSlots(ctx context.Context, limit int) ([]uuid.UUID, error) {
	return s.ids(ctx, cancelledSlotsSQL, limit)
}

// CancelledPurchases: see CancelledSlots.
func (s *Service) CancelledPurchases(ctx context.Context, limit int) ([]uuid.UUID, error) {
	return s.ids(ctx, cancelledPaymentsSQL, limit)
}

func (s *Service) ids(ctx context.Context, sql string, args ...any) ([]uuid.UUID, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	rows, err := s.Pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("list what is due of payments: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("list what is due of payments: %w", err)
	}
	return ids, nil
}

// EndCancelled ends an active slot of a cancelled sale. A payment that is pending
// fails in the same append, is cancelled at the gateway and queried further. It
// returns the slot's product, whose gate is to be synced.
func (s *Service) EndCancelled(ctx context.Context, slotID uuid.UUID) (uuid.UUID, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transitionTimeout)
	defer cancel()
	by := origin.Origin{Actor: domain.ActorSystem}
	for range maxAttempts {
		slot, _, err := s.Slot(ctx, slotID)
		if err != nil {
			return uuid.Nil, err
		}
		events := slot.ExpireCancelled()
		if len(events) == 0 {
			return slot.ProductID, nil
		}
		err = s.expire(ctx, slot, &by, events)
		if errors.Is(err, eventstore.ErrConflict) || errors.Is(err, claims.ErrNotActive) {
			continue
		}
		return slot.ProductID, err
	}
	return uuid.Nil, fmt.Errorf("expire slot %s: %w", slotID, eventstore.ErrConflict)
}

// RefundCancelled makes what is left of a purchase of a cancelled sale due, once.
func (s *Service) RefundCancelled(ctx context.Context, payment uuid.UUID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transitionTimeout)
	defer cancel()
	t := &transition{Service: s, payment: payment, by: origin.Origin{Actor: domain.ActorSystem}}
	t.decide = func(_ context.Context, st *state) (change, error) {
		return change{events: st.slot.RefundCancelledSale(payment), write: true, saleRefunded: true}, nil
	}
	_, err := t.run(ctx)
	return err
}

// cancellationSQL counts a cancelled sale's purchases, by the index of purchases.
const cancellationSQL = `
select count(*), count(*) filter (where settled = 'refunded'), count(*) filter (where settled = 'failed')
from payments where product_id = $1 and status = 'SUCCESS' and amount > 0`

// Cancellation returns the counts of a cancelled sale.
func (s *Service) Cancellation(ctx context.Context, product uuid.UUID) (apimodel.Cancellation, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var c apimodel.Cancellation
	if err := s.Pool.QueryRow(ctx, cancellationSQL, product).Scan(&c.Purchases, &c.Refunded, &c.Failed); err != nil {
		return apimodel.Cancellation{}, fmt.Errorf("count the purchases of product %s: %w", product, err)
	}
	c.Open = c.Purchases - c.Refunded - c.Failed
	return c, nil
}
