package payments

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/gateway"
)

// Step is what the worker is to do for a payment.
type Step int

// The steps.
const (
	Ask    Step = iota + 1 // ask the gateway for the money, or what became of it
	Refund                 // give the money back
)

// Job is a step that is due.
type Job struct {
	Payment uuid.UUID
	Step    Step
}

// dueSQL: the clock is read once. Compared with the volatile function itself no
// index would be asked how far to read, and each look would see every payment
// that is still to be asked about.
const dueSQL = `
select payment_id, step from (
    (select payment_id, $2::int as step, ask_at as at from payments
     where ask_at <= (select clock_timestamp()) order by ask_at limit $1)
    union all
    (select payment_id, $3::int, refund_ask_at from payments
     where refund_ask_at <= (select clock_timestamp()) order by refund_ask_at limit $1)) as due
order by at limit $1`

// Due lists the steps that are due, the longest due first.
func (s *Service) Due(ctx context.Context, limit int) ([]Job, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	rows, err := s.Pool.Query(ctx, dueSQL, limit, Ask, Refund)
	if err != nil {
		return nil, fmt.Errorf("list what is due of payments: %w", err)
	}
	jobs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Job])
	if err != nil {
		return nil, fmt.Errorf("list what is due of payments: %w", err)
	}
	return jobs, nil
}

// Do takes a step that is due. Where another process was faster it does nothing.
// An error means that the step comes up again by itself.
func (s *Service) Do(ctx context.Context, j Job) error {
	if j.Step == Refund {
		return s.refund(ctx, j.Payment)
	}
	return s.ask(ctx, j.Payment)
}

// takeSQL takes a payment for as long as asking may take, so that no two
// processes ask at once: whoever moves ask_at on is the one who asks. The new
// ask_at holds where the answer changes nothing, and where none comes.
const takeSQL = `
update payments set
    posted_at = case when status = 'PENDING' and not accepted then clock_timestamp() else posted_at end,
    ask_at = case when status = 'PENDING' and not accepted then clock_timestamp() + $2::interval
                  when status = 'PENDING' then clock_timestamp() + $3::interval
                  else (select at from (select clock_timestamp() + case when clock_timestamp() < ask_until - $4::interval + interval '1 hour'
                                                                        then $5::interval else interval '1 hour' end as at) as next
                        where at <= ask_until) end
where payment_id = $1 and ask_at <= clock_timestamp()
returning status = 'PENDING' and not accepted, amount::text, currency, method`

// ask takes the next step towards a payment's outcome.
func (s *Service) ask(ctx context.Context, id uuid.UUID) error {
	var post bool
	var amount, currency, method string
	taking, cancel := context.WithTimeout(ctx, answerWithin)
	err := s.Pool.QueryRow(taking, takeSQL, id, handOver, askEvery, askFor, askFirst).Scan(&post, &amount, &currency, &method)
	cancel()
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("take payment %s: %w", id, err)
	}
	if !post {
		return s.look(ctx, id)
	}
	price, err := money(amount, currency)
	if err != nil {
		return fmt.Errorf("payment %s: %w", id, err)
	}
	return s.post(ctx, gateway.PaymentRequest{
		Reference: id, Amount: price, Method: domain.PaymentMethod(method), CallbackURL: s.CallbackURL,
	})
}

func money(amount, currency string) (domain.Money, error) {
	d, err := decimal.NewFromString(amount)
	if err != nil {
		return domain.Money{}, err
	}
	return domain.NewPaid(d, currency)
}

const (
	acceptedSQL = `
update payments set accepted = true, gateway_payment_id = coalesce(nullif($2, ''), gateway_payment_id),
                    ask_at = clock_timestamp() + $3::interval
where payment_id = $1 and status = 'PENDING'`

	// againSQL asks soon at first and less often later, for as long as the
	// payment is pending.
	againSQL = `
update payments set ask_at = clock_timestamp() + greatest(interval '1 s', least($2::interval, (clock_timestamp() - initiated_at) / 2))
where payment_id = $1 and status = 'PENDING' and not accepted`
)

// post asks the gateway for the money. A final answer counts like a callback.
func (s *Service) post(ctx context.Context, r gateway.PaymentRequest) error {
	var answer gateway.Payment
	body, err := s.Gateway.EncodePayment(r)
	if err == nil {
		answer, err = s.Gateway.Pay(ctx, r.Reference, body)
	}
	var rejected *gateway.Rejected
	switch {
	case errors.As(err, &rejected):
		_, err = s.Hear(ctx, Heard{GatewayWord: domain.GatewayWord{PaymentID: r.Reference, Reason: rejected.Reason}})
		return err
	case err != nil:
		return errors.Join(err, s.exec(ctx, "have a payment asked for again", againSQL, r.Reference, askEvery))
	case !answer.Status.Final():
		return s.exec(ctx, "note that the gateway has a payment", acceptedSQL, r.Reference, plain(answer.ID), askEvery)
	}
	if answer.Status == gateway.Succeeded && answer.Paid == nil {
		answer.Paid = &gateway.Paid{Money: r.Amount}
	}
	_, err = s.Hear(ctx, wordOf(r.Reference, answer))
	return err
}

// unknownSQL is for a payment of which the gateway has never heard: what is
// pending is asked for once more; what failed is settled one hour after the last
// time that it was asked for.
const unknownSQL = `
update payments set
    accepted = false,
    ask_at = case when status = 'PENDING' then clock_timestamp()
                  when posted_at > clock_timestamp() - interval '1 hour' then ask_at end,
    unsettled = status = 'FAILED' and posted_at > clock_timestamp() - interval '1 hour'
where payment_id = $1 and (status = 'PENDING' or unsettled)`

// look asks the gateway what became of a payment.
func (s *Service) look(ctx context.Context, id uuid.UUID) error {
	state, err := s.Gateway.FindPayment(ctx, gateway.PaymentQuery{Reference: id})
	switch {
	case errors.Is(err, gateway.ErrUnknownReference):
		return s.exec(ctx, "note that the gateway does not know a payment", unknownSQL, id)
	case err != nil:
		return err
	case !state.Status.Final():
		return nil
	}
	_, err = s.Hear(ctx, wordOf(id, state))
	return err
}

func wordOf(id uuid.UUID, state gateway.Payment) Heard {
	h := Heard{GatewayWord: domain.GatewayWord{
		PaymentID: id, GatewayPaymentID: state.ID, Succeeded: state.Status == gateway.Succeeded, Reason: state.FailureReason,
	}}
	if state.Paid != nil {
		h.Paid, h.Unreadable = state.Paid.Money, state.Paid.Unreadable
	}
	return h
}

const takeRefundSQL = `
update payments set refund_ask_at = clock_timestamp()
    + case when refund_refused is not null then interval '1 hour'
           else greatest($2::interval, least(interval '5 min', (clock_timestamp() - refund_due_at) / 2)) end
where payment_id = $1 and refund_ask_at <= clock_timestamp()
returning slot_id, refund_amount::text, refund_currency`

const refundRefusedSQL = `
update payments set refund_refused = $2, refund_ask_at = clock_timestamp() + interval '1 hour'
where payment_id = $1 and refund_status = 'DUE'`

// refund gives back at the gateway what is due, and records it.
func (s *Service) refund(ctx context.Context, id uuid.UUID) error {
	var slot uuid.UUID
	var amount, currency string
	taking, cancel := context.WithTimeout(ctx, answerWithin)
	err := s.Pool.QueryRow(taking, takeRefundSQL, id, handOver).Scan(&slot, &amount, &currency)
	cancel()
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("take the refund of payment %s: %w", id, err)
	}
	due, err := money(amount, currency)
	if err != nil {
		return fmt.Errorf("refund of payment %s: %w", id, err)
	}
	refund, err := s.Gateway.Refund(ctx, gateway.RefundRequest{RefundID: id, Reference: id, Amount: due})
	if err == nil && refund.Status == gateway.RefundFailed {
		err = &gateway.Rejected{Reason: refund.FailureReason}
	}
	var refused *gateway.Rejected
	if errors.As(err, &refused) {
		s.metrics.refunds.WithLabelValues("refused").Inc()
		s.Logger.ErrorContext(ctx, "the gateway refuses a refund; it waits for a person", "payment", id, "reason", refused.Reason)
		return s.exec(ctx, "note that a refund was refused", refundRefusedSQL, id, "refused: "+plain(refused.Reason))
	}
	if err != nil {
		s.metrics.refunds.WithLabelValues("failed").Inc()
		return fmt.Errorf("refund payment %s: %w", id, err)
	}
	if refund.Status == gateway.RefundPending {
		return nil
	}
	if err := s.refunded(ctx, slot, id, refund.ID); err != nil {
		return err
	}
	s.metrics.refunds.WithLabelValues("made").Inc()
	return nil
}

const (
	// keptKeys and keptIDs are twice the time, and five days more, than they have
	// to be kept.
	keptKeys = 48 * time.Hour
	keptIDs  = 35 * 24 * time.Hour
	// purgePiece is how many rows one statement deletes.
	purgePiece = 10_000

	// By where the rows lie, which never change: joined by their keys, all that is
	// kept would be read to forget a few.
	purgeKeysSQL = `
delete from payment_keys where ctid = any(array(
    select ctid from payment_keys where created_at < (select clock_timestamp()) - $1::interval order by created_at limit $2))`
	purgeIDsSQL = `
delete from webhook_ids where ctid = any(array(
    select ctid from webhook_ids where seen_at < (select clock_timestamp()) - $1::interval order by seen_at limit $2))`
)

// Purge forgets idempotency keys and callbacks' ids that are older than they
// have to be kept: 24 hours and 30 days.
func (s *Service) Purge(ctx context.Context) error {
	return errors.Join(s.purge(ctx, purgeKeysSQL, keptKeys), s.purge(ctx, purgeIDsSQL, keptIDs))
}

func (s *Service) purge(ctx context.Context, sql string, kept time.Duration) error {
	for {
		tag, err := s.Pool.Exec(ctx, sql, kept, purgePiece)
		if err != nil {
			return fmt.Errorf("forget what is older than %s: %w", kept, err)
		}
		if tag.RowsAffected() < purgePiece {
			return nil
		}
	}
}
