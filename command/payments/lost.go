package payments

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/internal/gateway"
)

const (
	// takeLostSQL takes a lost refund for as long as a call may take, like takeRefundSQL.
	takeLostSQL = `
update lost_refunds set
    ask_at = clock_timestamp() + greatest($2::interval, least(interval '5 min', (clock_timestamp() - found_at) / 2))
where refund_id = $1 and ask_at <= clock_timestamp()
returning payment_id, charge, gateway_refund_id, completed, amount::text, currency`

	lostOutcomeSQL = `update lost_refunds set outcome = $2, ask_at = null where refund_id = $1`
)

// The outcomes of lost refunds.
const (
	lostRecorded  = "RECORDED"   // it was made, and that is recorded
	lostNotMade   = "NOT_MADE"   // the gateway has not made it
	lostNoPayment = "NO_PAYMENT" // the store lost the payment, too
)

// lostRefundStep queries the gateway about a refund whose events a restore of the store
// lost, and records it like one that was made at the gateway, under the id that it had. One
// that the gateway does not know under that id was made there if a lost event says so.
func (s *Service) lostRefundStep(ctx context.Context, id uuid.UUID) error {
	r := gateway.RefundRequest{RefundID: id}
	var completed bool
	var amount, currency string
	taking, cancel := context.WithTimeout(ctx, statementTimeout)
	err := s.Pool.QueryRow(taking, takeLostSQL, id, handOver).Scan(&r.Reference, &r.GatewayPaymentID, &r.GatewayRefundID, &completed, &amount, &currency)
	cancel()
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("take lost refund %s: %w", id, err)
	}
	if r.Amount, err = money(amount, currency); err != nil {
		return fmt.Errorf("lost refund %s: %w", id, err)
	}
	answer, err := s.Gateway.FindRefund(ctx, r)
	switch {
	case errors.Is(err, gateway.ErrUnknownReference) && completed && r.GatewayRefundID != "":
		answer = gateway.Refund{ID: r.GatewayRefundID, Status: gateway.RefundSucceeded}
	case errors.Is(err, gateway.ErrUnknownReference):
		return s.lostOutcome(ctx, r, lostNotMade)
	case err != nil:
		return s.refundUnknown(r, err)
	}
	switch answer.Status {
	case gateway.RefundPending:
		return nil
	case gateway.RefundFailed:
		return s.lostOutcome(ctx, r, lostNotMade)
	}
	n := gateway.Notification{Kind: gateway.PaymentRefunded, Reference: r.Reference, PaymentID: r.GatewayPaymentID, RefundID: answer.ID, Paid: &gateway.Paid{Money: r.Amount}}
	switch _, err = s.refundedAtGateway(ctx, n, id); {
	case errors.Is(err, ErrNoPayment):
		return s.lostOutcome(ctx, r, lostNoPayment)
	case err != nil:
		return fmt.Errorf("record lost refund %s: %w", id, err)
	}
	return s.lostOutcome(ctx, r, lostRecorded)
}

func (s *Service) lostOutcome(ctx context.Context, r gateway.RefundRequest, outcome string) error {
	s.Logger.WarnContext(ctx, "lost refund has an outcome", "payment", r.Reference, "refund", r.RefundID, "outcome", outcome)
	return s.exec(ctx, "note the outcome of a lost refund", lostOutcomeSQL, r.RefundID, outcome)
}
