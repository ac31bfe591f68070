package rush

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/tools/books"
)

// readMoneyBack waits until events and the gateway's books agree to the unit, and
// compares them with what the APIs show: R7 and R8.
func readMoneyBack(ctx context.Context, cfg Config, api *api, p product, rep *Report) error {
	l, different, err := agree(ctx, cfg, api, p, rep)
	if err != nil {
		return err
	}
	for _, d := range different {
		rep.broke("R7", "%s", d)
	}
	payments, err := settledMoney(ctx, api, p.ID, l)
	if err != nil {
		return err
	}
	checkPayments(payments, l, rep)
	if err := checkSlots(ctx, api, l, rep); err != nil {
		return err
	}
	rep.Money = balance(l, p.Currency)
	rep.Money.Asked = cfg.GatewayURL != ""
	if cfg.GatewayURL != "" {
		if err := checkGateway(ctx, cfg, api, l, rep); err != nil {
			return err
		}
	}
	rep.Money.Waiting, err = api.waiting(ctx, l)
	return err
}

// settledMoney reads the payments until they agree with the events, for as long as a read model may
// take.
func settledMoney(ctx context.Context, api *api, id uuid.UUID, l *ledger) ([]payment, error) {
	for deadline := time.Now().Add(logTimeout); ; {
		payments, err := api.payments(ctx, id)
		if err != nil {
			return nil, err
		}
		attempt := &Report{Rules: map[string]bool{}}
		checkPayments(payments, l, attempt)
		if len(attempt.Broken) == 0 || time.Now().After(deadline) {
			return payments, nil
		}
		if err := waitUntil(ctx, time.Now().Add(askInterval)); err != nil {
			return nil, err
		}
	}
}

// checkPayments compares each payment with its events, and the slots that were
// paid with the payments.
func checkPayments(payments []payment, l *ledger, rep *Report) {
	bySlot := map[uuid.UUID]int{}
	for _, p := range payments {
		m := l.payments[p.ID]
		if m == nil {
			rep.broke("R8", "payment %s is no event in the audit", p.ID)
			continue
		}
		switch {
		case p.Status == "PENDING":
			rep.broke("R7", "payment %s is still pending", p.ID)
		case p.Status == "SUCCESS" && m.Completed != p.PurchaseSlotID:
			rep.broke("R8", "payment %s is shown for slot %s, the audit has it for slot %s", p.ID, p.PurchaseSlotID, m.Completed)
		case p.Status == "FAILED" && !m.Failed:
			rep.broke("R8", "payment %s is shown as failed, the audit has no such event", p.ID)
		case p.Disputed != m.Disputed() || p.Reversed != m.Reversed:
			rep.broke("R8", "payment %s is shown as disputed %t, reversed %t; the audit has %t, %t", p.ID, p.Disputed, p.Reversed, m.Disputed(), m.Reversed)
		case p.RefundedAmount != nil && !p.RefundedAmount.Equal(refundedOfCharge(m)):
			rep.broke("R8", "payment %s: %s is shown as refunded, the audit has %s", p.ID, p.RefundedAmount, refundedOfCharge(m))
		}
		if p.Status == "SUCCESS" {
			bySlot[p.PurchaseSlotID]++
		}
	}
	if len(payments) != len(l.payments) {
		rep.broke("R8", "%d payments are shown, the audit has %d", len(payments), len(l.payments))
	}
	for slot, n := range bySlot {
		if n != 1 {
			rep.broke("R7", "slot %s was paid %d times", slot, n)
		}
	}
	for id, s := range l.slots {
		if s.paid && bySlot[id] != 1 {
			rep.broke("R7", "slot %s is completed by %d payments", id, bySlot[id])
		}
	}
}

// refundedOfCharge returns the sum of completed refunds except those of second charges.
func refundedOfCharge(m *books.Payment) decimal.Decimal {
	var sum decimal.Decimal
	for _, f := range m.Refunds {
		if f.Status == "COMPLETED" && f.Cause != "DUPLICATE_CHARGE" {
			sum = sum.Add(f.Amount)
		}
	}
	return sum
}

// checkSlots reads slots one by one and compares them with the audit.
func checkSlots(ctx context.Context, api *api, l *ledger, rep *Report) error {
	const most = 1000 // a sample, if there are more
	seen := 0
	for id, s := range l.slots {
		if seen++; seen > most {
			return nil
		}
		var now slot
		if err := api.call(ctx, http.MethodGet, api.query+"/v1/slots/"+id.String(), nil, nil, &now); err != nil {
			return err
		}
		if want := s.status(); now.Status != want {
			rep.broke("R8", "slot %s is shown as %s, the audit has it %s", id, now.Status, want)
		}
	}
	return nil
}

func (s *record) status() string {
	switch {
	case s.paid:
		return "COMPLETED"
	case s.ends > 0:
		return "EXPIRED"
	}
	return "ACTIVE"
}

// checkGateway queries the gateway about each payment: every payment that it took must have been
// taken here too.
func checkGateway(ctx context.Context, cfg Config, api *api, l *ledger, rep *Report) error {
	for id, m := range l.payments {
		status, err := api.atGateway(ctx, cfg.GatewayURL, id)
		if err != nil {
			return err
		}
		if taken := m.Sums().Taken.IsPositive(); (status == "succeeded") != taken {
			rep.broke("R7", "payment %s: taken here: %t; at the gateway it is %q", id, taken, status)
		}
	}
	return nil
}

// waiting counts the payments' items that wait for an operator, by cause.
func (a *api) waiting(ctx context.Context, l *ledger) (map[string]int, error) {
	counts := map[string]int{}
	for cursor := ""; ; {
		var page struct {
			Items []struct {
				PaymentID uuid.UUID `json:"paymentId"`
				Cause     string    `json:"cause"`
			} `json:"items"`
			NextCursor *string `json:"nextCursor"`
		}
		q := url.Values{"limit": {"1000"}}
		if cursor != "" {
			q.Set("cursor", cursor)
		}
		err := a.call(ctx, http.MethodGet, a.query+"/v1/operations/money?"+q.Encode(), nil, nil, &page)
		var refused *refusal
		if errors.As(err, &refused) && refused.slug == "not-found" {
			return counts, nil // an earlier version
		}
		if err != nil {
			return nil, err
		}
		for _, item := range page.Items {
			if l.payments[item.PaymentID] != nil {
				counts[item.Cause]++
			}
		}
		if page.NextCursor == nil || *page.NextCursor == "" {
			return counts, nil
		}
		cursor = *page.NextCursor
	}
}

func balance(l *ledger, currency string) *Balance {
	b := &Balance{Currency: currency, Payments: len(l.payments), Expired: l.expired}
	all := l.payments.Sums()
	for _, m := range l.payments {
		b.Disputes += len(m.Disputes)
		if m.Completed != uuid.Nil {
			b.Purchases++
		} else if m.Failed {
			b.Failed++
		}
	}
	b.Taken, b.Refunded, b.Reversed, b.Kept = all.Taken.String(), all.Refunded.String(), all.Reversed.String(), all.Kept().String()
	return b
}
