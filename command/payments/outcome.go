package payments

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/command/origin"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/gateway"
)

// Report is a status that the gateway reports of a payment.
type Report struct {
	Reference uuid.UUID // our payment id
	gateway.Payment
	// WebhookID is the id of a callback, which is remembered with what the callback
	// causes; "" for a response to our own call.
	WebhookID string
}

func (r Report) source() string {
	if r.WebhookID != "" {
		return "callback"
	}
	return "queried"
}

// ApplyReport brings a final status of a payment to its effect, in whatever way
// it was reported; see the package comment. A callback that was received before,
// and a repeat, change nothing. The error is ErrNoPayment; ErrDelayed, after which
// the worker queries the gateway again; or that of a Postgres that is away.
func (s *Service) ApplyReport(ctx context.Context, r Report) (ProductPosition, error) {
	if !r.Status.Final() {
		return s.noteAction(ctx, r)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transitionTimeout)
	defer cancel()
	t := &transition{Service: s, payment: r.Reference, webhookID: r.WebhookID, by: origin.Origin{Actor: domain.ActorSystem}}
	outcome := "repeat"
	t.decide = func(ctx context.Context, st *state) (change, error) {
		o := domain.PaymentOutcome{
			PaymentID: r.Reference, GatewayPaymentID: r.ID, KnownGatewayID: st.entry.gatewayID,
			Succeeded: r.Status == gateway.Succeeded, Reason: r.FailureReason, Paid: moneyOf(r.Paid), Unreadable: unreadableOf(r.Paid),
		}
		result := st.slot.ApplyOutcome(o, nil)
		if result.AskGate {
			answer, err := t.anotherUnit(ctx, st.slot)
			if err != nil {
				s.metrics.outcomes.WithLabelValues(r.source(), "delayed").Inc()
				return change{}, errors.Join(ErrDelayed, err, s.delay(ctx, r.Reference))
			}
			result = st.slot.ApplyOutcome(o, &answer)
		}
		outcome = outcomeOf(result)
		c := change{events: result.Events, regrant: result.Regrant}
		if st.entry.gatewayID == "" {
			c.gatewayID = domain.PlainID(r.ID) // the first id counts as that of a record without one
		}
		if st.payment.Status != domain.PendingPayment && len(result.Events) == 0 && !st.entry.open && c.gatewayID == "" {
			return c, nil
		}
		c.plan, c.write = planSettle, true
		if o.Succeeded && !st.payment.WasTaken() && anotherCharge(st.entry.gatewayID, o.GatewayPaymentID) {
			c.plan = planOnce
		}
		return c, nil
	}
	recorded, err := t.run(ctx)
	if err == nil {
		s.metrics.outcomes.WithLabelValues(r.source(), outcome).Inc()
	}
	return recorded, err
}

// moneyOf returns the amount that a report names; nil if it is no money.
func moneyOf(p *gateway.Paid) *domain.Money {
	if p == nil || p.Unreadable != "" {
		return nil
	}
	return &p.Money
}

// unreadableOf returns the amount that a report names if it is no money.
func unreadableOf(p *gateway.Paid) string {
	if p == nil {
		return ""
	}
	return p.Unreadable
}

// anotherCharge reports whether a success is of another charge than the one that
// the gateway accepted: that one may have been taken too, without a report.
func anotherCharge(accepted, succeeded string) bool {
	return accepted != "" && succeeded != "" && accepted != succeeded
}

// outcomeOf names what an outcome led to, for the metrics.
func outcomeOf(r domain.OutcomeResult) string {
	name := "repeat"
	for _, e := range r.Events {
		switch e.(type) {
		case domain.PaymentCompleted:
			return "completed"
		case domain.PaymentRegranted:
			return "regranted"
		case domain.PaymentFailed:
			name = "failed"
		case domain.RefundDue:
			return "refund-due"
		case domain.PaymentContradicted:
			return "contradicted"
		}
	}
	return name
}

// delaySQL has the gateway queried again about money that bought nothing yet.
const delaySQL = `
update payments p set unsettled = true, ask_at = clock_timestamp() + $2::interval,
                      ask_until = greatest(ask_until, clock_timestamp() + $3::interval)
where payment_id = $1 and status = 'FAILED' and refund_status is null
  and not exists (select from payment_refunds r where r.payment_id = p.payment_id)`

func (s *Service) delay(ctx context.Context, payment uuid.UUID) error {
	return s.exec(ctx, "note that a payment waits for the gate", delaySQL, payment, queryInterval, queryFor)
}

// queryInterval is how often a pending payment is queried at most.
const queryInterval = 30 * time.Second
