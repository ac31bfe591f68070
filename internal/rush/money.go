package rush

import (
	"context"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
)

// readMoneyBack waits until nothing is pending or owed any more, and holds
// purchases, audit and gateway against each other: R7 and R8.
func readMoneyBack(ctx context.Context, cfg Config, api *api, p product, rep *Report) error {
	payments, err := settledMoney(ctx, api, p.ID)
	if err != nil {
		return err
	}
	// Late money may have changed slots since: the ledger is read again.
	entries, err := api.audit(ctx, p.ID, nil)
	if err != nil {
		return err
	}
	l := foldAudit(entries, p.TotalStock, rep)
	checkPayments(payments, l, rep)
	if err := checkSlots(ctx, api, l, rep); err != nil {
		return err
	}
	if cfg.GatewayURL != "" {
		if err := checkGateway(ctx, cfg, api, payments, rep); err != nil {
			return err
		}
	}
	rep.Money = balance(payments, l, p.Currency)
	rep.Money.Asked = cfg.GatewayURL != ""
	return nil
}

func settledMoney(ctx context.Context, api *api, id uuid.UUID) ([]payment, error) {
	for deadline := time.Now().Add(moneySettles); ; {
		payments, err := api.payments(ctx, id)
		if err != nil {
			return nil, err
		}
		if settled(payments) || time.Now().After(deadline) {
			return payments, nil
		}
		if err := waitUntil(ctx, time.Now().Add(4*askEvery)); err != nil {
			return nil, err
		}
	}
}

func settled(payments []payment) bool {
	for _, p := range payments {
		if p.Status == "PENDING" || (p.RefundStatus != nil && *p.RefundStatus == "DUE") {
			return false
		}
	}
	return true
}

// checkPayments holds each payment against the audit, and the slots that were
// paid against the payments.
func checkPayments(payments []payment, l *ledger, rep *Report) {
	bySlot := map[uuid.UUID]int{}
	for _, p := range payments {
		m := l.payments[p.ID]
		if m == nil {
			rep.broke("R8", "payment %s is no event in the audit", p.ID)
			continue
		}
		refunded := p.RefundStatus != nil && *p.RefundStatus == "REFUNDED"
		switch {
		case p.Status == "PENDING":
			rep.broke("R7", "payment %s is still pending", p.ID)
		case p.RefundStatus != nil && !refunded:
			rep.broke("R7", "payment %s: its refund is still due", p.ID)
		case p.Status == "SUCCESS" && m.completed != p.PurchaseSlotID:
			rep.broke("R8", "payment %s is shown for slot %s, the audit has it for slot %s", p.ID, p.PurchaseSlotID, m.completed)
		case p.Status == "FAILED" && !m.failed:
			rep.broke("R8", "payment %s is shown as failed, the audit has no such event", p.ID)
		case refunded != (m.made > 0) || m.made != m.due:
			rep.broke("R7", "payment %s: %d refunds due, %d made, shown as refunded: %t", p.ID, m.due, m.made, refunded)
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

// checkSlots looks slots up one by one and holds them against the audit.
func checkSlots(ctx context.Context, api *api, l *ledger, rep *Report) error {
	const most = 1000 // a sample, where there are more
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

// checkGateway asks the gateway about each payment: what it took must be a
// purchase or have gone back.
func checkGateway(ctx context.Context, cfg Config, api *api, payments []payment, rep *Report) error {
	for _, p := range payments {
		status, err := api.atGateway(ctx, cfg.GatewayURL, p.ID)
		if err != nil {
			return err
		}
		kept := p.Status == "SUCCESS" || (p.RefundStatus != nil && *p.RefundStatus == "REFUNDED")
		if (status == "succeeded") != kept {
			rep.broke("R7", "payment %s is %s here and %q at the gateway", p.ID, p.Status, status)
		}
	}
	return nil
}

func balance(payments []payment, l *ledger, currency string) *Balance {
	b := &Balance{Currency: currency, Payments: len(payments), Expired: l.expired}
	taken, refunded := decimal.Zero, decimal.Zero
	for _, p := range payments {
		amount, err := decimal.NewFromString(p.Amount)
		if err != nil {
			continue // shown as it is; R8 is about rows
		}
		switch {
		case p.Status == "SUCCESS":
			b.Purchases++
			taken = taken.Add(amount)
		case p.RefundStatus != nil && *p.RefundStatus == "REFUNDED":
			refunded = refunded.Add(amount)
		}
		if p.Status == "FAILED" {
			b.Failed++
		}
	}
	b.Taken, b.Refunded = taken.String(), refunded.String()
	return b
}
