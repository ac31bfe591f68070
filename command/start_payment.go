package command

import (
	"context"
	"errors"

	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/view"
)

// startPayment begins a payment of the caller's slot, or answers again what was
// answered to its key. Nobody waits for the gateway here.
func (s *services) startPayment(ctx context.Context, by *invocation, c payments.Start) (done[view.Payment], error) {
	ctx, cancel := detached(ctx, appendWithin)
	defer cancel()
	c.By = callerOf(by.user)
	started, err := s.payments.Start(ctx, c, &by.Origin)
	var refused *payments.RefusedError
	if errors.As(err, &refused) {
		return done[view.Payment]{}, at(asRefusal(refused), refused.Product, refused.Position)
	}
	if err != nil {
		return done[view.Payment]{}, err
	}
	return done[view.Payment]{started.Payment, started.Product, started.Position}, nil
}

// callerOf is who sent a command, as the slots' rules see them.
func callerOf(id auth.Identity) domain.Caller {
	return domain.Caller{User: id.Sub, Buyer: id.Has(auth.Buyer), Admin: id.Has(auth.Admin)}
}

// startPaymentRequest is the body of POST /v1/payments.
type startPaymentRequest struct {
	PurchaseSlotID field[httpapi.UUID] `json:"purchaseSlotId"`
	IdempotencyKey field[httpapi.UUID] `json:"idempotencyKey"`
	Amount         field[number]       `json:"amount"`
	Currency       field[string]       `json:"currency"`
	PaymentMethod  field[string]       `json:"paymentMethod"`
}

const (
	aUUID   = "a UUID"
	aMethod = "CARD, BANK_TRANSFER or WALLET"
)

func (r startPaymentRequest) command() (payments.Start, error) {
	var v faults
	c := payments.Start{
		Slot:   need(&v, "purchaseSlotId", aUUID, r.PurchaseSlotID).UUID,
		Key:    need(&v, "idempotencyKey", aUUID, r.IdempotencyKey).UUID,
		Method: domain.PaymentMethod(need(&v, "paymentMethod", aMethod, r.PaymentMethod)),
	}
	switch c.Method {
	case domain.Card, domain.BankTransfer, domain.Wallet, "":
	default:
		v.add("paymentMethod", "must be "+aMethod)
	}
	amount, code := need(&v, "amount", aDecimal, r.Amount), need(&v, "currency", "an ISO 4217 code", r.Currency)
	if len(v) > 0 {
		return c, v.err()
	}
	var err error
	if c.Offered, err = domain.NewMoney(amount.Decimal, code); err != nil {
		v.money("amount", err)
	}
	return c, v.err()
}
