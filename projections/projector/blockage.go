package projector

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Blockage is the recorded reason why a projector applies nothing.
type Blockage struct {
	Reason string
	Since  time.Time
}

// ReadBlockage reads why projectors apply nothing. It returns nil if no reason was recorded or
// repeated during the last minute.
func ReadBlockage(ctx context.Context, pool *pgxpool.Pool) (*Blockage, error) {
	var b Blockage
	err := pool.QueryRow(ctx, `SELECT reason, since FROM projector_blocked WHERE seen_at > clock_timestamp() - interval '1 minute'`).Scan(&b.Reason, &b.Since)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read why projectors are blocked: %w", err)
	}
	return &b, nil
}

// recordBlocked records the reason, for the status command.
func (r *Runner) recordBlocked(ctx context.Context, reason string) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ReadTimeout)
	defer cancel()
	_, err := r.cfg.ReadPool.Exec(ctx, `
		INSERT INTO projector_blocked (reason) VALUES ($1)
		ON CONFLICT (one) DO UPDATE SET reason = EXCLUDED.reason, seen_at = EXCLUDED.seen_at,
			since = CASE WHEN projector_blocked.reason = EXCLUDED.reason THEN projector_blocked.since ELSE EXCLUDED.since END`, reason)
	if err != nil {
		r.log.Warn("record why the projector is blocked failed", "error", err)
	}
}

// recordUnblocked removes the reason.
func (r *Runner) recordUnblocked() {
	ctx, cancel := context.WithTimeout(context.Background(), r.cfg.ReadTimeout)
	defer cancel()
	if _, err := r.cfg.ReadPool.Exec(ctx, `DELETE FROM projector_blocked`); err != nil {
		r.log.Warn("record that the projector is not blocked failed", "error", err)
	}
}
