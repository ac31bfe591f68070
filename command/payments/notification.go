package payments

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/command/origin"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/gateway"
)

// ActorGateway is the actor of what was done at the gateway.
const ActorGateway = "gateway"

// Notify brings a verified callback to its effect, once for each id. The error is
// ErrNoPayment; ErrDelayed or ErrQuery, after which the gateway should send it
// again; or that of a Postgres that is away.
func (s *Service) Notify(ctx context.Context, n gateway.Notification) (ProductPosition, error) {
	if p, ok := n.Payment(); ok {
		return s.ApplyReport(ctx, Report{Reference: n.Reference, Payment: p, WebhookID: n.ID})
	}
	switch n.Kind {
	case gateway.RefundHasSucceeded, gateway.RefundHasFailed:
		return s.notifyRefund(ctx, n)
	case gateway.PaymentRefunded:
		return s.refundedAtGateway(ctx, n, origin.NewID())
	case gateway.PaymentDisputed, gateway.PaymentDisputeClosed, gateway.PaymentReversed:
		return s.notifyDispute(ctx, n)
	}
	return ProductPosition{}, nil
}

// notifyRefund reports a refund that we requested. An unknown one was made at the
// gateway, if it was made.
func (s *Service) notifyRefund(ctx context.Context, n gateway.Notification) (ProductPosition, error) {
	e, err := s.entry(ctx, n.Reference, n.ID)
	if err != nil || e.seen {
		return e.recorded, err
	}
	st, err := s.state(ctx, n.Reference, e)
	if err != nil {
		return ProductPosition{}, err
	}
	refund, known := st.payment.Refund(n.RefundReference)
	if !known {
		refund, known = st.payment.RefundOfGateway(n.RefundID)
	}
	status := domain.CompletedRefund
	if n.Kind == gateway.RefundHasFailed {
		status = domain.FailedRefund
	}
	switch {
	case known:
		return s.reportRefund(ctx, domain.RefundReport{
			PaymentID: n.Reference, RefundID: refund.ID, GatewayRefundID: n.RefundID, Status: status, Reason: n.FailureReason,
		}, n.ID)
	case status == domain.CompletedRefund:
		return s.refundedAtGateway(ctx, n, origin.NewID())
	}
	return s.remember(ctx, n) // an unknown refund that was not made
}

// remember keeps the id of a callback that has no effect.
func (s *Service) remember(ctx context.Context, n gateway.Notification) (ProductPosition, error) {
	t := &transition{Service: s, payment: n.Reference, webhookID: n.ID, by: origin.Origin{Actor: domain.ActorSystem}}
	t.decide = func(context.Context, *state) (change, error) { return change{}, nil }
	return t.run(ctx)
}

// refundedAtGateway records a refund that was made at the gateway, under the given id. The
// payment is queried first if its success is not recorded, and our refunds that are not
// final, of which it may be one.
func (s *Service) refundedAtGateway(ctx context.Context, n gateway.Notification, id uuid.UUID) (ProductPosition, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transitionTimeout)
	defer cancel()
	if err := s.queryIfNotTaken(ctx, n.Reference); err != nil {
		return ProductPosition{}, err
	}
	unknown, err := s.queryOpenRefunds(ctx, n.Reference)
	if err != nil {
		return ProductPosition{}, err
	}
	t := &transition{Service: s, payment: n.Reference, webhookID: n.ID, by: origin.Origin{Actor: ActorGateway}}
	t.decide = func(_ context.Context, st *state) (change, error) {
		result := st.slot.RefundedAtGateway(domain.GatewayRefund{
			PaymentID: n.Reference, GatewayRefundID: n.RefundID, GatewayPaymentID: n.PaymentID,
			Amount: moneyOf(n.Paid), Unreadable: unreadableOf(n.Paid), NewID: id, Queried: true, Unknown: unknown,
		})
		if result.Query { // a refund of ours that is final: only its own report changes it
			refund, _ := st.payment.RefundOfGateway(n.RefundID)
			answer, found, err := s.findRefund(ctx, st.payment, refund.ID)
			if err != nil || !found {
				return change{}, err
			}
			result = st.slot.ReportRefund(domain.RefundReport{PaymentID: n.Reference, RefundID: refund.ID, GatewayRefundID: answer.ID,
				Status: refundStatus(answer.Status), Reason: answer.FailureReason, Confirmed: true})
		}
		return change{events: result.Events}, nil
	}
	return t.run(ctx)
}

// queryOpenRefunds queries the gateway about the refunds of a payment that are not
// final, records the answers, and returns those that the gateway does not know.
func (s *Service) queryOpenRefunds(ctx context.Context, payment uuid.UUID) (unknown map[uuid.UUID]bool, err error) {
	e, err := s.entry(ctx, payment, "")
	if err != nil {
		return nil, err
	}
	st, err := s.state(ctx, payment, e)
	if err != nil {
		return nil, err
	}
	unknown = map[uuid.UUID]bool{}
	for _, r := range st.payment.Refunds {
		if !r.Open() {
			continue
		}
		answer, found, err := s.findRefund(ctx, st.payment, r.ID)
		if err != nil {
			return nil, err
		}
		if !found {
			unknown[r.ID] = true
			continue
		}
		request := gateway.RefundRequest{RefundID: r.ID, Reference: payment}
		if err := s.applyRefund(ctx, request, answer); err != nil {
			return nil, err
		}
	}
	return unknown, nil
}

// queryIfNotTaken queries the gateway about a payment of which nothing is known to
// be taken, and records the answer. The error is ErrQuery if it cannot be
// queried.
func (s *Service) queryIfNotTaken(ctx context.Context, payment uuid.UUID) error {
	e, err := s.entry(ctx, payment, "")
	if err != nil {
		return err
	}
	st, err := s.state(ctx, payment, e)
	if err != nil || st.payment.WasTaken() {
		return err
	}
	q, err := s.paymentQuery(ctx, payment)
	if err != nil {
		return err
	}
	answer, err := s.Gateway.FindPayment(ctx, q)
	switch {
	case errors.Is(err, gateway.ErrUnknownReference):
		return nil
	case err != nil:
		return fmt.Errorf("%w: payment %s: %w", ErrQuery, payment, err)
	case !answer.Status.Final():
		return nil
	}
	_, err = s.ApplyReport(ctx, Report{Reference: payment, Payment: answer})
	return err
}

// notifyDispute records a dispute or a reversal. The payment is queried first if
// its success is not recorded.
func (s *Service) notifyDispute(ctx context.Context, n gateway.Notification) (ProductPosition, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transitionTimeout)
	defer cancel()
	if err := s.queryIfNotTaken(ctx, n.Reference); err != nil {
		return ProductPosition{}, err
	}
	t := &transition{Service: s, payment: n.Reference, webhookID: n.ID, by: origin.Origin{Actor: domain.ActorSystem}}
	t.decide = func(ctx context.Context, st *state) (change, error) {
		posted, _, err := s.refundStates(ctx, n.Reference)
		if err != nil {
			return change{}, err
		}
		var result domain.RefundResult
		if n.Kind == gateway.PaymentReversed {
			result = st.slot.ReportReversal(domain.ReversalReport{
				PaymentID: n.Reference, GatewayPaymentID: n.PaymentID, Reason: n.FailureReason, Queried: true, Posted: posted})
		} else {
			result = st.slot.ReportDispute(domain.DisputeReport{
				PaymentID: n.Reference, GatewayPaymentID: n.PaymentID, DisputeID: n.DisputeID,
				Closed: n.Kind == gateway.PaymentDisputeClosed, Won: n.Won, Queried: true, Posted: posted})
		}
		return change{events: result.Events, unposted: unpostedOf(result.Events)}, nil
	}
	return t.run(ctx)
}

// noteActionSQL keeps what the buyer has to do next, and that the gateway knows of
// the payment.
const noteActionSQL = `
update payments set accepted = true, next_action = coalesce($2::jsonb, next_action),
                    gateway_payment_id = coalesce(nullif($3, ''), gateway_payment_id),
                    ask_at = greatest(ask_at, clock_timestamp() + $4::interval)
where payment_id = $1 and status = 'PENDING'`

// noteAction stores the contents of a status that is not final. After an outcome it means
// nothing.
func (s *Service) noteAction(ctx context.Context, r Report) (ProductPosition, error) {
	var action *string
	if r.NextAction != nil {
		text, err := json.Marshal(r.NextAction)
		if err != nil {
			return ProductPosition{}, err
		}
		b := string(text)
		action = &b
	}
	e, err := s.entry(ctx, r.Reference, "")
	if err != nil {
		return ProductPosition{}, err
	}
	return ProductPosition{Product: e.product}, s.exec(ctx, "note a payment's next action", noteActionSQL, r.Reference, action, domain.PlainID(r.ID), queryInterval)
}
