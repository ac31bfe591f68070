package rush

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"

	"github.com/dopaminestore/dopamine/tools/books"
)

// moneyEntry has the fields that the metadata of a payment's event may have.
type moneyEntry struct {
	PaymentID uuid.UUID       `json:"paymentId"`
	RefundID  uuid.UUID       `json:"refundId"`
	Amount    decimal.Decimal `json:"amount"`
	Cause     string          `json:"cause"`
	DisputeID string          `json:"disputeId"`
}

// foldMoney applies an event of a payment; it ignores others.
func (l *ledger) foldMoney(e entry, rep *Report) {
	if !books.Concerns(e.Type) {
		return
	}
	var m moneyEntry
	if err := json.Unmarshal(e.Metadata, &m); err != nil {
		rep.broke("R8", "event %s: its metadata cannot be read: %v", e.EventID, err)
		return
	}
	for _, breach := range l.payments.Apply(books.Event{Kind: e.Type, Payment: m.PaymentID, Slot: e.SlotID, Refund: m.RefundID, Amount: m.Amount, Cause: m.Cause, Dispute: m.DisputeID}) {
		rep.broke("R7", "%s", breach)
	}
}

// agree reads events and books until they agree, or until they should.
func agree(ctx context.Context, cfg Config, api *api, p product, rep *Report) (*ledger, []string, error) {
	for deadline := time.Now().Add(moneyTimeout); ; {
		entries, err := api.audit(ctx, p.ID, nil)
		if err != nil {
			return nil, nil, err
		}
		attempt := &Report{Rules: map[string]bool{}}
		l := foldAudit(entries, p.TotalStock, attempt)
		gateway := books.Gateway{}
		if cfg.GatewayURL != "" {
			if gateway, err = books.Read(ctx, api.http, cfg.GatewayURL); err != nil {
				return nil, nil, err
			}
		}
		var different []string
		if cfg.GatewayURL != "" && gateway != nil {
			different = l.payments.Differences(gateway)
		} else {
			for id, m := range l.payments {
				if why := m.Unsettled(); why != "" {
					different = append(different, fmt.Sprintf("payment %s %s", id, why))
				}
			}
		}
		if len(different) == 0 || time.Now().After(deadline) {
			return foldAudit(entries, p.TotalStock, rep), different, nil
		}
		if err := waitUntil(ctx, time.Now().Add(4*askInterval)); err != nil {
			return nil, nil, err
		}
	}
}
