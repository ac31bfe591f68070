package gatewaysim

import (
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/gateway"
)

// maxBody is more than any request has.
const maxBody = 64 << 10

// Reasons that the simulator gives.
const (
	reasonRefused  = "CARD_REFUSED"       // at once, by 402
	reasonDeclined = "INSUFFICIENT_FUNDS" // after the latency
	reasonReused   = "IDEMPOTENCY_KEY_REUSED"
	reasonInvalid  = "INVALID_REQUEST"
	reasonUnknown  = "UNKNOWN_PAYMENT"
	reasonNotTaken = "NOT_TAKEN"    // there is nothing to give back
	reasonTooMuch  = "OVER_REFUNDS" // more than was taken
)

type payBody struct {
	Reference   uuid.UUID `json:"reference"`
	Amount      string    `json:"amount"`
	Currency    string    `json:"currency"`
	Method      string    `json:"paymentMethod"`
	CallbackURL string    `json:"callbackUrl"`
}

type refundBody struct {
	Reference uuid.UUID `json:"reference"`
	Amount    string    `json:"amount"`
	Currency  string    `json:"currency"`
}

type payAnswer struct {
	PaymentID string         `json:"paymentId"`
	Status    gateway.Status `json:"status"`
}

type lookAnswer struct {
	PaymentID     string         `json:"paymentId"`
	Status        gateway.Status `json:"status"`
	Amount        string         `json:"amount"`
	Currency      string         `json:"currency"`
	FailureReason *string        `json:"failureReason"`
}

// Handler serves the simulator's HTTP.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /payments", s.pay)
	mux.HandleFunc("GET /payments/{reference}", s.look)
	mux.HandleFunc("POST /refunds", s.refund)
	mux.HandleFunc("GET /balance", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, s.Balance()) })
	mux.HandleFunc("GET /health/live", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "UP"})
	})
	return mux
}

func (s *Server) pay(w http.ResponseWriter, r *http.Request) {
	var body payBody
	key, ok := read(w, r, &body)
	if !ok {
		return
	}
	amount, err := moneyOf(body.Amount, body.Currency)
	target, urlErr := url.Parse(body.CallbackURL)
	if err != nil || urlErr != nil || target.Host == "" || body.Reference == uuid.Nil {
		refuse(w, http.StatusBadRequest, reasonInvalid)
		return
	}
	asked := once[payBody]{key, body}
	p, fresh := s.books.enter(key, body.Reference, func() *payment {
		p := &payment{
			Reference: body.Reference, PaymentID: "pay_" + uuid.NewString(), Status: gateway.Pending,
			Amount: amount, CallbackURL: body.CallbackURL, asked: asked,
		}
		if s.happens(s.opts.Refused) {
			p.Refused, p.Status, p.Reason = true, gateway.Failed, reasonRefused
		}
		return p
	})
	switch {
	case p.asked != asked:
		refuse(w, http.StatusUnprocessableEntity, reasonReused)
	case p.Refused:
		refuse(w, http.StatusPaymentRequired, p.Reason)
	default:
		if fresh {
			s.callbacks.Go(func() { s.carryOut(p.Reference) })
		}
		answer(w, http.StatusAccepted, payAnswer{p.PaymentID, p.Status})
	}
}

func (s *Server) look(w http.ResponseWriter, r *http.Request) {
	reference, err := uuid.Parse(r.PathValue("reference"))
	p, there := s.books.find(reference)
	if err != nil || !there {
		refuse(w, http.StatusNotFound, reasonUnknown)
		return
	}
	answer(w, http.StatusOK, lookAnswer{p.PaymentID, p.Status, p.Amount.String(), p.Amount.Currency(), p.reason()})
}

func (s *Server) refund(w http.ResponseWriter, r *http.Request) {
	var body refundBody
	key, ok := read(w, r, &body)
	if !ok {
		return
	}
	amount, err := moneyOf(body.Amount, body.Currency)
	if err != nil {
		refuse(w, http.StatusBadRequest, reasonInvalid)
		return
	}
	if _, there := s.books.find(body.Reference); !there {
		refuse(w, http.StatusNotFound, reasonUnknown)
		return
	}
	reason, again := "", once[refundBody]{key, body}
	p := s.books.change(body.Reference, func(p *payment) {
		switch {
		case p.Status != gateway.Succeeded:
			reason = reasonNotTaken
		case p.RefundID != "" && p.refund != again:
			reason = reasonReused
		case p.RefundID != "":
		case amount.Currency() != p.Amount.Currency() || amount.Amount().GreaterThan(p.Amount.Amount()):
			reason = reasonTooMuch
		default:
			p.RefundID, p.Refunded, p.refund = "ref_"+uuid.NewString(), amount, again
		}
	})
	if reason != "" {
		refuse(w, http.StatusUnprocessableEntity, reason)
		return
	}
	answer(w, http.StatusOK, map[string]string{"refundId": p.RefundID})
}

func moneyOf(text, currency string) (domain.Money, error) {
	amount, err := domain.ParseDecimal(text)
	if err != nil {
		return domain.Money{}, err
	}
	return domain.NewMoney(amount, currency)
}

// read reads a request's key and body; where it cannot it has answered.
func read(w http.ResponseWriter, r *http.Request, body any) (key string, ok bool) {
	key = r.Header.Get("Idempotency-Key")
	if key == "" || json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(body) != nil {
		refuse(w, http.StatusBadRequest, reasonInvalid)
		return "", false
	}
	return key, true
}

func refuse(w http.ResponseWriter, status int, reason string) {
	answer(w, status, map[string]string{"failureReason": reason})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that has gone asks again
}
