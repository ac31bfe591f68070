package payments

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/origin"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
)

// Heard is what the gateway says of a payment.
type Heard struct {
	domain.GatewayWord
	// Unreadable is what a success says that was taken, where that is no money
	// (an unknown currency, an amount below 0); Paid is none then.
	Unreadable string
	// WebhookID is of a callback, remembered with what it causes; "" for an
	// answer to our asking.
	WebhookID string
}

// hearTries is how often one word is decided anew because others came first or
// the gate knew less than Postgres.
const hearTries = 20

// errAgain says that what was decided on is no longer so.
var errAgain = errors.New("payments: decided on the past")

// Hear brings a word of the gateway to its effect, whichever way it came; see
// the package comment. A callback heard before, and a word that says nothing
// new, change nothing. The error is ErrNoPayment; ErrDelayed, after which the
// worker asks the gateway again; or that of a Postgres that is away.
func (s *Service) Hear(ctx context.Context, h Heard) (Place, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hearWithin)
	defer cancel()
	row, err := s.known(ctx, h)
	if err != nil || row.again {
		return row.place, err
	}
	l := &listening{Service: s, Heard: h, row: row, by: origin.Origin{Actor: domain.ActorSystem}}
	defer l.giveBack(ctx)
	for range hearTries {
		place, outcome, err := l.once(ctx)
		if errors.Is(err, errAgain) {
			continue
		}
		if errors.Is(err, errSeen) {
			row, err = s.known(ctx, h)
			return row.place, err
		}
		if err == nil {
			s.metrics.heard.WithLabelValues(h.source(), outcome).Inc()
		}
		return place, err
	}
	return Place{}, fmt.Errorf("hear of payment %s: %w", h.PaymentID, eventstore.ErrConflict)
}

func (h Heard) source() string {
	if h.WebhookID != "" {
		return "callback"
	}
	return "asked"
}

// known is what the ledger says before a word is heard.
type known struct {
	slot  uuid.UUID
	open  bool  // the gateway is still to be asked about it
	again bool  // the callback was heard before,
	place Place // and this is what it came to then
}

const knownSQL = `
select p.slot_id, p.ask_at is not null or p.unsettled, w.id is not null, coalesce(w.product_id, p.product_id), coalesce(w.position, 0)
from payments p left join webhook_ids w on w.id = $2
where p.payment_id = $1`

func (s *Service) known(ctx context.Context, h Heard) (known, error) {
	var k known
	err := s.Pool.QueryRow(ctx, knownSQL, h.PaymentID, h.WebhookID).Scan(&k.slot, &k.open, &k.again, &k.place.Product, &k.place.Position)
	if errors.Is(err, pgx.ErrNoRows) {
		return known{}, ErrNoPayment
	}
	if err != nil {
		return known{}, fmt.Errorf("read payment %s: %w", h.PaymentID, err)
	}
	return k, nil
}

// listening is one word on its way to its effect.
type listening struct {
	*Service
	Heard
	row known
	by  origin.Origin
	hold
}

// once reads, decides and appends. The outcome is for the metrics.
func (l *listening) once(ctx context.Context) (Place, string, error) {
	slot, last, err := l.slot(ctx, l.row.slot)
	if err != nil {
		return Place{}, "", err
	}
	hearing := slot.Hear(l.GatewayWord, nil)
	if hearing.AskGate {
		answer, err := l.anotherUnit(ctx, slot)
		if err != nil {
			l.metrics.heard.WithLabelValues(l.source(), "delayed").Inc()
			return Place{}, "", errors.Join(ErrDelayed, err, l.delay(ctx))
		}
		hearing = slot.Hear(l.GatewayWord, &answer)
	}
	if len(hearing.Events) == 0 && l.WebhookID == "" && !l.row.open && l.Unreadable == "" {
		return Place{slot.ProductID, last}, "nothing", nil
	}
	a, outcome, err := l.append(ctx, slot, last, hearing)
	if err != nil {
		return Place{}, "", err
	}
	result, err := l.Store.Append(ctx, a)
	if err != nil {
		return Place{}, "", l.refused(ctx, slot.ProductID, hearing.Regrant != nil, err)
	}
	if hearing.Regrant != nil {
		l.grant = nil // it is a slot now
	}
	if result.Position > 0 {
		last = result.Position
	}
	return Place{slot.ProductID, last}, outcome, nil
}

// append is what a hearing comes to: its events, the claims and the ledger.
func (l *listening) append(ctx context.Context, slot domain.Slot, last int64, hearing domain.Hearing) (eventstore.Append, string, error) {
	a := eventstore.Append{Key: slot.ProductID}
	before, _ := slot.Payment(l.PaymentID)
	c := change{payment: l.PaymentID, webhookID: l.WebhookID, product: slot.ProductID, position: last}
	if before.Status != domain.SuccessfulPayment && before.Refund == "" {
		c.unreadable = l.Unreadable
	}
	outcome := "nothing"
	if r := hearing.Regrant; r != nil {
		encoded, err := l.by.Encode(ctx, r.Events...)
		if err != nil {
			return a, "", err
		}
		a.Streams = append(a.Streams, eventstore.StreamAppend{Stream: r.Slot, Expected: eventstore.None, Events: encoded})
		a.Guards = append(a.Guards, claims.Claim{
			Product: slot.ProductID, SlotID: r.Slot, Number: l.grant.Number, Unit: l.grant.Unit, Buyer: slot.UserID,
			TTL: l.SlotTTL, Warning: l.SlotWarning, Paid: true,
		}.Guarded())
	}
	for _, e := range hearing.Events {
		switch e := e.(type) {
		case domain.PaymentCompleted:
			c.status, c.gatewayID, outcome = domain.SuccessfulPayment, e.GatewayPaymentID, "completed"
			a.Guards = append(a.Guards, claims.Complete{Product: slot.ProductID, SlotID: slot.ID}.Guarded())
		case domain.PaymentRegranted:
			c.status, c.gatewayID, outcome = domain.SuccessfulPayment, e.GatewayPaymentID, "regranted"
		case domain.PaymentFailed:
			c.status, c.gatewayID, outcome = domain.FailedPayment, e.GatewayPaymentID, "failed"
			if before.Status == domain.PendingPayment {
				a.Guards = append(a.Guards, claims.PaymentEnded{Product: slot.ProductID, SlotID: slot.ID}.Guarded())
			}
		case domain.RefundDue:
			c.refund, c.owed, c.gatewayID, outcome = domain.RefundOwed, e.Amount, e.GatewayPaymentID, "refund-due"
		}
	}
	a.Guards = append(a.Guards, c.Guarded())
	if len(hearing.Events) > 0 {
		encoded, err := l.by.Encode(ctx, hearing.Events...)
		if err != nil {
			return a, "", err
		}
		a.Streams = append(a.Streams, eventstore.StreamAppend{
			Stream: slot.ID, Expected: eventstore.Expected(slot.Version), Events: encoded,
		})
	}
	return a, outcome, nil
}

// delaySQL has the gateway asked again about money that came for nothing yet.
const delaySQL = `
update payments set unsettled = true, ask_at = clock_timestamp() + $2::interval,
                    ask_until = greatest(ask_until, clock_timestamp() + $3::interval)
where payment_id = $1 and status = 'FAILED' and refund_status is null`

func (l *listening) delay(ctx context.Context) error {
	return l.exec(ctx, "note that a payment waits for the gate", delaySQL, l.PaymentID, askEvery, askFor)
}

// askEvery is how often a pending payment is asked about at most.
const askEvery = 30 * time.Second
