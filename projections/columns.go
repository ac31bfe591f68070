package projections

import (
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// IDs is a uuid[] parameter. A []uuid.UUID does as well, but pgx then sends
// every id through its text: four tenths of a batch's time.
type IDs = pgtype.FlatArray[pgtype.UUID]

// ID is an element of IDs.
func ID(id uuid.UUID) pgtype.UUID { return pgtype.UUID{Bytes: id, Valid: true} }

// OptionalID is an element of IDs, null for nil.
func OptionalID(id *uuid.UUID) pgtype.UUID {
	if id == nil {
		return pgtype.UUID{}
	}
	return ID(*id)
}
