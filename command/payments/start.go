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
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/internal/view"
)

// Start is a buyer's wish to pay.
type Start struct {
	By      domain.Caller
	Slot    uuid.UUID
	Key     uuid.UUID // the idempotency key
	Offered domain.Money
	Method  domain.PaymentMethod
}

// bodyHash is the same for bodies that ask for the same by value.
func (c Start) bodyHash() []byte {
	h := sha256.Sum256([]byte(strings.Join([]string{
		c.Slot.String(), c.Offered.String(), c.Offered.Currency(), string(c.Method)}, "|")))
	return h[:]
}

// Started is the answer to Start.
type Started struct {
	Payment view.Payment
	Place
}

// RefusedError is a refusal of the slot's state, with the slot's last event as
// its place.
type RefusedError struct {
	Place
	Err error // of domain.Slot's StartPayment
}

func (e *RefusedError) Error() string { return e.Err.Error() }

// Unwrap returns the refusal.
func (e *RefusedError) Unwrap() error { return e.Err }

// Start begins a payment, or answers what was answered first to its key. The
// gateway is asked afterwards, in the background.
//
// Errors, in this order: ErrNoSlot, *domain.NotOwnerError,
// eventstore.ErrOverloaded, ErrKeyReused, then *RefusedError. Start again where
// DecidedOnThePast is true of one.
func (s *Service) Start(ctx context.Context, c Start, by *origin.Origin) (Started, error) {
	slot, last, err := s.slot(ctx, c.Slot)
	if err != nil {
		return Started{}, err
	}
	if !slot.OwnedBy(c.By) {
		return Started{}, &domain.NotOwnerError{Slot: c.Slot}
	}
	place, err := s.Store.Reserve()
	if err != nil {
		return Started{}, err
	}
	defer place.Release()
	first, now, err := s.remembered(ctx, c)
	if err != nil {
		return Started{}, err
	}
	if first != nil {
		return *first, nil
	}
	price, err := s.price(ctx, slot.ProductID)
	if err != nil {
		return Started{}, err
	}
	id := origin.NewID()
	events, err := slot.StartPayment(now, domain.StartPayment{ID: id, Offered: c.Offered, Method: c.Method}, price)
	if err != nil {
		return Started{}, &RefusedError{Place{slot.ProductID, last}, err}
	}
	encoded, err := by.Encode(ctx, events...)
	if err != nil {
		return Started{}, err
	}
	begin := began{
		Payment: domain.Payment{ID: id, SlotID: slot.ID, Price: price, Method: c.Method, Status: domain.PendingPayment},
		product: slot.ProductID, user: slot.UserID, key: c.Key, bodyHash: c.bodyHash(),
	}
	if price.IsZero() {
		begin.Status = domain.SuccessfulPayment
	}
	result, err := place.Append(ctx, eventstore.Append{
		Key:     slot.ProductID,
		Streams: []eventstore.StreamAppend{{Stream: slot.ID, Expected: eventstore.Expected(slot.Version), Events: encoded}},
		Guards: []eventstore.Guarded{
			begin.Guarded(),
			claims.PaymentBegun{
				Product: slot.ProductID, SlotID: slot.ID, Timeout: s.PaymentTimeout, Paid: price.IsZero(),
			}.Guarded(),
		},
	})
	if err != nil {
		return Started{}, err
	}
	if !price.IsZero() {
		s.askInBackground(ctx, gateway.PaymentRequest{Reference: id, Amount: price, Method: c.Method, CallbackURL: s.CallbackURL})
	}
	return Started{begin.answer(result.RecordedAt), Place{slot.ProductID, result.Position}}, nil
}

// DecidedOnThePast says of an error of Start that it decided on what was no
// longer so: another append came first. Start again.
func DecidedOnThePast(err error) bool {
	return errors.Is(err, eventstore.ErrConflict) || errors.Is(err, ErrKeyTaken) ||
		errors.Is(err, claims.ErrNotActive) || errors.Is(err, claims.ErrPastDeadline)
}

// rememberedSQL reads a key and the store's clock: not below what was recorded
// last, as a new event's time would be.
const rememberedSQL = `
select now.at, k.body_hash, k.answer, k.product_id, k.position
from (select greatest(date_trunc('milliseconds', clock_timestamp()),
                      (select recorded_at from events order by position desc limit 1)) as at) as now
left join payment_keys k on k.user_id = $1 and k.idempotency_key = $2`

// remembered is what was first answered to the key, nil for a new one, and the
// time by which the slot's deadline is judged.
func (s *Service) remembered(ctx context.Context, c Start) (*Started, time.Time, error) {
	var (
		now      time.Time
		hash     []byte
		answer   []byte
		product  *uuid.UUID
		position *int64
	)
	err := s.Pool.QueryRow(ctx, rememberedSQL, c.By.User, c.Key).Scan(&now, &hash, &answer, &product, &position)
	switch {
	case err != nil:
		return nil, time.Time{}, fmt.Errorf("read idempotency key %s: %w", c.Key, err)
	case product == nil:
		return nil, now.UTC(), nil
	case !bytes.Equal(hash, c.bodyHash()):
		return nil, now, ErrKeyReused
	}
	first := &Started{Place: Place{*product, *position}}
	if err := json.Unmarshal(answer, &first.Payment); err != nil {
		return nil, now, fmt.Errorf("decode the answer to idempotency key %s: %w", c.Key, err)
	}
	return first, now, nil
}

// askInBackground asks the gateway for the money, for as long as the worker
// leaves it to us.
func (s *Service) askInBackground(ctx context.Context, r gateway.PaymentRequest) {
	if !s.asks.try(context.WithoutCancel(ctx), func(ctx context.Context) {
		if err := s.post(ctx, r); err != nil {
			s.Logger.WarnContext(ctx, "the gateway was not asked for a payment; the worker asks again", "payment", r.Reference, "error", err)
		}
	}) {
		s.metrics.leftToWorker.Inc()
	}
}
