package readmodel

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// actionTimeout bounds the read of the write database that accompanies one of the read models.
const actionTimeout = 500 * time.Millisecond

// NextActions returns what buyers have to do next for those of the payments that are pending and
// have a next action. Only the write side has this; it is in no event. If that database cannot be
// read, there are none.
func (r *Reader) NextActions(ctx context.Context, payments []uuid.UUID) map[uuid.UUID]json.RawMessage {
	if r.write == nil || len(payments) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, actionTimeout)
	defer cancel()
	rows, err := r.write.Query(ctx, `
SELECT payment_id, next_action FROM payments WHERE payment_id = ANY($1) AND status = 'PENDING' AND next_action IS NOT NULL`, payments)
	if err != nil {
		return nil
	}
	found := map[uuid.UUID]json.RawMessage{}
	var id uuid.UUID
	var action json.RawMessage
	if _, err := pgx.ForEachRow(rows, []any{&id, &action}, func() error {
		found[id] = append(json.RawMessage(nil), action...)
		return nil
	}); err != nil {
		return nil
	}
	return found
}
