package payments

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// keptKeys and keptIDs are twice the time, and five days more, than they have
	// to be kept.
	keptKeys = 48 * time.Hour
	keptIDs  = 35 * 24 * time.Hour
	// purgeBatch is how many rows one statement deletes.
	purgeBatch = 10_000

	// By where the rows are, which never changes: joined by their keys, all that is
	// kept would be read to delete a few.
	purgeKeysSQL = `
delete from payment_keys where ctid = any(array(
    select ctid from payment_keys where created_at < (select clock_timestamp()) - $1::interval order by created_at limit $2))`
	purgeRefundKeysSQL = `
delete from refund_keys where ctid = any(array(
    select ctid from refund_keys where created_at < (select clock_timestamp()) - $1::interval order by created_at limit $2))`
	purgeIDsSQL = `
delete from webhook_ids where ctid = any(array(
    select ctid from webhook_ids where seen_at < (select clock_timestamp()) - $1::interval order by seen_at limit $2))`
)

// Purge deletes idempotency keys and callbacks' ids that are older than they have
// to be kept: 24 hours and 30 days.
func (s *Service) Purge(ctx context.Context) error {
	return errors.Join(s.purge(ctx, purgeKeysSQL, keptKeys), s.purge(ctx, purgeRefundKeysSQL, keptKeys), s.purge(ctx, purgeIDsSQL, keptIDs))
}

func (s *Service) purge(ctx context.Context, sql string, kept time.Duration) error {
	for {
		tag, err := s.Pool.Exec(ctx, sql, kept, purgeBatch)
		if err != nil {
			return fmt.Errorf("delete what is older than %s: %w", kept, err)
		}
		if tag.RowsAffected() < purgeBatch {
			return nil
		}
	}
}
