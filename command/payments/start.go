package payments

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/origin"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/gateway"
)

// Start is a buyer's wish to pay.
type Start struct {
	By      domain.Caller
	Slot    uuid.UUID
	Key     uuid.UUID // the idempotency key
	Offered domain.Money
	Method  domain.PaymentMethod
	// ReturnURL is where the gateway sends the buyer after a redirect; "" for none.
	ReturnURL string
}

// bodyHash is the same for bodies that ask for the same by value. Without a return
// URL it is that of the version before.
func (c Start) bodyHash() []byte {
	fields := []string{c.Slot.String(), c.Offered.String(), c.Offered.Currency(), string(c.Method)}
	if c.ReturnURL != "" {
		fields = append(fields, c.ReturnURL)
	}
	h := sha256.Sum256([]byte(strings.Join(fields, "|")))
	return h[:]
}

// Started is the response to Start.
type Started struct {
	Payment    apimodel.Payment
	NextAction json.RawMessage // what the buyer has to do next; nil for nothing, or not known yet
	ProductPosition
}

// RefusedError is a refusal of the slot's state, with the slot's last event as
// its position.
type RefusedError struct {
	ProductPosition
	Err error // of domain.Slot's StartPayment
}

func (e *RefusedError) Error() string { return e.Err.Error() }

// Unwrap returns the refusal.
func (e *RefusedError) Unwrap() error { return e.Err }

// Start begins a payment, or returns what was returned first to its key. The
// gateway is called afterwards, in the background; the response waits for it for a
// moment, so that it usually has the next action.
//
// Errors, in this order: ErrNoSlot, *domain.NotOwnerError,
// eventstore.ErrOverloaded, ErrKeyReused, then *RefusedError. Start again if
// DecidedOnThePast is true of one.
func (s *Service) Start(ctx context.Context, c Start, by *origin.Origin) (Started, error) {
	started, posted, err := s.start(ctx, c, by)
	if err != nil {
		return Started{}, err
	}
	if posted != nil {
		// No connection and no reservation is held here.
		wait := time.NewTimer(actionTimeout)
		defer wait.Stop()
		select {
		case <-posted:
		case <-wait.C:
		case <-ctx.Done():
		}
	}
	started.NextAction = s.nextAction(ctx, started.Payment.ID)
	return started, nil
}

// start is Start without the wait: posted is closed when the gateway has
// responded, nil if it is not called.
func (s *Service) start(ctx context.Context, c Start, by *origin.Origin) (started Started, posted <-chan struct{}, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	owner, err := s.Owner(ctx, c.Slot)
	if err != nil {
		return Started{}, nil, err
	}
	if !c.By.Buyer || c.By.User != owner {
		return Started{}, nil, &domain.NotOwnerError{Slot: c.Slot}
	}
	slot, last, err := s.Slot(ctx, c.Slot)
	if err != nil {
		return Started{}, nil, err
	}
	reservation, err := s.Store.Reserve()
	if err != nil {
		return Started{}, nil, err
	}
	defer reservation.Release()
	first, now, cancelled, err := s.remembered(ctx, c, slot.ProductID)
	if err != nil {
		return Started{}, nil, err
	}
	if first != nil {
		return *first, nil, nil
	}
	price, err := s.price(ctx, slot.ProductID)
	if err != nil {
		return Started{}, nil, err
	}
	id := origin.NewID()
	events, err := slot.StartPayment(now, domain.StartPayment{ID: id, Offered: c.Offered, Method: c.Method, SaleCancelled: cancelled}, price)
	if err != nil {
		return Started{}, nil, &RefusedError{ProductPosition{slot.ProductID, last}, err}
	}
	encoded, err := by.Encode(ctx, events...)
	if err != nil {
		return Started{}, nil, err
	}
	begin := began{
		Payment: domain.Payment{ID: id, SlotID: slot.ID, Price: price, Method: c.Method, Status: domain.PendingPayment},
		product: slot.ProductID, user: slot.UserID, key: c.Key, bodyHash: c.bodyHash(),
	}
	var rejected *gateway.Rejected
	if price.IsZero() {
		begin.Status = domain.SuccessfulPayment
	} else if begin.request, err = s.encode(ctx, id, price, c.Method, c.ReturnURL); err != nil && !errors.As(err, &rejected) {
		return Started{}, nil, err
	}
	result, err := reservation.Append(ctx, eventstore.Append{
		Key:     slot.ProductID,
		Streams: []eventstore.StreamAppend{{Stream: slot.ID, Expected: eventstore.Expected(slot.Version), Events: encoded}},
		Guards: []eventstore.GuardItem{
			begin.GuardItem(),
			claims.PaymentBegun{
				Product: slot.ProductID, SlotID: slot.ID, Timeout: s.PaymentTimeout, Paid: price.IsZero(),
			}.GuardItem(),
		},
	})
	if err != nil {
		return Started{}, nil, err
	}
	if !price.IsZero() {
		posted = s.postInBackground(ctx, id, begin.request, rejected)
	}
	return Started{Payment: begin.answer(result.RecordedAt), ProductPosition: ProductPosition{slot.ProductID, result.Position}}, posted, nil
}

// startTimeout bounds a start without its wait for the gateway. It is not tied to
// the client: what was begun for one that has gone is finished all the same.
const startTimeout = 3 * time.Second

const nextActionSQL = `select next_action from payments where payment_id = $1 and status = 'PENDING'`

// nextAction returns what the buyer has to do next, as JSON; nil for nothing, or
// if it cannot be read now.
func (s *Service) nextAction(ctx context.Context, payment uuid.UUID) json.RawMessage {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), statementTimeout)
	defer cancel()
	var action json.RawMessage
	if err := s.Pool.QueryRow(ctx, nextActionSQL, payment).Scan(&action); err != nil {
		return nil
	}
	return action
}

// DecidedOnThePast reports whether Start decided on a past state: another append
// came first. Start again.
func DecidedOnThePast(err error) bool {
	return errors.Is(err, eventstore.ErrConflict) || errors.Is(err, ErrKeyTaken) ||
		errors.Is(err, claims.ErrNotActive) || errors.Is(err, claims.ErrPastDeadline) || errors.Is(err, claims.ErrSaleCancelled)
}

// rememberedSQL reads a key, the store's clock (not below what was recorded last,
// as a new event's time would be), and whether the sale was cancelled.
const rememberedSQL = `
select now.at, coalesce((select cancelled from product_gates where product_id = $3), false),
       k.body_hash, k.answer, k.product_id, k.position
from (select greatest(date_trunc('milliseconds', clock_timestamp()),
                      (select recorded_at from events order by position desc limit 1)) as at) as now
left join payment_keys k on k.user_id = $1 and k.idempotency_key = $2`

// remembered returns what was returned first to the key, nil for a new one, and
// what the slot's state is judged by.
func (s *Service) remembered(ctx context.Context, c Start, of uuid.UUID) (first *Started, now time.Time, cancelled bool, err error) {
	var (
		hash     []byte
		answer   []byte
		product  *uuid.UUID
		position *int64
	)
	err = s.Pool.QueryRow(ctx, rememberedSQL, c.By.User, c.Key, of).Scan(&now, &cancelled, &hash, &answer, &product, &position)
	switch {
	case err != nil:
		return nil, time.Time{}, false, fmt.Errorf("read idempotency key %s: %w", c.Key, err)
	case product == nil:
		return nil, now.UTC(), cancelled, nil
	case !bytes.Equal(hash, c.bodyHash()):
		return nil, now, cancelled, ErrKeyReused
	}
	first = &Started{ProductPosition: ProductPosition{*product, *position}}
	if err := json.Unmarshal(answer, &first.Payment); err != nil {
		return nil, now, cancelled, fmt.Errorf("decode the response to idempotency key %s: %w", c.Key, err)
	}
	return first, now, cancelled, nil
}

// notPostedYetSQL notes that the first attempt is the worker's.
const notPostedYetSQL = `update payments set attempts = 0, ask_at = least(ask_at, clock_timestamp()) where payment_id = $1 and status = 'PENDING' and attempts = 1`

// postInBackground posts a new payment, for as long as the worker leaves it to us.
// rejected is not nil if the gateway cannot take it at all. The result is closed
// when the gateway has responded; nil if the worker posts it.
func (s *Service) postInBackground(ctx context.Context, id uuid.UUID, request []byte, rejected *gateway.Rejected) <-chan struct{} {
	ctx = context.WithoutCancel(ctx)
	done := s.background.try(ctx, func(ctx context.Context) {
		err := error(rejected)
		if rejected == nil {
			err = s.post(ctx, id, request, 0)
		} else {
			err = s.rejected(ctx, id, err, 0)
		}
		if err != nil {
			s.Logger.WarnContext(ctx, "payment not posted, worker retries", "payment", id, "error", err)
		}
	})
	if done == nil {
		s.metrics.leftToWorker.Inc()
		if err := s.exec(ctx, "leave a payment to the worker", notPostedYetSQL, id); err != nil {
			s.Logger.WarnContext(ctx, "payment not left to the worker at once", "payment", id, "error", err)
		}
	}
	return done
}
