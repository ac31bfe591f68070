package pgbinary

import (
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// IDs is a uuid[] parameter. pgx encodes a []uuid.UUID by way of its text form, which takes four
// tenths of a batch's time.
type IDs = pgtype.FlatArray[pgtype.UUID]

// ID returns an element of IDs.
func ID(id uuid.UUID) pgtype.UUID { return pgtype.UUID{Bytes: id, Valid: true} }

// OptionalID returns an element of IDs, null if id is nil.
func OptionalID(id *uuid.UUID) pgtype.UUID {
	if id == nil {
		return pgtype.UUID{}
	}
	return ID(*id)
}
