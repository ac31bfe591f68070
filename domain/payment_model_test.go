package domain_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dopaminestore/dopamine/domain"
)

// books is a model of a slot's money that does not use events or states: what
// each payment requested, what the gateway took, and where that is now.
type books struct {
	now     time.Time
	ended   string // "", "paid", "gone", "returned"
	open    uuid.UUID
	order   []uuid.UUID
	entries map[uuid.UUID]*account
}

type account struct {
	taken    *domain.Money // what the gateway first reported as taken
	where    string        // "": nowhere yet; "slot", "elsewhere", "owed"
	closed   bool          // no longer waited for
	reversed bool
	disputes map[string]string // by id: "open", "won", "lost"
	charges  map[string]bool   // further charges
}

func (l *books) due() time.Time {
	if l.open != uuid.Nil {
		return deadline.Add(paymentTimeout)
	}
	return deadline
}

func (l *books) close(id uuid.UUID) {
	l.entries[id].closed = true
	if l.open == id {
		l.open = uuid.Nil
	}
}

// take books money that the gateway reports as taken; hasUnit is the gate's
// answer if it is asked.
func (l *books) take(id uuid.UUID, paid domain.Money, hasUnit bool) {
	e := l.entries[id]
	if e.where != "" {
		return
	}
	if paid.IsZero() {
		l.close(id)
		return
	}
	e.taken = &paid
	switch {
	case !paid.Equal(price):
		e.where = "owed"
	case l.ended == "" && (l.open == uuid.Nil || l.open == id):
		e.where, l.ended = "slot", "paid"
	case l.ended == "gone" && hasUnit:
		e.where = "elsewhere"
	default:
		e.where = "owed"
	}
	l.close(id)
}

// story is the stream under test with its model.
type story struct {
	slot   domain.Slot
	events []domain.Event
	model  books
	number int64
	ids    byte
}

func (s *story) record(events []domain.Event) {
	s.slot = happen(s.slot, s.model.now, events...)
	s.events = append(s.events, events...)
	for _, e := range events {
		if _, returned := e.(domain.SlotReturned); returned {
			s.model.ended = "returned"
		}
	}
}

func (s *story) somePayment(t *rapid.T) uuid.UUID {
	if len(s.model.order) == 0 {
		t.Skip("no payment yet")
	}
	return rapid.SampledFrom(s.model.order).Draw(t, "payment")
}

// here skips payments that continue in another slot's stream.
func (s *story) here(t *rapid.T) (uuid.UUID, *account) {
	id := s.somePayment(t)
	e := s.model.entries[id]
	if e.where == "elsewhere" {
		t.Skip("it is the new slot's")
	}
	return id, e
}

func (s *story) someRefund(t *rapid.T) (uuid.UUID, domain.Refund) {
	id := s.somePayment(t)
	p, _ := s.slot.Payment(id)
	if len(p.Refunds) == 0 {
		t.Skip("no refund")
	}
	return id, rapid.SampledFrom(p.Refunds).Draw(t, "refund")
}

func (s *story) newID() uuid.UUID {
	s.ids++
	return uuid.UUID{0: 0xff, 15: s.ids}
}

// posted reports that no refund, or that every refund was posted.
func (s *story) posted(t *rapid.T, id uuid.UUID) map[uuid.UUID]bool {
	posted := map[uuid.UUID]bool{}
	p, _ := s.slot.Payment(id)
	for _, r := range p.Refunds {
		posted[r.ID] = rapid.Bool().Draw(t, "posted")
	}
	return posted
}

func (s *story) actions() map[string]func(*rapid.T) {
	m := &s.model
	start := func(t *rapid.T) {
		var id uuid.UUID
		id[15] = byte(len(m.order) + 1)
		events, err := s.slot.StartPayment(m.now, domain.StartPayment{ID: id, Offered: price, Method: domain.Card}, price)
		allowed := m.ended == "" && m.open == uuid.Nil && m.now.Before(deadline) && len(m.order) < domain.MaxPayments
		require.Equal(t, allowed, err == nil, "%v", err)
		if allowed {
			m.open, m.order = id, append(m.order, id)
			m.entries[id] = &account{disputes: map[string]string{}, charges: map[string]bool{}}
		}
		s.record(events)
	}
	return map[string]func(*rapid.T){
		"time passes": func(t *rapid.T) {
			to := rapid.SampledFrom([]time.Time{m.now.Add(time.Minute), m.now.Add(10 * time.Minute),
				deadline.Add(-time.Millisecond), deadline, deadline.Add(paymentTimeout)}).Draw(t, "to")
			if to.After(m.now) {
				m.now = to
			}
		},
		"start": start, "start again": start, // twice as likely, because rare states need several
		"success": func(t *rapid.T) {
			id := s.somePayment(t)
			paid := rapid.SampledFrom([]domain.Money{price, price, price, won(1), won(0), dollars(259000)}).Draw(t, "paid")
			o := domain.PaymentOutcome{PaymentID: id, GatewayPaymentID: "g" + id.String(), Succeeded: true, Paid: &paid}
			r := s.slot.ApplyOutcome(o, nil)
			if r.AskGate && rapid.Bool().Draw(t, "the gate is away") {
				require.Empty(t, r.Events)
				return
			}
			hasUnit := rapid.Bool().Draw(t, "has unit")
			if r.AskGate {
				s.number++
				r = s.slot.ApplyOutcome(o, &domain.GateAnswer{Granted: hasUnit, Unit: 1, ArrivalSequence: s.number, TTL: ttl})
			}
			was := m.entries[id].where
			m.take(id, paid, hasUnit)
			require.Equal(t, m.entries[id].where == "elsewhere" && was == "", r.Regrant != nil)
			s.record(r.Events)
		},
		"unreadable success": func(t *rapid.T) {
			id, e := s.here(t)
			s.record(s.slot.ApplyOutcome(domain.PaymentOutcome{PaymentID: id, GatewayPaymentID: "g" + id.String(), Succeeded: true}, nil).Events)
			if e.where == "" {
				m.close(id)
			}
		},
		"failure": func(t *rapid.T) {
			id := s.somePayment(t)
			s.record(s.slot.ApplyOutcome(domain.PaymentOutcome{PaymentID: id, Reason: "NO"}, nil).Events)
			m.close(id)
		},
		"duplicate charge": func(t *rapid.T) {
			id, e := s.here(t)
			if e.where == "" {
				t.Skip("nothing is taken yet")
			}
			charge := rapid.SampledFrom([]string{"x1", "x2"}).Draw(t, "charge")
			paid := won(50)
			s.record(s.slot.ApplyOutcome(domain.PaymentOutcome{PaymentID: id, GatewayPaymentID: charge, Succeeded: true, Paid: &paid}, nil).Events)
			e.charges[charge] = true
		},
		"cancel": func(t *rapid.T) {
			id := s.somePayment(t)
			events, err := s.slot.CancelPayment(id)
			require.Equal(t, m.open == id, err == nil)
			s.record(events)
			if err == nil && rapid.Bool().Draw(t, "unknown to the gateway") {
				s.record(s.slot.FailUnknown(id, domain.ReasonCanceled))
				m.close(id)
			}
		},
		"worker expires": func(t *rapid.T) {
			events := s.slot.Expire(m.now, paymentTimeout)
			isDue := m.ended == "" && !m.now.Before(m.due())
			require.Equal(t, isDue, len(events) > 0)
			if isDue {
				if m.open != uuid.Nil {
					m.close(m.open)
				}
				m.ended = "gone"
			}
			s.record(events)
		},
		"sale cancelled": func(t *rapid.T) {
			if rapid.IntRange(0, 5).Draw(t, "seldom") > 0 {
				t.Skip("it would end too many of the stories early")
			}
			events := s.slot.ExpireCancelled()
			require.Equal(t, m.ended == "", len(events) > 0)
			if len(events) > 0 {
				if m.open != uuid.Nil {
					m.close(m.open)
				}
				m.ended = "gone"
			}
			s.record(events)
			for _, id := range m.order {
				s.record(s.slot.RefundCancelledSale(id))
				require.Empty(t, s.slot.RefundCancelledSale(id), "once")
			}
		},
		"release": func(t *rapid.T) {
			if rapid.IntRange(0, 3).Draw(t, "seldom") > 0 {
				t.Skip("it would end too many of the stories early")
			}
			events, err := s.slot.Release(rapid.SampledFrom([]domain.Caller{owner, admin}).Draw(t, "by"))
			allowed := m.ended == "" && m.open == uuid.Nil
			if m.ended == "" {
				require.Equal(t, allowed, err == nil, "%v", err)
			}
			if allowed {
				m.ended = "gone"
			}
			s.record(events)
		},
		"warn": func(*rapid.T) { s.record(s.slot.Warn(m.now)) },
		"request refund": func(t *rapid.T) {
			id, _ := s.here(t)
			c := domain.RequestRefund{ID: s.newID(), Payment: id, Reason: "REQUESTED", ReturnUnit: rapid.Bool().Draw(t, "return unit")}
			if n := rapid.SampledFrom([]int64{0, 1, 100, 259000, 300000}).Draw(t, "amount"); n > 0 {
				amount := won(n)
				c.Amount = &amount
			}
			if events, err := s.slot.RequestRefund(c); err == nil {
				s.record(events)
			}
		},
		"refund report": func(t *rapid.T) {
			id, r := s.someRefund(t)
			status := rapid.SampledFrom([]domain.RefundStatus{domain.PendingRefund, domain.CompletedRefund, domain.CompletedRefund,
				domain.FailedRefund}).Draw(t, "status")
			report := domain.RefundReport{PaymentID: id, RefundID: r.ID, GatewayRefundID: "r" + r.ID.String(), Status: status, Reason: "CLOSED"}
			result := s.slot.ReportRefund(report)
			if result.Query {
				require.Empty(t, result.Events)
				report.Confirmed = true
				result = s.slot.ReportRefund(report)
			}
			s.record(result.Events)
			require.Empty(t, s.slot.ReportRefund(report).Events, "a repeat changes nothing")
		},
		"refunded at gateway": func(t *rapid.T) {
			id, _ := s.here(t)
			amount := won(rapid.SampledFrom([]int64{1, 100, 259000, 400000}).Draw(t, "amount"))
			g := domain.GatewayRefund{PaymentID: id, GatewayRefundID: fmt.Sprintf("made%d", rapid.IntRange(1, 3).Draw(t, "made")),
				Amount: &amount, NewID: s.newID(), Queried: true, Unknown: map[uuid.UUID]bool{}}
			p, _ := s.slot.Payment(id)
			for _, r := range p.Refunds {
				g.Unknown[r.ID] = rapid.Bool().Draw(t, "unknown")
			}
			s.record(s.slot.RefundedAtGateway(g).Events)
			require.Empty(t, s.slot.RefundedAtGateway(g).Events, "a repeat changes nothing")
		},
		"dispute": func(t *rapid.T) {
			id, e := s.here(t)
			d := domain.DisputeReport{PaymentID: id, DisputeID: rapid.SampledFrom([]string{"d1", "d2"}).Draw(t, "dispute"),
				Closed: rapid.Bool().Draw(t, "closed"), Won: rapid.Bool().Draw(t, "won"), Queried: true, Posted: s.posted(t, id)}
			s.record(s.slot.ReportDispute(d).Events)
			require.Empty(t, s.slot.ReportDispute(d).Events, "a repeat changes nothing")
			if e.where == "" {
				return
			}
			was := e.disputes[d.DisputeID]
			switch {
			case d.Closed && (was == "" || was == "open"):
				e.disputes[d.DisputeID] = map[bool]string{true: "won", false: "lost"}[d.Won]
				e.reversed = e.reversed || !d.Won
			case !d.Closed && was == "":
				e.disputes[d.DisputeID] = "open"
			}
		},
		"reversal": func(t *rapid.T) {
			id, e := s.here(t)
			r := domain.ReversalReport{PaymentID: id, Queried: true, Posted: s.posted(t, id)}
			s.record(s.slot.ReportReversal(r).Events)
			require.Empty(t, s.slot.ReportReversal(r).Events, "a repeat changes nothing")
			e.reversed = e.reversed || e.where != ""
		},
		"operator": func(t *rapid.T) {
			id, e := s.here(t)
			p, _ := s.slot.Payment(id)
			c := domain.Resolve{Payment: id, Note: "N", Posted: s.posted(t, id), Action: rapid.SampledFrom([]domain.ResolveAction{
				domain.RetryItem, domain.RefundedElsewhere, domain.NothingTaken, domain.AcceptItem}).Draw(t, "action")}
			waiting := p.Attention()
			r, err := s.slot.Resolve(c)
			if len(waiting) == 0 {
				require.ErrorIs(t, err, domain.ErrNothingToResolve)
			}
			for _, ev := range r.Events {
				if _, gone := ev.(domain.PaymentReversed); gone {
					e.reversed = true
				}
			}
			s.record(r.Events)
		},
		"": s.check,
	}
}

// check compares the slot with the model, and the events with the rules that
// hold in every case.
func (s *story) check(t *rapid.T) {
	m := &s.model
	status := map[string]domain.SlotStatus{"": domain.ActiveSlot, "paid": domain.CompletedSlot, "gone": domain.ExpiredSlot, "returned": domain.ReturnedSlot}
	require.Equal(t, status[m.ended], s.slot.Status)
	require.Len(t, s.slot.Payments, len(m.order))
	for _, id := range m.order {
		p, ok := s.slot.Payment(id)
		require.True(t, ok)
		e := m.entries[id]
		switch {
		case e.where == "slot" || e.where == "elsewhere":
			require.Equal(t, domain.SuccessfulPayment, p.Status)
			require.Equal(t, e.where == "slot", p.SlotID == slotID)
		case e.closed:
			require.Equal(t, domain.FailedPayment, p.Status)
			require.NotEmpty(t, p.FailureReason)
		default:
			require.Equal(t, domain.PendingPayment, p.Status)
		}
		require.Equal(t, e.reversed, p.Reversed)
		open := false
		for _, how := range e.disputes {
			open = open || how == "open"
		}
		require.Equal(t, open, p.Disputed())
		s.checkRefunds(t, p, e)
	}
	s.checkEvents(t)
}

// checkRefunds: the refunds never exceed what was taken, except for refunds that the
// gateway made, which are recorded as a contradiction.
func (s *story) checkRefunds(t *rapid.T, p domain.Payment, e *account) {
	var covered, duplicates int64
	charges := map[string]bool{}
	for _, r := range p.Refunds {
		amount := r.Amount.Amount().IntPart()
		switch {
		case r.Cause == domain.RefundDuplicateCharge:
			require.True(t, e.charges[r.ChargeID])
			if !charges[r.ChargeID] {
				duplicates++
			}
			charges[r.ChargeID] = true
		case r.Status != domain.FailedRefund:
			covered += amount
		}
	}
	require.Len(t, e.charges, int(duplicates), "each further charge is owed back")
	if e.taken == nil {
		require.Zero(t, covered)
		return
	}
	excess := false
	for _, c := range p.Contradictions {
		excess = excess || c.Code == domain.RefundExceeds
	}
	// A refund that failed and succeeds after all, in addition to its
	// replacement, is the gateway's fault.
	if !excess {
		done := p.Refunded().Amount()
		require.True(t, done.LessThanOrEqual(e.taken.Amount()), "%s of %s went back", done, e.taken)
	}
	if e.where == "owed" {
		require.NotEmpty(t, p.Refunds)
	}
	require.Equal(t, decimal.Max(e.taken.Amount().Sub(decimal.NewFromInt(covered)), decimal.Zero).String(), p.Uncovered().Amount().String())
}

func (s *story) checkEvents(t *rapid.T) {
	count := map[string]int{}
	homes := map[uuid.UUID]int{}
	contents := map[string]int{}
	for _, e := range s.events {
		switch e := e.(type) {
		case domain.SlotExpired:
			count["end"]++
		case domain.PaymentCompleted:
			count["end"]++
			homes[e.PaymentID]++
		case domain.PaymentRegranted:
			homes[e.PaymentID]++
		case domain.RefundDue:
			count["refund "+e.RefundID.String()]++
			if e.Cause == domain.RefundLate || e.Cause == domain.RefundAmountMismatch {
				homes[e.PaymentID]++
			}
		case domain.SlotReturned:
			count["return"]++
		case domain.SlotExpiringSoon:
			count["warning"]++
		case domain.PaymentReversed:
			count["reversal "+e.PaymentID.String()]++
		case domain.PaymentCancelRequested:
			count["cancel "+e.PaymentID.String()]++
		case domain.PaymentContradicted:
			amount := ""
			if e.Amount != nil {
				amount = e.Amount.String() + e.Amount.Currency()
			}
			contents[fmt.Sprint(e.PaymentID, e.Code, e.GatewayPaymentID, e.GatewayRefundID, e.DisputeID, amount)]++
		}
	}
	for what, n := range count {
		require.LessOrEqual(t, n, 1, "%s more than once: %v", what, fmt.Sprint(s.events))
	}
	for what, n := range contents {
		require.Equal(t, 1, n, "%s contradicted more than once", what)
	}
	for id, e := range s.model.entries {
		if e.taken == nil {
			require.Zero(t, homes[id])
			continue
		}
		// A refund that failed and was retried is due under another id.
		require.GreaterOrEqual(t, homes[id], 1, "money taken has a place")
	}
	_, pending := s.slot.Pending()
	require.False(t, pending && s.slot.Status != domain.ActiveSlot, "no slot ends with a payment pending")
}

func TestPayments_NeverLoseMoney(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &story{model: books{now: acquired, entries: map[uuid.UUID]*account{}}}
		s.record([]domain.Event{domain.SlotAcquired{UserID: owner.User, Unit: 7, ArrivalSequence: 12,
			TTLMillis: ttl.Milliseconds(), WarningMillis: warning.Milliseconds()}})
		t.Repeat(s.actions())
	})
}
