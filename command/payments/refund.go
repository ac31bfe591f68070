package payments

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/command/origin"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/attention"
	"github.com/dopaminestore/dopamine/internal/gateway"
)

// RequestRefund is an admin's request to refund a payment.
type RequestRefund struct {
	Payment    uuid.UUID
	Key        uuid.UUID        // the idempotency key
	Amount     *decimal.Decimal // above 0; nil: all that no other refund covers
	ReturnUnit bool
	Reason     string // a code
}

// bodyHash is the same for bodies that request the same by value.
func (c RequestRefund) bodyHash() []byte {
	amount := ""
	if c.Amount != nil {
		amount = c.Amount.String()
	}
	h := sha256.Sum256([]byte(amount + "|" + strconv.FormatBool(c.ReturnUnit) + "|" + c.Reason))
	return h[:]
}

// Refunded is the response to RequestRefund.
type Refunded struct {
	Refund apimodel.Refund
	ProductPosition
}

// RequestRefund makes a refund due, or returns what was returned first to its key.
// The worker posts it. Errors, in this order: ErrNoPayment, ErrKeyReused, then
// those of domain.Slot's RequestRefund with their position in the store, as
// *RefusedError, and a *domain.MoneyError for an amount that is none of the
// payment's currency.
func (s *Service) RequestRefund(ctx context.Context, c RequestRefund, by *origin.Origin) (Refunded, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transitionTimeout)
	defer cancel()
	for range maxAttempts {
		refunded, err := s.requestRefund(ctx, c, by)
		if !errors.Is(err, ErrKeyTaken) {
			return refunded, err
		}
	}
	return Refunded{}, fmt.Errorf("refund payment %s: %w", c.Payment, eventstore.ErrConflict)
}

func (s *Service) requestRefund(ctx context.Context, c RequestRefund, by *origin.Origin) (Refunded, error) {
	if _, err := s.entry(ctx, c.Payment, ""); err != nil {
		return Refunded{}, err
	}
	first, err := s.rememberedRefund(ctx, c)
	if first != nil || err != nil {
		if first == nil {
			return Refunded{}, err
		}
		return *first, err
	}
	id := origin.NewID()
	t := &transition{Service: s, payment: c.Payment, by: *by}
	t.decide = func(_ context.Context, st *state) (change, error) {
		r := domain.RequestRefund{ID: id, Payment: c.Payment, ReturnUnit: c.ReturnUnit, Reason: c.Reason}
		if c.Amount != nil {
			amount, err := domain.NewMoney(*c.Amount, st.payment.Price.Currency())
			if err != nil {
				return change{}, err
			}
			r.Amount = &amount
		}
		events, err := st.slot.RequestRefund(r)
		if err != nil {
			return change{}, &RefusedError{ProductPosition{st.slot.ProductID, st.last}, err}
		}
		return change{events: events, key: &refundKey{c.Payment, c.Key, c.bodyHash(), id}}, nil
	}
	recorded, err := t.run(ctx)
	if err != nil {
		return Refunded{}, err
	}
	refund, _ := t.after.Refund(id)
	return Refunded{apimodel.RefundOf(refund, c.Payment), recorded}, nil
}

const rememberedRefundSQL = `
select body_hash, answer, product_id, position from refund_keys where payment_id = $1 and idempotency_key = $2`

func (s *Service) rememberedRefund(ctx context.Context, c RequestRefund) (*Refunded, error) {
	var hash, answer []byte
	first := &Refunded{}
	err := s.Pool.QueryRow(ctx, rememberedRefundSQL, c.Payment, c.Key).Scan(&hash, &answer, &first.Product, &first.Position)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read idempotency key %s: %w", c.Key, err)
	case !bytes.Equal(hash, c.bodyHash()):
		return nil, ErrKeyReused
	}
	if err := json.Unmarshal(answer, &first.Refund); err != nil {
		return nil, fmt.Errorf("decode the response to idempotency key %s: %w", c.Key, err)
	}
	return first, nil
}

const (
	// takeRefundSQL takes a refund for as long as a call may take, so that no two
	// processes step at once. The interval grows from 10 s to 5 min.
	takeRefundSQL = `
update payment_refunds r set
    ask_at = clock_timestamp() + greatest($2::interval, least(interval '5 min', (clock_timestamp() - r.due_at) / 2)),
    reported = r.reported or r.due_at < clock_timestamp() - $3::interval
from payments p, (select refund_id, reported from payment_refunds where refund_id = $1) before
where r.refund_id = $1 and p.payment_id = r.payment_id and before.refund_id = r.refund_id and r.ask_at <= clock_timestamp()
returning r.payment_id, r.charge, coalesce(r.gateway_refund_id, ''), r.amount::text, r.currency, r.posted_at is not null, r.reported and not before.reported`

	// postRefundSQL notes that the refund is about to be posted, unless it is not
	// due any more or its payment is disputed. It waits for an append that ends it.
	postRefundSQL = `
update payment_refunds r set posted_at = clock_timestamp(), posts = posts + 1
from payments p
where r.refund_id = $1 and r.status = 'DUE' and p.payment_id = r.payment_id and not p.disputed
returning posts`

	// notPostedSQL takes that back: nothing was sent.
	notPostedSQL = `
update payment_refunds set posts = posts - 1, posted_at = case when posts > 1 then posted_at end where refund_id = $1 and posts > 0`
)

// refundStep takes the next step of a refund at the gateway. One that may have
// reached it is queried before it is posted again, because the gateway may have
// forgotten the key.
func (s *Service) refundStep(ctx context.Context, id uuid.UUID) error {
	r := gateway.RefundRequest{RefundID: id}
	var amount, currency string
	var posted, stuck bool
	taking, cancel := context.WithTimeout(ctx, statementTimeout)
	err := s.Pool.QueryRow(taking, takeRefundSQL, id, handOver, attention.StuckAfter).Scan(&r.Reference, &r.GatewayPaymentID, &r.GatewayRefundID,
		&amount, &currency, &posted, &stuck)
	cancel()
	if errors.Is(err, pgx.ErrNoRows) {
		return s.lostRefundStep(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("take refund %s: %w", id, err)
	}
	if stuck {
		s.Logger.ErrorContext(ctx, "refund has no final answer, operator needed", "payment", r.Reference, "refund", id, "since", attention.StuckAfter)
	}
	if r.Amount, err = money(amount, currency); err != nil {
		return fmt.Errorf("refund %s: %w", id, err)
	}
	if posted {
		switch answer, err := s.Gateway.FindRefund(ctx, r); {
		case err == nil:
			return s.applyRefund(ctx, r, answer)
		case !errors.Is(err, gateway.ErrUnknownReference):
			return s.refundUnknown(r, err)
		}
	}
	return s.postRefund(ctx, r)
}

// postRefund posts a refund. A rejection counts if no earlier attempt may have
// reached the gateway, or if the gateway then does not know the refund.
func (s *Service) postRefund(ctx context.Context, r gateway.RefundRequest) error {
	var posts int
	noting, cancel := context.WithTimeout(ctx, statementTimeout)
	err := s.Pool.QueryRow(noting, postRefundSQL, r.RefundID).Scan(&posts)
	cancel()
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("note that refund %s is posted: %w", r.RefundID, err)
	}
	answer, err := s.Gateway.Refund(ctx, r)
	var rejected *gateway.Rejected
	switch {
	case err == nil:
		return s.applyRefund(ctx, r, answer)
	case errors.Is(err, gateway.ErrNotSent):
		return errors.Join(err, s.exec(ctx, "note that a refund was not posted", notPostedSQL, r.RefundID))
	case gateway.AlreadyRefunded(err):
		return s.applyRefund(ctx, r, gateway.Refund{Status: gateway.RefundSucceeded})
	case !errors.As(err, &rejected):
		return s.refundUnknown(r, err)
	}
	s.noteCredentials(ctx, err)
	failed := gateway.Refund{Status: gateway.RefundFailed, FailureReason: rejected.Reason}
	if posts > 1 {
		switch answer, err := s.Gateway.FindRefund(ctx, r); {
		case err == nil:
			return s.applyRefund(ctx, r, answer)
		case !errors.Is(err, gateway.ErrUnknownReference):
			return s.refundUnknown(r, err)
		}
	}
	return s.applyRefund(ctx, r, failed)
}

func (s *Service) refundUnknown(r gateway.RefundRequest, err error) error {
	s.metrics.refunds.WithLabelValues("unknown").Inc()
	return fmt.Errorf("refund %s of payment %s: %w", r.RefundID, r.Reference, err)
}

// refundStatus is the domain's name of a state at the gateway.
func refundStatus(s gateway.RefundStatus) domain.RefundStatus {
	switch s {
	case gateway.RefundSucceeded:
		return domain.CompletedRefund
	case gateway.RefundFailed:
		return domain.FailedRefund
	}
	return domain.PendingRefund
}

// applyRefund records what the gateway answered about a refund. The answer may be
// older than what was recorded while the call was under way, so like a callback it
// decides nothing against a final state: only a query made after that state was
// read does.
func (s *Service) applyRefund(ctx context.Context, r gateway.RefundRequest, answer gateway.Refund) error {
	_, err := s.reportRefund(ctx, domain.RefundReport{
		PaymentID: r.Reference, RefundID: r.RefundID, GatewayRefundID: answer.ID,
		Status: refundStatus(answer.Status), Reason: answer.FailureReason,
	}, "")
	return err
}

// reportRefund brings a report of a refund to its effect. One that contradicts a
// final state has the gateway queried, whose answer counts.
func (s *Service) reportRefund(ctx context.Context, report domain.RefundReport, webhookID string) (ProductPosition, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transitionTimeout)
	defer cancel()
	t := &transition{Service: s, payment: report.PaymentID, webhookID: webhookID, by: origin.Origin{Actor: domain.ActorSystem}}
	var decided []domain.Event // by the last attempt
	t.decide = func(ctx context.Context, st *state) (change, error) {
		decided = nil
		r := report
		result := st.slot.ReportRefund(r)
		if result.Query {
			answer, found, err := s.findRefund(ctx, st.payment, r.RefundID)
			switch {
			case err != nil:
				return change{}, err
			case !found:
				return change{}, nil
			}
			r.Status, r.Reason, r.Confirmed = refundStatus(answer.Status), answer.FailureReason, true
			result = st.slot.ReportRefund(r)
		}
		c := refundChange(st, report.RefundID, result)
		decided = c.events
		return c, nil
	}
	recorded, err := t.run(ctx)
	if err == nil {
		s.noteRefunds(ctx, decided)
	}
	return recorded, err
}

// refundChange writes the ledger too if the gateway reported a state that is
// recorded already: a program of the version before may have recorded it.
func refundChange(st *state, id uuid.UUID, result domain.RefundResult) change {
	c := change{events: result.Events}
	if r, ok := st.payment.Refund(id); ok && !r.Open() && len(result.Events) == 0 {
		c.write, c.post = true, []uuid.UUID{id}
	}
	return c
}

// noteRefunds counts and logs what was recorded of refunds.
func (s *Service) noteRefunds(ctx context.Context, events []domain.Event) {
	for _, e := range events {
		switch e := e.(type) {
		case domain.RefundCompleted:
			s.metrics.refunds.WithLabelValues("completed").Inc()
		case domain.RefundPending:
			s.metrics.refunds.WithLabelValues("pending").Inc()
		case domain.RefundFailed:
			s.metrics.refunds.WithLabelValues("failed").Inc()
			s.Logger.ErrorContext(ctx, "refund failed, operator needed", "payment", e.PaymentID, "refund", e.RefundID, "reason", e.Reason)
		}
	}
}

// findRefund queries the gateway about a refund; found is false if it does not
// know it. The error is ErrQuery.
func (s *Service) findRefund(ctx context.Context, p domain.Payment, id uuid.UUID) (answer gateway.Refund, found bool, err error) {
	r, _ := p.Refund(id)
	answer, err = s.Gateway.FindRefund(ctx, gateway.RefundRequest{
		RefundID: id, Reference: p.ID, GatewayPaymentID: r.ChargeID, GatewayRefundID: r.GatewayID, Amount: r.Amount,
	})
	switch {
	case err == nil:
		return answer, true, nil
	case errors.Is(err, gateway.ErrUnknownReference):
		return gateway.Refund{}, false, nil
	}
	return gateway.Refund{}, false, fmt.Errorf("%w: refund %s: %w", ErrQuery, id, err)
}

// adoptSQL takes over refunds that a program of the version before made due: it
// kept them in the payments' rows, one for each payment, under the payment's id.
const adoptSQL = `
with due as (
    update payments set refund_ask_at = null where refund_ask_at is not null
    returning payment_id, coalesce(gateway_payment_id, '') as charge, refund_amount, refund_currency, refund_due_at)
insert into payment_refunds (refund_id, payment_id, charge, amount, currency, status, due_at, posted_at, posts, ask_at)
select payment_id, payment_id, charge, refund_amount, refund_currency, 'DUE', refund_due_at, refund_due_at, 1, clock_timestamp() from due
on conflict do nothing`
