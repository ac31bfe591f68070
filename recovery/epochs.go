package recovery

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/redis"
)

// lostEpochs is by how much the epochs of all products are raised: by more than a
// product can have had in the time that was lost. Each takes an admin's change of the
// sale or the loss of a gate.
const lostEpochs = 1000

// suspectLogs raises every product's epoch past those of the lost history, so that no
// number of that history is given out again, and marks the decision logs that may have
// lost lines: those of the epochs that end with that, and of those that ended after the
// last shared event. Such a log is complete only if its gate is still there, and ships
// what it has.
//
// Living gates open the new epoch in place, as for a change of the sale. The caller holds
// the append lock.
func suspectLogs(ctx context.Context, tx pgx.Tx, shared int64) error {
	_, err := tx.Exec(ctx, `
		UPDATE gate_epochs SET suspect = true
		WHERE ended_at >= coalesce((SELECT recorded_at FROM events WHERE position = $1), '-infinity')`, shared)
	if err == nil {
		_, err = tx.Exec(ctx, `
		WITH old AS (
			SELECT * FROM product_gates WHERE epoch >= 0 AND epoch < $2 AND NOT deleted ORDER BY product_id FOR UPDATE
		), ended AS (
			INSERT INTO gate_epochs AS e (product_id, epoch, ended_at, leased_at, lease_beat, suspect, rebuilt_id)
			SELECT product_id, epoch, clock_timestamp(), CASE WHEN lease_epoch = epoch THEN leased_at END, lease_beat, true, rebuilt_id FROM old
			ON CONFLICT (product_id, epoch) DO UPDATE SET ended_at = excluded.ended_at, leased_at = excluded.leased_at,
				lease_beat = excluded.lease_beat, suspect = true, rebuilt_id = excluded.rebuilt_id
		)
		UPDATE product_gates g SET epoch = least(old.epoch + $1, $2) FROM old WHERE g.product_id = old.product_id`,
			lostEpochs, redis.MaxEpoch)
	}
	if err != nil {
		return fmt.Errorf("raise the products' epochs: %w", err)
	}
	return nil
}
