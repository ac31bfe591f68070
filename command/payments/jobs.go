package payments

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/command/origin"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/gateway"
)

// Step is a kind of work that is due for payments. The worker takes each with a
// separate concurrency limit, so that a slow gateway starves none of them.
type Step string

// The steps.
const (
	Post   Step = "Post"   // post a payment to the gateway
	Query  Step = "Query"  // query the gateway about a payment
	Cancel Step = "Cancel" // have the gateway cancel a payment
	Refund Step = "Refund" // post a refund, or query the gateway about it
)

// Steps are all of them.
var Steps = []Step{Post, Query, Cancel, Refund}

// dueSQL lists what is due, the longest first. The clock is read once: compared
// with the volatile function itself no index would be asked how far to read. The
// conditions are those of the partial indexes.
var dueSQL = map[Step]string{
	Post: `
select payment_id from payments
where ask_at <= (select clock_timestamp()) and ask_at is not null and status = 'PENDING' and not accepted and not cancel_requested
order by ask_at limit $1`,
	Query: `
select payment_id from payments
where ask_at <= (select clock_timestamp()) and ask_at is not null and not (status = 'PENDING' and not accepted and not cancel_requested)
order by ask_at limit $1`,
	Cancel: `select payment_id from payments where cancel_at <= (select clock_timestamp()) order by cancel_at limit $1`,
	Refund: `
(select refund_id from payment_refunds where ask_at <= (select clock_timestamp()) order by ask_at limit $1)
union all
(select refund_id from lost_refunds where ask_at <= (select clock_timestamp()) order by ask_at limit $1)`,
}

// Due lists the payments, or refunds, for which a step is due, the longest due
// first.
func (s *Service) Due(ctx context.Context, step Step, limit int) ([]uuid.UUID, error) {
	if step == Refund {
		if err := s.exec(ctx, "take over refunds of the version before", adoptSQL); err != nil {
			return nil, err
		}
	}
	return s.ids(ctx, dueSQL[step], limit)
}

// Do takes a step that is due. If another process was faster it does nothing. An
// error means that the step becomes due again.
func (s *Service) Do(ctx context.Context, step Step, id uuid.UUID) error {
	switch step {
	case Post:
		return s.postStep(ctx, id)
	case Query:
		return s.queryStep(ctx, id)
	case Cancel:
		return s.cancelStep(ctx, id)
	case Refund:
		return s.refundStep(ctx, id)
	}
	return fmt.Errorf("payments: no step %q", step)
}

func money(amount, currency string) (domain.Money, error) {
	d, err := decimal.NewFromString(amount)
	if err != nil {
		return domain.Money{}, err
	}
	return domain.NewPaid(d, currency)
}

const (
	// takePostSQL takes a payment for as long as posting may take, so that no two
	// processes post at once: the process that moves ask_at posts. The new
	// ask_at holds if no answer comes.
	takePostSQL = `
update payments set posted_at = clock_timestamp(), attempts = attempts + 1, ask_at = clock_timestamp() + $2::interval
where payment_id = $1 and ask_at <= clock_timestamp() and status = 'PENDING' and not accepted and not cancel_requested
returning attempts, request, amount::text, currency, method`

	// repostSQL posts soon at first and less often later, for as long as the payment
	// is pending. What was not sent is no attempt.
	repostSQL = `
update payments set ask_at = clock_timestamp() + greatest(interval '1 s', least($2::interval, (clock_timestamp() - initiated_at) / 2)),
                    attempts = attempts - $3
where payment_id = $1 and status = 'PENDING' and not accepted and attempts >= $3`

	requestSQL = `update payments set request = $2 where payment_id = $1 and request is null returning request`
)

func (s *Service) postStep(ctx context.Context, id uuid.UUID) error {
	var attempts int
	var request []byte
	var amount, currency, method string
	taking, cancel := context.WithTimeout(ctx, statementTimeout)
	err := s.Pool.QueryRow(taking, takePostSQL, id, handOver).Scan(&attempts, &request, &amount, &currency, &method)
	cancel()
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("take payment %s: %w", id, err)
	}
	if request == nil { // begun by a program of the version before
		price, err := money(amount, currency)
		if err != nil {
			return fmt.Errorf("payment %s: %w", id, err)
		}
		if request, err = s.encode(ctx, id, price, domain.PaymentMethod(method), ""); err != nil {
			return s.rejected(ctx, id, err, 0)
		}
		if err := s.exec(ctx, "store a payment's request", requestSQL, id, request); err != nil {
			return err
		}
	}
	return s.post(ctx, id, request, attempts-1)
}

// encode renders the request of a payment. The error is a *gateway.Rejected if the
// gateway cannot take the amount at all.
func (s *Service) encode(ctx context.Context, id uuid.UUID, price domain.Money, method domain.PaymentMethod, returnURL string) ([]byte, error) {
	store, err := s.storeID(ctx)
	if err != nil {
		return nil, err
	}
	return s.Gateway.EncodePayment(gateway.PaymentRequest{
		Reference: id, Amount: price, Method: method, CallbackURL: s.CallbackURL, ReturnURL: returnURL, StoreID: store,
	})
}

// post posts a payment's stored request. earlier is how many attempts may have
// reached the gateway before. A final status counts like a callback.
func (s *Service) post(ctx context.Context, id uuid.UUID, request []byte, earlier int) error {
	answer, err := s.Gateway.Pay(ctx, id, request)
	var rejected *gateway.Rejected
	switch {
	case errors.As(err, &rejected):
		return s.rejected(ctx, id, err, earlier)
	case errors.Is(err, gateway.ErrNotSent):
		return errors.Join(err, s.exec(ctx, "have a payment posted again", repostSQL, id, queryInterval, 1))
	case err != nil:
		s.noteCredentials(ctx, err)
		return errors.Join(err, s.exec(ctx, "have a payment posted again", repostSQL, id, queryInterval, 0))
	}
	if answer.Status == gateway.Succeeded && answer.Paid == nil { // what was requested
		price, err := s.priceOf(ctx, id)
		if err != nil {
			return err
		}
		answer.Paid = &gateway.Paid{Money: price}
	}
	_, err = s.ApplyReport(ctx, Report{Reference: id, Payment: answer})
	return err
}

func (s *Service) priceOf(ctx context.Context, id uuid.UUID) (domain.Money, error) {
	var amount, currency string
	err := s.Pool.QueryRow(ctx, `select amount::text, currency from payments where payment_id = $1`, id).Scan(&amount, &currency)
	if err != nil {
		return domain.Money{}, fmt.Errorf("read payment %s: %w", id, err)
	}
	return money(amount, currency)
}

// rejected judges a rejection of a payment. It counts if no earlier attempt may
// have reached the gateway; otherwise the gateway is queried first, and only if it
// does not know the payment the rejection stands, and the payment is queried
// further.
func (s *Service) rejected(ctx context.Context, id uuid.UUID, rejection error, earlier int) error {
	s.noteCredentials(ctx, rejection)
	var rejected *gateway.Rejected
	if !errors.As(rejection, &rejected) {
		return rejection
	}
	if earlier == 0 {
		_, err := s.ApplyReport(ctx, Report{Reference: id, Payment: gateway.Payment{Status: gateway.Failed, FailureReason: rejected.Reason}})
		return err
	}
	q, err := s.paymentQuery(ctx, id)
	if err != nil {
		return err
	}
	answer, err := s.Gateway.FindPayment(ctx, q)
	switch {
	case errors.Is(err, gateway.ErrUnknownReference):
		return s.failUnknown(ctx, id, rejected.Reason)
	case err != nil:
		return errors.Join(rejection, err, s.exec(ctx, "have a payment posted again", repostSQL, id, queryInterval, 0))
	}
	_, err = s.ApplyReport(ctx, Report{Reference: id, Payment: answer})
	return err
}

// failUnknown fails a pending payment without an outcome from the gateway, which
// is queried further.
func (s *Service) failUnknown(ctx context.Context, id uuid.UUID, reason string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transitionTimeout)
	defer cancel()
	t := &transition{Service: s, payment: id, by: origin.Origin{Actor: domain.ActorSystem}}
	t.decide = func(_ context.Context, st *state) (change, error) {
		c := change{events: st.slot.FailUnknown(id, reason)}
		if len(c.events) > 0 {
			c.plan = planQuery
		}
		return c, nil
	}
	_, err := t.run(ctx)
	return err
}

const querySQL = `
select coalesce(gateway_payment_id, ''), request, initiated_at, posted_at, status <> 'PENDING' or cancel_requested
from payments where payment_id = $1`

// paymentQuery reads what identifies a payment to the gateway.
func (s *Service) paymentQuery(ctx context.Context, id uuid.UUID) (gateway.PaymentQuery, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	q := gateway.PaymentQuery{Reference: id}
	err := s.Pool.QueryRow(ctx, querySQL, id).Scan(&q.GatewayID, &q.Request, &q.FirstPost, &q.LastPost, &q.Unwanted)
	if errors.Is(err, pgx.ErrNoRows) {
		return q, ErrNoPayment
	}
	if err != nil {
		return q, fmt.Errorf("read payment %s: %w", id, err)
	}
	return q, nil
}

// takeQuerySQL takes a payment for as long as a query may take. What is pending is
// queried each 30 s; what we failed, each minute in the first hour, then each hour,
// until ask_until; what is queried once more, each minute until
// there is an answer.
const takeQuerySQL = `
update payments set ask_at = case
    when status = 'PENDING' then clock_timestamp() + $2::interval
    when not unsettled then clock_timestamp() + $4::interval
    else (select at from (select clock_timestamp() + case when clock_timestamp() < ask_until - $3::interval + interval '1 hour'
                                                          then $4::interval else interval '1 hour' end as at) as next
          where at <= ask_until) end
where payment_id = $1 and ask_at <= clock_timestamp() and not (status = 'PENDING' and not accepted and not cancel_requested)
returning unsettled and ask_at is null`

// queryStep queries the gateway about a payment.
func (s *Service) queryStep(ctx context.Context, id uuid.UUID) error {
	var last bool
	taking, cancel := context.WithTimeout(ctx, statementTimeout)
	err := s.Pool.QueryRow(taking, takeQuerySQL, id, queryInterval, queryFor, queryFirst).Scan(&last)
	cancel()
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("take payment %s: %w", id, err)
	}
	settled, err := s.query(ctx, id)
	if last && !settled {
		s.Logger.ErrorContext(ctx, "payment outcome unknown, queries ended, operator needed", "payment", id, "queried_for", queryFor, "error", err)
	}
	return err
}

// query queries the gateway about a payment; settled reports whether the answer
// was final.
func (s *Service) query(ctx context.Context, id uuid.UUID) (settled bool, err error) {
	q, err := s.paymentQuery(ctx, id)
	if err != nil {
		return false, err
	}
	answer, err := s.Gateway.FindPayment(ctx, q)
	switch {
	case errors.Is(err, gateway.ErrUnknownReference):
		return true, s.unknownPayment(ctx, id)
	case err != nil:
		s.noteCredentials(ctx, err)
		return false, err
	case !answer.Status.Final():
		if err := s.exec(ctx, "note that a payment is not final", openSQL, id); err != nil {
			return false, err
		}
	}
	_, err = s.ApplyReport(ctx, Report{Reference: id, Payment: answer})
	return answer.Status.Final(), err
}

const (
	// openSQL ends a query that was requested once: after an outcome, a status that
	// is not final means nothing. A payment that the gateway did not know when it was
	// to cancel it is cancelled now.
	openSQL = `
update payments set ask_at = case when unsettled then ask_at end,
                    cancel_at = case when cancel_unknown then clock_timestamp() else cancel_at end, cancel_unknown = false
where payment_id = $1 and status <> 'PENDING' and (not unsettled or cancel_unknown)`

	// unknownSQL is for a payment that the gateway does not know: what is pending is
	// posted once more; what we failed is final one hour after it was last posted.
	unknownSQL = `
update payments set
    accepted = false,
    ask_at = case when status = 'PENDING' then clock_timestamp()
                  when unsettled and posted_at > clock_timestamp() - interval '1 hour' then ask_at end,
    unsettled = status = 'FAILED' and unsettled and posted_at > clock_timestamp() - interval '1 hour'
where payment_id = $1 and not (status = 'PENDING' and cancel_requested)
returning true`
)

// unknownPayment notes that the gateway does not know a payment. One that is to be
// cancelled fails, since it is not posted any more.
func (s *Service) unknownPayment(ctx context.Context, id uuid.UUID) error {
	noting, cancel := context.WithTimeout(ctx, statementTimeout)
	var noted bool
	err := s.Pool.QueryRow(noting, unknownSQL, id).Scan(&noted)
	cancel()
	if errors.Is(err, pgx.ErrNoRows) {
		return s.failUnknown(ctx, id, domain.ReasonCanceled)
	}
	if err != nil {
		return fmt.Errorf("note that the gateway does not know payment %s: %w", id, err)
	}
	return nil
}

// noteCredentials raises an alert if the gateway refused our credentials.
func (s *Service) noteCredentials(ctx context.Context, err error) {
	if errors.Is(err, gateway.ErrCredentials) {
		s.metrics.credentials.Inc()
		s.Logger.ErrorContext(ctx, "gateway refused our credentials", "error", err)
	}
}

// statementTimeout bounds each statement outside of an append.
const statementTimeout = 3 * time.Second
