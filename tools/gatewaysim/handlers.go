package gatewaysim

import (
	"crypto/subtle"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/gateway"
)

// maxBody is more than any request has.
const maxBody = 64 << 10

// The simulator's failure reasons.
const (
	reasonRefused     = "CARD_REFUSED"       // at once, by 402
	reasonDeclined    = "INSUFFICIENT_FUNDS" // after the latency
	reasonByBuyer     = "BUYER_DECLINED"     // on the action page
	reasonReused      = "IDEMPOTENCY_KEY_REUSED"
	reasonInvalid     = "INVALID_REQUEST"
	reasonUnknown     = "UNKNOWN_PAYMENT"
	reasonNotCanceled = "NOT_CANCELABLE"
)

// Handler serves the simulator's HTTP.
func (s *Server) Handler() http.Handler {
	contract := http.NewServeMux()
	contract.HandleFunc("POST /payments", s.pay)
	contract.HandleFunc("GET /payments/{reference}", s.findPayment)
	contract.HandleFunc("POST /payments/{reference}/cancel", s.cancel)
	contract.HandleFunc("POST /refunds", s.refund)
	contract.HandleFunc("GET /refunds/{refund}", s.findRefund)

	mux := http.NewServeMux()
	mux.Handle("/payments", s.unreliable(contract))
	mux.Handle("/payments/", s.unreliable(contract))
	mux.Handle("/refunds", s.unreliable(contract))
	mux.Handle("/refunds/", s.unreliable(contract))
	mux.HandleFunc("GET /action/{payment}", s.actionPage)
	mux.HandleFunc("POST /action/{payment}", s.act)
	mux.HandleFunc("GET /balance", func(w http.ResponseWriter, _ *http.Request) { respond(w, http.StatusOK, s.Balance()) })
	mux.HandleFunc("GET /health/live", func(w http.ResponseWriter, _ *http.Request) {
		respond(w, http.StatusOK, map[string]string{"status": "UP"})
	})
	return mux
}

// unreliable checks the key and then misbehaves: it delays some responses and
// breaks the connection instead of others.
func (s *Server) unreliable(next http.Handler) http.Handler {
	want := []byte("Bearer " + s.opts.Key)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.opts.Key != "" && subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), want) != 1 {
			respond(w, http.StatusUnauthorized, map[string]string{"message": "unknown key"})
			return
		}
		held := &heldResponse{header: http.Header{}, status: http.StatusOK}
		next.ServeHTTP(held, r)
		if s.happens(s.opts.SlowRate) {
			_ = s.pause(s.opts.SlowLatency) // a server that stops sends it at once
		}
		if r.Method == http.MethodPost && s.happens(s.opts.LostResponses) {
			panic(http.ErrAbortHandler)
		}
		held.send(w)
	})
}

// heldResponse is a response that has not been sent.
type heldResponse struct {
	header http.Header
	status int
	body   []byte
}

func (h *heldResponse) Header() http.Header { return h.header }

func (h *heldResponse) WriteHeader(status int) { h.status = status }

func (h *heldResponse) Write(b []byte) (int, error) {
	h.body = append(h.body, b...)
	return len(b), nil
}

func (h *heldResponse) send(w http.ResponseWriter) {
	for name, values := range h.header {
		w.Header()[name] = values
	}
	w.WriteHeader(h.status)
	_, _ = w.Write(h.body) // a client that has gone retries
}

type payBody struct {
	Reference   uuid.UUID `json:"reference"`
	Amount      string    `json:"amount"`
	Currency    string    `json:"currency"`
	Method      string    `json:"paymentMethod"`
	CallbackURL string    `json:"callbackUrl"`
	ReturnURL   string    `json:"returnUrl"`
}

// paymentState is the payment object of every response.
type paymentState struct {
	PaymentID     string              `json:"paymentId"`
	Status        gateway.Status      `json:"status"`
	Amount        string              `json:"amount"`
	Currency      string              `json:"currency"`
	FailureReason *string             `json:"failureReason"`
	NextAction    *gateway.NextAction `json:"nextAction"`
}

func (p payment) state() paymentState {
	state := paymentState{
		PaymentID: p.Charges[0].ID, Status: p.Status, Amount: p.Amount.String(), Currency: p.currency(), FailureReason: p.reason(),
	}
	if p.Status == gateway.RequiresAction {
		state.NextAction = &gateway.NextAction{Type: gateway.Redirect, URL: p.ActionURL}
	}
	return state
}

func (s *Server) pay(w http.ResponseWriter, r *http.Request) {
	var body payBody
	key, raw, ok := read(w, r, &body)
	if !ok {
		return
	}
	amount, err := moneyOf(body.Amount, body.Currency)
	target, urlErr := url.Parse(body.CallbackURL)
	if err != nil || urlErr != nil || target.Host == "" || body.Reference == uuid.Nil {
		refuse(w, http.StatusBadRequest, reasonInvalid)
		return
	}
	p, fresh, err := s.enter(r, key, raw, body, amount)
	switch {
	case err != nil:
		s.broken(w, err)
	case p.Key != key || p.Body != raw:
		refuse(w, http.StatusUnprocessableEntity, reasonReused)
	case !fresh && s.happens(s.opts.RepeatRejected):
		s.rejectRepeat(w)
	case p.Refused:
		refuse(w, http.StatusPaymentRequired, p.Reason)
	default:
		if fresh {
			s.begin(p)
		}
		respond(w, http.StatusAccepted, p.state())
	}
}

// enter returns the payment of the reference, and whether it is new.
func (s *Server) enter(r *http.Request, key, raw string, body payBody, amount domain.Money) (payment, bool, error) {
	fresh := payment{
		Reference: body.Reference, Key: key, Body: raw, Status: gateway.Pending, Amount: amount,
		CallbackURL: body.CallbackURL, ReturnURL: body.ReturnURL, Charges: []charge{{ID: "pay_" + uuid.NewString()}},
	}
	// Drawn for repeats too, which is harmless, and outside of the books' lock.
	fresh.Fate = fate{
		Succeeds: s.happens(s.opts.SuccessRate), Duplicated: s.happens(s.opts.Duplicated), Disputed: s.happens(s.opts.Disputed),
		DisputeLost: s.happens(s.opts.DisputesLost), LowerCase: s.happens(s.opts.LowerCase),
	}
	switch {
	case s.happens(s.opts.Refused):
		fresh.Refused, fresh.Status, fresh.Reason = true, gateway.Failed, reasonRefused
	case s.happens(s.opts.ActionRate):
		fresh.Status, fresh.ActionURL = gateway.RequiresAction, "http://"+r.Host+"/action/"+fresh.Charges[0].ID
	}
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	if p, ok := s.books.get(body.Reference); ok {
		return p, false, nil
	}
	return fresh, true, s.books.put(record{Payment: &fresh})
}

// rejections are responses to a repeated POST that are no evidence about the payment.
var rejections = []struct {
	status int
	body   string
}{
	{http.StatusConflict, `{"error":{"code":"idempotency_key_in_use"}}`},
	{http.StatusUnauthorized, `{"message":"key expired"}`},
	{http.StatusForbidden, `<html>blocked by a firewall</html>`},
	{http.StatusNotFound, `<html>no such route</html>`},
	{http.StatusProxyAuthRequired, `proxy`},
	{http.StatusUnprocessableEntity, `{"error":{"code":"idempotency_error"}}`},
}

func (s *Server) rejectRepeat(w http.ResponseWriter) {
	r := rejections[s.oneOf(len(rejections))]
	w.WriteHeader(r.status)
	_, _ = io.WriteString(w, r.body)
}

func (s *Server) findPayment(w http.ResponseWriter, r *http.Request) {
	reference, err := uuid.Parse(r.PathValue("reference"))
	p, ok := s.books.find(reference)
	if err != nil || !ok {
		refuse(w, http.StatusNotFound, reasonUnknown)
		return
	}
	respond(w, http.StatusOK, p.state())
}

func (s *Server) cancel(w http.ResponseWriter, r *http.Request) {
	reference, err := uuid.Parse(r.PathValue("reference"))
	if _, ok := s.books.find(reference); err != nil || !ok {
		refuse(w, http.StatusNotFound, reasonUnknown)
		return
	}
	refused := s.happens(s.opts.CancelRefused)
	p, canceled, err := s.books.update(reference, func(p *payment) bool {
		if p.Status.Final() || refused {
			return false
		}
		p.Status = gateway.Canceled
		return true
	})
	switch {
	case err != nil:
		s.broken(w, err)
	case !canceled && !p.Status.Final():
		refuse(w, http.StatusConflict, reasonNotCanceled)
	default:
		if canceled {
			s.report(p)
		}
		respond(w, http.StatusOK, p.state())
	}
}

func moneyOf(text, currency string) (domain.Money, error) {
	amount, err := domain.ParseDecimal(text)
	if err != nil {
		return domain.Money{}, err
	}
	return domain.NewMoney(amount, currency)
}

// cased returns a currency code as the simulator reports it.
func cased(code string, lower bool) string {
	if lower {
		return strings.ToLower(code)
	}
	return code
}

// read reads a request's key and body; if it cannot, it has responded.
func read(w http.ResponseWriter, r *http.Request, body any) (key, raw string, ok bool) {
	key = r.Header.Get("Idempotency-Key")
	content, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if key == "" || err != nil || json.Unmarshal(content, body) != nil {
		refuse(w, http.StatusBadRequest, reasonInvalid)
		return "", "", false
	}
	return key, string(content), true
}

// broken responds that the books cannot be written; nothing has taken effect.
func (s *Server) broken(w http.ResponseWriter, err error) {
	s.log.Error("write the books failed", "error", err)
	respond(w, http.StatusInternalServerError, map[string]string{"message": "out of order"})
}

func refuse(w http.ResponseWriter, status int, reason string) {
	respond(w, status, map[string]string{"failureReason": reason})
}

func respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that has gone retries
}
