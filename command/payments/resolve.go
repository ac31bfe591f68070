package payments

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/command/origin"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/attention"
)

// ActorOperator is the actor of what is decided from the command line.
const ActorOperator = "operator"

// Resolve is an operator's decision about a payment.
type Resolve struct {
	Payment uuid.UUID
	Action  domain.ResolveAction
	Note    string // a code
}

// Changed is a payment after a command.
type Changed struct {
	Payment apimodel.Payment
	ProductPosition
}

const (
	unknownOutcomeSQL = `select unsettled and ask_at is null from payments where payment_id = $1`

	refundsSQL = `
select refund_id, posted_at is not null,
       status in ('DUE', 'PENDING') and ask_at is not null and due_at < clock_timestamp() - $2::interval
from payment_refunds where payment_id = $1`
)

// refundStates returns which refunds of a payment may have reached the gateway,
// and which have had no final answer for too long.
func (s *Service) refundStates(ctx context.Context, payment uuid.UUID) (posted map[uuid.UUID]bool, stuck []uuid.UUID, err error) {
	rows, err := s.Pool.Query(ctx, refundsSQL, payment, attention.StuckAfter)
	if err != nil {
		return nil, nil, fmt.Errorf("read the refunds of payment %s: %w", payment, err)
	}
	posted = map[uuid.UUID]bool{}
	var id uuid.UUID
	var isPosted, isStuck bool
	_, err = pgx.ForEachRow(rows, []any{&id, &isPosted, &isStuck}, func() error {
		posted[id] = isPosted
		if isStuck {
			stuck = append(stuck, id)
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read the refunds of payment %s: %w", payment, err)
	}
	return posted, stuck, nil
}

// Resolve records an operator's decision about every item of the payment that it
// fits, in one append with its effect (contract 4.5, Operator). The error is
// ErrNoPayment or domain.ErrNothingToResolve.
func (s *Service) Resolve(ctx context.Context, c Resolve, by *origin.Origin) (Changed, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transitionTimeout)
	defer cancel()
	t := &transition{Service: s, payment: c.Payment, by: *by}
	var owner, product uuid.UUID
	t.decide = func(ctx context.Context, st *state) (change, error) {
		owner, product = st.slot.UserID, st.slot.ProductID
		posted, stuck, err := s.refundStates(ctx, c.Payment)
		if err != nil {
			return change{}, err
		}
		var unknown bool
		if err := s.Pool.QueryRow(ctx, unknownOutcomeSQL, c.Payment).Scan(&unknown); err != nil {
			return change{}, fmt.Errorf("read payment %s: %w", c.Payment, err)
		}
		r, err := st.slot.Resolve(domain.Resolve{
			Payment: c.Payment, Action: c.Action, Note: c.Note, Stuck: stuck, Unknown: unknown, Posted: posted,
		})
		if err != nil {
			return change{}, err
		}
		ch := change{events: r.Events, post: r.Post, unposted: unpostedOf(r.Events)}
		switch {
		case r.Settle:
			ch.plan = planSettle
		case r.Query:
			ch.plan = planNow
		}
		return ch, nil
	}
	recorded, err := t.run(ctx)
	if err != nil {
		return Changed{ProductPosition: recorded}, err
	}
	return Changed{apimodel.PaymentOf(t.after, product, owner), recorded}, nil
}

// unpostedOf are the refunds that a reversal ends because they were never posted.
func unpostedOf(events []domain.Event) []uuid.UUID {
	var ids []uuid.UUID
	for _, e := range events {
		if f, ok := e.(domain.RefundFailed); ok && f.Reason == domain.ReasonReversed {
			ids = append(ids, f.RefundID)
		}
	}
	return ids
}
