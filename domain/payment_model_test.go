package domain_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dopaminestore/dopamine/domain"
)

// ledger is a model of a slot's money that knows nothing of events or states:
// what each payment asked for, what the gateway took, and where that is now.
type ledger struct {
	now     time.Time
	ended   string // "", "paid", "gone"
	open    uuid.UUID
	order   []uuid.UUID
	entries map[uuid.UUID]*entry
}

type entry struct {
	taken  *domain.Money // what the gateway first said that it took
	where  string        // "": nowhere yet; "slot", "elsewhere", "owed", "back"
	closed bool          // no longer waited for
}

func (l *ledger) due() time.Time {
	if l.open != uuid.Nil {
		return deadline.Add(paymentTimeout)
	}
	return deadline
}

func (l *ledger) close(id uuid.UUID) {
	l.entries[id].closed = true
	if l.open == id {
		l.open = uuid.Nil
	}
}

// take books money that the gateway says it took; hasUnit is what the gate
// says if asked.
func (l *ledger) take(id uuid.UUID, paid domain.Money, hasUnit bool) {
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

// story is the stream under test beside its model.
type story struct {
	slot   domain.Slot
	events []domain.Event
	model  ledger
	number int64
}

func (s *story) record(events []domain.Event) {
	s.slot = happen(s.slot, s.model.now, events...)
	s.events = append(s.events, events...)
}

func (s *story) somePayment(t *rapid.T) uuid.UUID {
	if len(s.model.order) == 0 {
		t.Skip("no payment yet")
	}
	return rapid.SampledFrom(s.model.order).Draw(t, "payment")
}

func (s *story) actions() map[string]func(*rapid.T) {
	m := &s.model
	start := func(t *rapid.T) {
		var id uuid.UUID
		id[15] = byte(len(m.order) + 1)
		events, err := s.slot.StartPayment(m.now, domain.StartPayment{ID: id, Offered: price, Method: domain.Card}, price)
		allowed := m.ended == "" && m.open == uuid.Nil && m.now.Before(deadline)
		require.Equal(t, allowed, err == nil, "%v", err)
		if allowed {
			m.open, m.order = id, append(m.order, id)
			m.entries[id] = &entry{}
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
		"start": start, "start again": start, // twice as likely: what is rare needs several
		"success": func(t *rapid.T) {
			id := s.somePayment(t)
			paid := rapid.SampledFrom([]domain.Money{price, price, price, won(1), won(0), dollars(259000)}).Draw(t, "paid")
			w := domain.GatewayWord{PaymentID: id, GatewayPaymentID: "g" + id.String(), Succeeded: true, Paid: paid}
			h := s.slot.Hear(w, nil)
			if h.AskGate && rapid.Bool().Draw(t, "the gate is away") {
				require.Empty(t, h.Events)
				return
			}
			hasUnit := rapid.Bool().Draw(t, "has unit")
			if h.AskGate {
				s.number++
				h = s.slot.Hear(w, &domain.GateAnswer{Granted: hasUnit, Unit: 1, ArrivalSequence: s.number, TTL: ttl})
			}
			m.take(id, paid, hasUnit)
			require.Equal(t, m.entries[id].where == "elsewhere" && len(h.Events) > 0, h.Regrant != nil)
			s.record(h.Events)
		},
		"failure": func(t *rapid.T) {
			id := s.somePayment(t)
			s.record(s.slot.Hear(domain.GatewayWord{PaymentID: id, Reason: "no"}, nil).Events)
			m.close(id)
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
		"release": func(t *rapid.T) {
			if rapid.IntRange(0, 3).Draw(t, "seldom") > 0 {
				t.Skip("it would end too many of the stories early")
			}
			events, err := s.slot.Release(rapid.SampledFrom([]domain.Caller{owner, admin}).Draw(t, "by"))
			allowed := m.ended == "" && m.open == uuid.Nil
			require.Equal(t, allowed, err == nil, "%v", err)
			if allowed {
				m.ended = "gone"
			}
			s.record(events)
		},
		"warn": func(*rapid.T) { s.record(s.slot.Warn(m.now)) },
		"refund": func(t *rapid.T) {
			id := s.somePayment(t)
			events := s.slot.RefundMade(id, "r")
			require.Equal(t, m.entries[id].where == "owed", len(events) > 0)
			if len(events) > 0 {
				m.entries[id].where = "back"
			}
			s.record(events)
		},
		"": s.check,
	}
}

// check holds the slot against the model, and the events against the rules
// that hold whatever happened.
func (s *story) check(t *rapid.T) {
	m := &s.model
	status := map[string]domain.SlotStatus{"": domain.ActiveSlot, "paid": domain.CompletedSlot, "gone": domain.ExpiredSlot}
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
		require.Equal(t, map[string]domain.RefundStatus{"owed": domain.RefundOwed, "back": domain.RefundMade}[e.where], p.Refund)
		if p.Refund != "" {
			require.True(t, p.RefundAmount.Equal(*e.taken))
		}
	}

	count := map[string]int{}
	homes := map[uuid.UUID]int{}
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
			homes[e.PaymentID]++
		case domain.RefundCompleted:
			count["refund "+e.PaymentID.String()]++
		case domain.SlotExpiringSoon:
			count["warning"]++
		}
	}
	for what, n := range count {
		require.LessOrEqual(t, n, 1, "%s more than once: %v", what, fmt.Sprint(s.events))
	}
	for id, e := range m.entries {
		taken := 0
		if e.taken != nil {
			taken = 1
		}
		require.Equal(t, taken, homes[id], "money taken has exactly one place")
	}
	_, pending := s.slot.Pending()
	require.False(t, pending && s.slot.Status != domain.ActiveSlot, "no slot ends with a payment pending")
}

func TestNoMoneyIsLostWhateverHappensInWhateverOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &story{model: ledger{now: acquired, entries: map[uuid.UUID]*entry{}}}
		s.record([]domain.Event{domain.SlotAcquired{UserID: owner.User, Unit: 7, ArrivalSequence: 12,
			TTLMillis: ttl.Milliseconds(), WarningMillis: warning.Milliseconds()}})
		t.Repeat(s.actions())
	})
}
