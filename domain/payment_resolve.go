package domain

import (
	"errors"
	"time"

	"github.com/google/uuid"
)

// AttentionCause is the reason why a payment waits for an operator.
type AttentionCause string

// The causes, with the actions that resolve them in contract 4.5, Operator.
const (
	CauseRefundFailed   AttentionCause = "REFUND_FAILED"
	CauseRefundStuck    AttentionCause = "REFUND_STUCK"    // no final answer in 24 hours
	CauseOutcomeUnknown AttentionCause = "OUTCOME_UNKNOWN" // no final status in 7 days
	CauseContradicted   AttentionCause = "CONTRADICTED"
	CauseDisputed       AttentionCause = "DISPUTED"
	CauseReversed       AttentionCause = "REVERSED"
)

// ResolveAction is an operator's action on an item.
type ResolveAction string

// The actions.
const (
	RefundedElsewhere ResolveAction = "REFUNDED_ELSEWHERE"
	NothingTaken      ResolveAction = "NOTHING_TAKEN"
	AcceptItem        ResolveAction = "ACCEPT"
	RetryItem         ResolveAction = "RETRY"
)

// Attention is one item of a payment that waits for an operator.
type Attention struct {
	Cause     AttentionCause
	Refund    uuid.UUID // our id; zero unless it is a refund's
	Code      string    // of the failure or the contradiction; a dispute's id
	DisputeID string
	Since     time.Time
	Number    int // unique within the payment; the same whatever else is resolved or added
}

// Attention lists the items of the payment that wait for an operator, according to its events.
// Items that depend on the time (REFUND_STUCK, OUTCOME_UNKNOWN) are not included.
func (p Payment) Attention() []Attention {
	var items []Attention
	const kinds = 4 // the payment's lists only grow
	for i, r := range p.Refunds {
		if r.Status == FailedRefund && !r.Handled {
			items = append(items, Attention{Cause: CauseRefundFailed, Refund: r.ID, Code: r.FailureReason, Since: r.UpdatedAt, Number: kinds * i})
		}
	}
	for i, c := range p.Contradictions {
		if !c.Resolved {
			items = append(items, Attention{Cause: CauseContradicted, Code: string(c.Code), Since: c.At, Number: kinds*i + 1})
		}
	}
	for i, d := range p.Disputes {
		if !d.Closed && !d.Accepted {
			items = append(items, Attention{Cause: CauseDisputed, DisputeID: d.ID, Since: d.OpenedAt, Number: kinds*i + 2})
		}
	}
	if p.Reversed && !p.ReversalHandled {
		items = append(items, Attention{Cause: CauseReversed, Since: p.ReversedAt, Number: 3})
	}
	return items
}

// resolved applies an operator's decision about one item.
func (p *Payment) resolved(v PaymentResolved) {
	switch v.Cause {
	case CauseRefundFailed:
		for i := range p.Refunds {
			if v.RefundID != nil && p.Refunds[i].ID == *v.RefundID && p.Refunds[i].Status == FailedRefund {
				p.Refunds[i].Handled = true
			}
		}
	case CauseContradicted:
		for i := range p.Contradictions {
			if c := &p.Contradictions[i]; c.Code == v.Code && !c.Resolved {
				c.Resolved = true
				return
			}
		}
	case CauseDisputed:
		for i := range p.Disputes {
			if p.Disputes[i].ID == v.DisputeID {
				p.Disputes[i].Accepted = true
			}
		}
	case CauseReversed:
		p.ReversalHandled = true
	}
}

// ErrNothingToResolve refuses an action that applies to no item of the payment.
var ErrNothingToResolve = errors.New("no item of the payment can be resolved in this way")

// Resolve is an operator's decision about a payment.
type Resolve struct {
	Payment uuid.UUID
	Action  ResolveAction
	Note    string             // a code
	Stuck   []uuid.UUID        // open refunds without a final answer for too long
	Unknown bool               // the outcome is unknown, and the gateway is no longer queried
	Posted  map[uuid.UUID]bool // refunds that may have reached the gateway
}

// Resolution is the result of a Resolve.
type Resolution struct {
	Events []Event
	Post   []uuid.UUID // refunds to post at once
	Query  bool        // query the gateway about the payment now
	Settle bool        // stop querying the gateway
}

// Resolve decides about every item of the payment to which the action applies. The
// error is ErrNothingToResolve.
func (s Slot) Resolve(c Resolve) (Resolution, error) {
	p, _ := s.Payment(c.Payment)
	r := resolving{slot: s, p: p.clone(), c: c}
	for _, item := range p.Attention() {
		r.item(item)
	}
	for _, id := range c.Stuck {
		r.stuck(id)
	}
	if c.Unknown {
		r.unknown()
	}
	if len(r.done.Events) == 0 {
		return Resolution{}, ErrNothingToResolve
	}
	return r.done, nil
}

// resolving collects the result of one Resolve.
type resolving struct {
	slot Slot
	p    Payment // its state after the events so far
	c    Resolve
	done Resolution
}

func (r *resolving) add(events ...Event) {
	for _, e := range events {
		r.p.apply(Envelope{StreamID: r.slot.ID, Event: e})
		if returned, ok := e.(SlotReturned); ok {
			r.slot.Status = ReturnedSlot
			r.done.Events = append(r.done.Events, returned)
			continue
		}
		r.done.Events = append(r.done.Events, e)
	}
}

func (r *resolving) resolve(item Attention) {
	e := PaymentResolved{
		UserID: r.slot.UserID, PaymentID: r.p.ID, Cause: item.Cause, DisputeID: item.DisputeID,
		Action: r.c.Action, Note: r.c.Note,
	}
	if item.Refund != uuid.Nil {
		e.RefundID = &item.Refund
	}
	if item.Cause == CauseContradicted {
		e.Code = ContradictionCode(item.Code)
	}
	r.add(e)
}

func (r *resolving) item(item Attention) {
	action := r.c.Action
	switch item.Cause {
	case CauseRefundFailed:
		r.failedRefund(item)
	case CauseContradicted:
		r.resolve(item)
		switch {
		case action == RetryItem:
			r.done.Query = true
		case action == NothingTaken && r.p.Status == SuccessfulPayment && !r.p.Reversed:
			r.add(r.slot.reversed(r.p, r.p.GatewayID, string(NothingTaken), r.c.Posted)...)
			r.resolve(Attention{Cause: CauseReversed})
		}
	case CauseDisputed:
		if action == AcceptItem {
			r.resolve(item)
		}
	case CauseReversed:
		if action == AcceptItem {
			r.resolve(item)
		}
	}
}

func (r *resolving) failedRefund(item Attention) {
	switch r.c.Action {
	case RetryItem:
		r.resolve(item)
		r.again(item.Refund)
	case RefundedElsewhere:
		r.resolve(item)
		refund, _ := r.p.Refund(item.Refund)
		r.add(r.slot.refunded(r.p, refund, "")...)
	case AcceptItem:
		r.resolve(item)
	}
}

// again makes a failed refund due under a new id, for the amount that no other refund
// covers by now.
func (r *resolving) again(id uuid.UUID) {
	failed, _ := r.p.Refund(id)
	amount := failed.Amount
	if failed.ofPayment() {
		left := r.p.Uncovered()
		if r.p.Reversed || left.IsZero() {
			return
		}
		if amount.Exceeds(left) {
			amount = left
		}
	}
	r.add(RefundDue{
		UserID: r.slot.UserID, PaymentID: r.p.ID, GatewayPaymentID: failed.ChargeID, Amount: amount, Reason: failed.Reason,
		RefundID: refundID(failed.ID, "again"), Cause: failed.Cause, ReturnUnit: failed.ReturnUnit,
	})
}

func (r *resolving) stuck(id uuid.UUID) {
	refund, ok := r.p.Refund(id)
	if !ok || !refund.Open() {
		return
	}
	item := Attention{Cause: CauseRefundStuck, Refund: id}
	switch r.c.Action {
	case RetryItem:
		r.resolve(item)
		r.done.Post = append(r.done.Post, id)
	case RefundedElsewhere:
		r.resolve(item)
		r.add(r.slot.refunded(r.p, refund, "")...)
	}
}

func (r *resolving) unknown() {
	r.resolve(Attention{Cause: CauseOutcomeUnknown})
	switch r.c.Action {
	case RetryItem:
		r.done.Query = true
	case NothingTaken, AcceptItem:
		r.done.Settle = true
	case RefundedElsewhere:
		r.done.Settle = true
		if r.p.WasTaken() {
			return
		}
		id := refundID(r.p.ID, "taken")
		r.add(
			RefundDue{UserID: r.slot.UserID, PaymentID: r.p.ID, GatewayPaymentID: r.p.GatewayID, Amount: r.p.Price,
				Reason: string(RefundedElsewhere), RefundID: id, Cause: RefundLate},
			RefundCompleted{UserID: r.slot.UserID, PaymentID: r.p.ID, RefundID: id, Amount: r.p.Price})
	}
}
