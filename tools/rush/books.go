package rush

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
)

// money is a payment as its events in the audit report it.
type money struct {
	completed uuid.UUID // the slot that it completed
	failed    bool
	price     decimal.Decimal
	refunds   map[uuid.UUID]*refund
	disputes  map[string]bool // by dispute id: open
	reversed  bool
}

// refund is a refund as the audit reports it.
type refund struct {
	amount decimal.Decimal
	cause  string
	status string // DUE, PENDING, COMPLETED or FAILED
}

// moneyEntry is what the metadata of a payment's event may hold.
type moneyEntry struct {
	PaymentID uuid.UUID       `json:"paymentId"`
	RefundID  uuid.UUID       `json:"refundId"`
	Amount    decimal.Decimal `json:"amount"`
	Cause     string          `json:"cause"`
	DisputeID string          `json:"disputeId"`
}

// refundStates are the states that events of refunds lead to.
var refundStates = map[string]string{
	"RefundDue": "DUE", "RefundPending": "PENDING", "RefundCompleted": "COMPLETED", "RefundFailed": "FAILED",
}

// foldMoney applies an event of a payment; it ignores others.
func (l *ledger) foldMoney(e entry, rep *Report) {
	switch e.Type {
	case "PaymentInitiated", "PaymentFailed", "PaymentCompleted", "RefundDue", "RefundPending", "RefundCompleted", "RefundFailed",
		"PaymentDisputed", "PaymentDisputeClosed", "PaymentReversed":
	default:
		return
	}
	var m moneyEntry
	if err := json.Unmarshal(e.Metadata, &m); err != nil {
		rep.broke("R8", "event %s: its metadata cannot be read: %v", e.EventID, err)
		return
	}
	p := l.payments[m.PaymentID]
	if p == nil {
		if e.Type != "PaymentInitiated" {
			rep.broke("R8", "payment %s: %s before it was initiated", m.PaymentID, e.Type)
		}
		p = &money{refunds: map[uuid.UUID]*refund{}, disputes: map[string]bool{}}
		l.payments[m.PaymentID] = p
	}
	switch e.Type {
	case "PaymentInitiated":
		p.price = m.Amount
	case "PaymentFailed":
		p.failed = true
	case "PaymentCompleted":
		if p.completed != uuid.Nil {
			rep.broke("R7", "payment %s completed slot %s and slot %s", m.PaymentID, p.completed, e.SlotID)
		}
		p.completed, p.failed = e.SlotID, false
	case "PaymentDisputed":
		if _, known := p.disputes[m.DisputeID]; !known {
			p.disputes[m.DisputeID] = true
		}
	case "PaymentDisputeClosed":
		p.disputes[m.DisputeID] = false
	case "PaymentReversed":
		if p.reversed {
			rep.broke("R7", "payment %s was reversed twice", m.PaymentID)
		}
		p.reversed = true
	case "RefundDue":
		if p.refunds[m.RefundID] != nil {
			rep.broke("R7", "payment %s: refund %s became due twice", m.PaymentID, m.RefundID)
		}
		p.refunds[m.RefundID] = &refund{amount: m.Amount, cause: m.Cause, status: "DUE"}
	default:
		f := p.refunds[m.RefundID]
		if f == nil {
			rep.broke("R7", "payment %s: %s of a refund that was never due", m.PaymentID, e.Type)
			return
		}
		f.status = refundStates[e.Type]
	}
}

// sums are what a payment came to: amounts in its currency.
type sums struct{ taken, refunded, reversed decimal.Decimal }

func (s sums) kept() decimal.Decimal { return s.taken.Sub(s.refunded).Sub(s.reversed) }

func (s sums) equal(o sums) bool {
	return s.taken.Equal(o.taken) && s.refunded.Equal(o.refunded) && s.reversed.Equal(o.reversed)
}

func (s sums) String() string {
	return fmt.Sprintf("taken %s, refunded %s, reversed %s", s.taken, s.refunded, s.reversed)
}

// sums returns what the events of a payment say that was taken and returned. A
// refund of a payment that completed no slot, and that of a second charge, also
// mean that its amount was taken.
func (m *money) sums() sums {
	var s sums
	if m.completed != uuid.Nil {
		s.taken = m.price
	}
	for _, f := range m.refunds {
		if f.cause == "DUPLICATE_CHARGE" || (m.completed == uuid.Nil && f.cause != "REQUESTED") {
			s.taken = s.taken.Add(f.amount)
		}
		if f.status == "COMPLETED" {
			s.refunded = s.refunded.Add(f.amount)
		}
	}
	if m.reversed {
		s.reversed = m.price
	}
	return s
}

func (m *money) disputed() bool {
	return slices.Contains(slices.Collect(maps.Values(m.disputes)), true)
}

// unsettled returns why a payment is not at its end yet, "" if it is.
func (m *money) unsettled() string {
	if m.completed == uuid.Nil && !m.failed {
		return "is pending"
	}
	if m.disputed() {
		return "is disputed"
	}
	for id, f := range m.refunds {
		if f.status == "DUE" || f.status == "PENDING" {
			return fmt.Sprintf("has refund %s %s", id, f.status)
		}
	}
	return ""
}

// gatewayBooks is what the simulator's GET /balance returns.
type gatewayBooks struct {
	Payments []struct {
		Reference uuid.UUID       `json:"reference"`
		Status    string          `json:"status"`
		Amount    decimal.Decimal `json:"amount"`
		Refunded  decimal.Decimal `json:"refunded"`
		Reversed  decimal.Decimal `json:"reversed"`
		DisputeID *string         `json:"disputeId"`
	} `json:"payments"`
}

// books are sums and disputes by payment.
type books map[uuid.UUID]*bookEntry

type bookEntry struct {
	sums
	disputes int
}

// gatewayBooks reads the gateway's books, nil if it has no such page.
func (a *api) gatewayBooks(ctx context.Context, gateway string) (books, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, gateway+"/balance", nil)
	if err != nil {
		return nil, err
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("read the gateway's books: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return nil, nil
	}
	var page gatewayBooks
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read the gateway's books: status %d", resp.StatusCode)
	}
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil {
		return nil, fmt.Errorf("read the gateway's books: %w", err)
	}
	all := books{}
	for _, p := range page.Payments {
		e := all[p.Reference]
		if e == nil {
			e = &bookEntry{}
			all[p.Reference] = e
		}
		if p.Status == "succeeded" {
			e.taken = e.taken.Add(p.Amount)
		}
		e.refunded, e.reversed = e.refunded.Add(p.Refunded), e.reversed.Add(p.Reversed)
		if p.DisputeID != nil {
			e.disputes++
		}
	}
	return all, nil
}

// differences compares the events with the gateway's books, payment by payment.
// Payments that the gateway has and this product has not are another sale's.
func (l *ledger) differences(gateway books) []string {
	var all []string
	for _, id := range slices.SortedFunc(maps.Keys(l.payments), func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) }) {
		m := l.payments[id]
		if why := m.unsettled(); why != "" {
			all = append(all, fmt.Sprintf("payment %s %s", id, why))
			continue
		}
		theirs := gateway[id]
		if theirs == nil {
			theirs = &bookEntry{}
		}
		if ours := m.sums(); !ours.equal(theirs.sums) {
			all = append(all, fmt.Sprintf("payment %s: %s here; %s at the gateway", id, ours, theirs.sums))
		}
		if len(m.disputes) != theirs.disputes {
			all = append(all, fmt.Sprintf("payment %s: %d disputes here, %d at the gateway", id, len(m.disputes), theirs.disputes))
		}
	}
	return all
}

// agree reads events and books until they agree, or until they should.
func agree(ctx context.Context, cfg Config, api *api, p product, rep *Report) (*ledger, []string, error) {
	for deadline := time.Now().Add(moneySettles); ; {
		entries, err := api.audit(ctx, p.ID, nil)
		if err != nil {
			return nil, nil, err
		}
		attempt := &Report{Rules: map[string]bool{}}
		l := foldAudit(entries, p.TotalStock, attempt)
		gateway := books{}
		if cfg.GatewayURL != "" {
			if gateway, err = api.gatewayBooks(ctx, cfg.GatewayURL); err != nil {
				return nil, nil, err
			}
		}
		var different []string
		if cfg.GatewayURL != "" && gateway != nil {
			different = l.differences(gateway)
		} else {
			for id, m := range l.payments {
				if why := m.unsettled(); why != "" {
					different = append(different, fmt.Sprintf("payment %s %s", id, why))
				}
			}
		}
		if len(different) == 0 || time.Now().After(deadline) {
			return foldAudit(entries, p.TotalStock, rep), different, nil
		}
		if err := waitUntil(ctx, time.Now().Add(4*askEvery)); err != nil {
			return nil, nil, err
		}
	}
}
