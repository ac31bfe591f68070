package command

import (
	"context"
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/httpapi"
)

type startPaymentHandler struct{ command }

// Handle starts a payment of the caller's slot, or repeats the response
// to its idempotency key. It waits briefly for the gateway, so that the response
// usually contains the next action.
func (s startPaymentHandler) Handle(ctx context.Context, by *invocation, c payments.Start) (commandResult[apimodel.PaymentWithAction], error) {
	c.By = callerOf(by.user)
	started, err := s.payments.Start(ctx, c, &by.Origin)
	var refused *payments.RefusedError
	if errors.As(err, &refused) {
		return commandResult[apimodel.PaymentWithAction]{}, withPosition(asRefusal(refused), refused.Product, refused.Position)
	}
	if err != nil {
		return commandResult[apimodel.PaymentWithAction]{}, err
	}
	payment := apimodel.PaymentWithAction{Payment: started.Payment, NextAction: started.NextAction}
	return commandResult[apimodel.PaymentWithAction]{payment, started.Product, started.Position}, nil
}

// callerOf returns the user of a command for the rules of slots.
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
	ReturnURL      field[string]       `json:"returnUrl"`
}

const (
	aUUID   = "a UUID"
	aMethod = "CARD, BANK_TRANSFER or WALLET"
)

// maxReturnURL is the longest return URL, in characters.
const maxReturnURL = 2000

// returnURL validates the URL to which the gateway sends the buyer: https, or a loopback
// address, of an allowed origin. Loopback addresses are allowed if no
// origin is listed, or if they are listed.
func returnURL(text string, origins []string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil, utf8.RuneCountInString(text) > maxReturnURL, u.Host == "", u.User != nil, !plainURL(text):
		return errors.New("must be an https URL of at most 2000 characters")
	}
	host := u.Hostname()
	ip := net.ParseIP(host)
	loopback := host == "localhost" || ip != nil && ip.IsLoopback()
	if u.Scheme != "https" && !(loopback && u.Scheme == "http") {
		return errors.New("must be an https URL, or a loopback address")
	}
	listed := slices.ContainsFunc(origins, func(o string) bool {
		allowed, err := url.Parse(o)
		return err == nil && webOrigin(allowed) == webOrigin(u)
	})
	if !listed && !(loopback && len(origins) == 0) {
		return errors.New("must have an allowed origin")
	}
	return nil
}

// webOrigin returns a URL's origin (RFC 6454), without the scheme's default port.
func webOrigin(u *url.URL) string {
	host := strings.TrimSuffix(u.Host, ":")
	switch u.Scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	}
	return u.Scheme + "://" + strings.ToLower(host)
}

// plainURL reports whether the text has no character that a URL must escape.
func plainURL(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f })
}

func (r startPaymentRequest) command(origins []string) (payments.Start, error) {
	var v fieldErrors
	c := payments.Start{
		Slot:   required(&v, "purchaseSlotId", aUUID, r.PurchaseSlotID).UUID,
		Key:    required(&v, "idempotencyKey", aUUID, r.IdempotencyKey).UUID,
		Method: domain.PaymentMethod(required(&v, "paymentMethod", aMethod, r.PaymentMethod)),
	}
	switch c.Method {
	case domain.Card, domain.BankTransfer, domain.Wallet, "":
	default:
		v.add("paymentMethod", "must be "+aMethod)
	}
	if !r.ReturnURL.null {
		if u := optional(&v, "returnUrl", "a URL", r.ReturnURL); u != nil {
			c.ReturnURL = *u
			if err := returnURL(*u, origins); err != nil {
				v.add("returnUrl", err.Error())
			}
		}
	}
	amount, code := required(&v, "amount", aDecimal, r.Amount), required(&v, "currency", "an ISO 4217 code", r.Currency)
	if len(v) > 0 {
		return c, v.err()
	}
	var err error
	if c.Offered, err = domain.NewMoney(amount.Decimal, strings.ToUpper(code)); err != nil {
		v.money("amount", err)
	}
	return c, v.err()
}
