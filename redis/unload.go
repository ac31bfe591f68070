package redis

import (
	"context"
	"fmt"

	"github.com/google/uuid"
)

// Unload removes the gate of a product whose sale has ended and that receives no requests,
// after its decision log was stored, and reports whether it did. The next request
// rebuilds the gate, in the next epoch. The memory of a gate grows with the slots that
// were ever completed.
func (g *Gate) Unload(ctx context.Context, product uuid.UUID) (bool, error) {
	unloaded, err := g.unload(ctx, product)
	return unloaded, unavailable("unload the gate", err)
}

func (g *Gate) unload(ctx context.Context, product uuid.UUID) (bool, error) {
	row, err := g.rows.call(ctx, product)
	if err != nil || row == nil || row.Deleted || !row.Ended || !row.Lease.Idle || row.unfinished() {
		return false, err
	}
	p := g.product(product)
	state, err := g.readState(ctx, p.keys)
	if err != nil || state.Epoch > row.Epoch || state.Pending > 0 || state.LeaseLeft > 0 {
		return false, err
	}
	if state.Exists {
		if err := g.remove(ctx, p, row, state.on.instance); err != nil {
			return false, err
		}
	}
	// The gate that the last lease was for decides no more: no rebuild has to wait for it. A
	// node that still finds an older master may renew that lease until it is recorded.
	if row.Lease.Instance == state.on.instance {
		if err := g.store.RecordUnload(ctx, product, row.Epoch, row.Lease); err != nil {
			return false, fmt.Errorf("record that the gate was unloaded: %w", err)
		}
	}
	p.reconcileMu.Lock()
	defer p.reconcileMu.Unlock()
	// Otherwise a second state of the product would reconcile concurrently, or not know of an
	// attempt that may have put a gate in place.
	if !p.reconciling && p.attempt.epoch == NoEpoch {
		g.products.CompareAndDelete(product, p)
	}
	return state.Exists, nil
}
