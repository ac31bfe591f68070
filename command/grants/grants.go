// Package grants is the protocol between a grant of the gate and the append that makes it final.
// An acquire and the re-grant of late money both follow it:
//
//	decide   the gate numbers the request and grants a unit. It may not have seen the end of the
//	         buyer's last slot: Holder reads the claim, and syncs the gate if there is none
//	append   the event of the new slot with the guard of Claim, in one transaction
//	refused  Refused finds out what the refusal makes of the grant, and corrects the gate:
//
//	refused because                           the grant is      the gate is    next
//	nothing was written (NotWritten)          still good        as it was      append again, or GiveBack
//	its slot was appended before (Appended)   void              as it was      read the claim, or sync
//	another epoch, or withdrawn (Corrected)   void              synced         decide again
//	its unit is taken, or does not exist      void              rebuilt        decide again
//	(Corrected)
//	the buyer holds a slot (BuyerHolds)       void              rebuilt if it  answer with the claim
//	                                                            is another slot
//	the product is gone (ProductGone)         void              as it was      refuse
//	anything else (Unknown)                   perhaps a slot    as it was      return the error
//
// A grant whose outcome is unknown is neither given back nor decided again: the worker withdraws
// it unless its claim exists. The callers bound how often they decide again (MaxDecisions).
package grants

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/redis"
)

const (
	// MaxDecisions is how often the gate decides one request because its answer was stale. The
	// gate is corrected before each retry, so the second decision is usually the last.
	MaxDecisions = 6
	// giveBackTimeout bounds giving back a grant; if that fails, the worker withdraws it.
	giveBackTimeout = 500 * time.Millisecond
)

// Gate is the part of the gate that the protocol uses; *redis.Gate implements it.
type Gate interface {
	GiveBack(ctx context.Context, d redis.Decision) error
	Sync(ctx context.Context, product uuid.UUID) error
	Rebuild(ctx context.Context, product uuid.UUID, epoch int64) error
}

// Claims reads the claim of a buyer; *claims.Store implements it.
type Claims interface {
	ByBuyer(ctx context.Context, product, buyer uuid.UUID) (claims.Record, bool, error)
}

// Grants makes grants final. All of its fields but Corrected are required.
type Grants struct {
	Gate        Gate
	Claims      Claims
	SlotTTL     time.Duration // life of a slot
	SlotWarning time.Duration // ahead of a slot's deadline
	Logger      *slog.Logger
	Corrected   func(reason string) // called before the gate is corrected; nil: not called
}

// Claim returns the guard that makes the grant d final. keyHash is that of the request's
// Idempotency-Key; paid is true if the slot is paid for from its start.
func (g *Grants) Claim(d redis.Decision, keyHash []byte, paid bool) eventstore.GuardItem {
	return claims.Claim{
		Product: d.Product, SlotID: d.SlotID, Number: d.Number, Unit: d.Unit, Buyer: d.Buyer,
		KeyHash: keyHash, TTL: g.SlotTTL, Warning: g.SlotWarning, Paid: paid,
	}.GuardItem()
}

// Holder returns the claim of a buyer of whom the gate knows a slot. If there is none, the gate
// has not applied the slot's end yet: it is synced, found is false, and it can decide again.
func (g *Grants) Holder(ctx context.Context, product, buyer uuid.UUID) (claim claims.Record, found bool, err error) {
	claim, found, err = g.Claims.ByBuyer(ctx, product, buyer)
	if err != nil {
		return claims.Record{}, false, fmt.Errorf("read the claim of buyer %s: %w", buyer, err)
	}
	if found {
		return claim, true, nil
	}
	return claims.Record{}, false, g.sync(ctx, product, "slot-ended")
}

// Fate is what a refused append makes of its grant; the package comment has the table.
type Fate int

const (
	Unknown Fate = iota
	NotWritten
	Appended
	Corrected
	BuyerHolds
	ProductGone
)

// Refused returns what the refusal err of its append makes of the grant d. It syncs or rebuilds
// the gate if that was wrong; the error is that of the sync. The claim is that of BuyerHolds.
func (g *Grants) Refused(ctx context.Context, d redis.Decision, err error) (Fate, claims.Record, error) {
	var (
		away  *eventstore.UnavailableError
		taken *claims.UnitTakenError
		holds *claims.BuyerHoldsError
	)
	switch {
	case errors.As(err, &away) && !away.Sent, errors.Is(err, eventstore.ErrClosed), errors.Is(err, eventstore.ErrOverloaded):
		return NotWritten, claims.Record{}, nil
	case errors.As(err, &holds):
		// If another process appended the same grant, the claim is of its slot; otherwise the
		// gate did not know of the buyer's slot.
		if holds.Claim.SlotID != d.SlotID {
			g.rebuild(ctx, d)
		}
		return BuyerHolds, holds.Claim, nil
	case errors.Is(err, claims.ErrGone):
		return ProductGone, claims.Record{}, nil
	case errors.Is(err, eventstore.ErrConflict), errors.Is(err, claims.ErrSlotEnded):
		return Appended, claims.Record{}, nil
	case errors.Is(err, claims.ErrEpoch), errors.Is(err, claims.ErrWithdrawn):
		return Corrected, claims.Record{}, g.sync(ctx, d.Product, "stale-grant")
	case errors.As(err, &taken), errors.Is(err, claims.ErrNoUnit):
		g.rebuild(ctx, d)
		return Corrected, claims.Record{}, nil
	}
	return Unknown, claims.Record{}, nil
}

// sync applies the events that the gate has missed.
func (g *Grants) sync(ctx context.Context, product uuid.UUID, reason string) error {
	g.correct(reason)
	return g.Gate.Sync(ctx, product)
}

// rebuild replaces a gate that contradicts the claims. If that fails, its next decision reports it.
func (g *Grants) rebuild(ctx context.Context, d redis.Decision) {
	g.correct("wrong-gate")
	g.Logger.WarnContext(ctx, "gate contradicts the claims, rebuilding", "product", d.Product, "epoch", d.Epoch, "unit", d.Unit)
	if err := g.Gate.Rebuild(ctx, d.Product, d.Epoch); err != nil {
		g.Logger.WarnContext(ctx, "gate not rebuilt yet", "product", d.Product, "error", err)
	}
}

func (g *Grants) correct(reason string) {
	if g.Corrected != nil {
		g.Corrected(reason)
	}
}

// GiveBack frees the unit of a grant that became no slot, unless another request received it too.
// It outlives ctx.
func (g *Grants) GiveBack(ctx context.Context, d redis.Decision) {
	if d.Deliveries != 1 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackTimeout)
	defer cancel()
	if err := g.Gate.GiveBack(ctx, d); err != nil {
		g.Logger.WarnContext(ctx, "grant not given back, worker withdraws it", "product", d.Product, "number", d.Number, "error", err)
	}
}
