package gatewaysim

import (
	"net/http"
	"slices"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/gateway"
)

// Reasons of refunds.
const (
	reasonNotTaken     = "NOT_TAKEN"        // there is nothing to return
	reasonTooMuch      = "OVER_REFUNDS"     // more than is left
	reasonReversed     = "PAYMENT_REVERSED" // a lost dispute took it
	reasonRefundFailed = "ACCOUNT_CLOSED"   // after it had been accepted
)

type refundBody struct {
	RefundReference uuid.UUID `json:"refundReference"`
	Reference       uuid.UUID `json:"reference"`
	PaymentID       string    `json:"paymentId"`
	Amount          string    `json:"amount"`
	Currency        string    `json:"currency"`
}

type refundState struct {
	RefundID      string               `json:"refundId"`
	Status        gateway.RefundStatus `json:"status"`
	FailureReason *string              `json:"failureReason"`
}

func (r refund) state() refundState {
	state := refundState{RefundID: r.ID, Status: r.Status}
	if r.Status == gateway.RefundFailed {
		state.FailureReason = &r.Reason
	}
	return state
}

func (s *Server) refund(w http.ResponseWriter, r *http.Request) {
	var body refundBody
	key, raw, ok := read(w, r, &body)
	if !ok {
		return
	}
	amount, err := moneyOf(body.Amount, body.Currency)
	if err != nil || amount.IsZero() || body.RefundReference == uuid.Nil {
		refuse(w, http.StatusBadRequest, reasonInvalid)
		return
	}
	f, fresh, reason, err := s.enterRefund(key, raw, body, amount)
	switch {
	case err != nil:
		s.broken(w, err)
	case reason == reasonUnknown:
		refuse(w, http.StatusNotFound, reason)
	case reason != "":
		refuse(w, http.StatusUnprocessableEntity, reason)
	case f.Key != key || f.Body != raw:
		refuse(w, http.StatusUnprocessableEntity, reasonReused)
	case !fresh && s.happens(s.opts.RepeatRejected):
		s.rejectRepeat(w)
	default:
		if fresh && !f.Settled {
			s.work.Go(func() { s.settleRefund(f.Reference) })
		}
		status := http.StatusOK
		if f.Status == gateway.RefundPending {
			status = http.StatusAccepted
		}
		respond(w, status, f.state())
	}
}

// enterRefund returns the refund with that reference, and whether it is new, or the reason why it
// is refused.
func (s *Server) enterRefund(key, raw string, body refundBody, amount domain.Money) (refund, bool, string, error) {
	fresh := refund{
		Reference: body.RefundReference, Payment: body.Reference, Key: key, Body: raw, ID: "ref_" + uuid.NewString(), Amount: amount,
		Status: gateway.RefundSucceeded, Fails: s.happens(s.opts.RefundsFailed),
	}
	if s.happens(s.opts.RefundsPending) {
		fresh.Status = gateway.RefundPending
	}
	fresh.Settled = fresh.Status == gateway.RefundSucceeded && !fresh.Fails

	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	if f, ok := s.books.refunds[body.RefundReference]; ok {
		return *f, false, "", nil
	}
	p, ok := s.books.get(body.Reference)
	if !ok {
		return refund{}, false, reasonUnknown, nil
	}
	c := 0
	if body.PaymentID != "" {
		c = slices.IndexFunc(p.Charges, func(c charge) bool { return c.ID == body.PaymentID })
	}
	switch {
	case c < 0:
		return refund{}, false, reasonUnknown, nil
	case p.Status != gateway.Succeeded:
		return refund{}, false, reasonNotTaken, nil
	case p.Charges[c].Reversed != nil:
		return refund{}, false, reasonReversed, nil
	case amount.Currency() != p.Amount.Currency(),
		s.books.covered(p.Charges[c].ID).Add(amount.Amount()).GreaterThan(p.Amount.Amount()):
		return refund{}, false, reasonTooMuch, nil
	}
	fresh.Charge = p.Charges[c].ID
	return fresh, true, "", s.books.put(record{Refund: &fresh})
}

func (s *Server) findRefund(w http.ResponseWriter, r *http.Request) {
	reference, err := uuid.Parse(r.PathValue("refund"))
	f, ok := s.books.findRefund(reference)
	if err != nil || !ok {
		refuse(w, http.StatusNotFound, "UNKNOWN_REFUND")
		return
	}
	respond(w, http.StatusOK, f.state())
}

// settleRefund brings a refund to its end after the latency: a pending one
// succeeds or fails; one that had succeeded fails, which the callback reports
// until it has arrived.
func (s *Server) settleRefund(reference uuid.UUID) {
	if s.pause(s.opts.Latency) != nil {
		return
	}
	s.books.mu.Lock()
	old, ok := s.books.refunds[reference]
	if !ok || old.Settled {
		s.books.mu.Unlock()
		return
	}
	f := *old
	f.Settled = true
	must := f.Status == gateway.RefundSucceeded
	if f.Status = gateway.RefundSucceeded; f.Fails {
		f.Status, f.Reason = gateway.RefundFailed, reasonRefundFailed
	}
	p, _ := s.books.get(f.Payment)
	data := callbackData{
		Reference: f.Payment, PaymentID: f.Charge, Amount: f.Amount.String(), Currency: p.currency(),
		RefundReference: &f.Reference, RefundID: f.ID, FailureReason: f.state().FailureReason,
	}
	m, err := newMessage(p.CallbackURL, "refund."+string(f.Status), data)
	records := []record{{Refund: &f}}
	if must {
		records = append(records, record{Message: &m})
	}
	if err == nil {
		err = s.books.put(records...)
	}
	s.books.mu.Unlock()
	switch {
	case err != nil:
		s.log.Error("settle a refund failed", "refund", reference, "error", err)
	case must:
		s.deliver(m, true)
	default:
		s.tell(m)
	}
}
