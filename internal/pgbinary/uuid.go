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

// KnownID returns an element of IDs, null if id is zero.
func KnownID(id uuid.UUID) pgtype.UUID { return pgtype.UUID{Bytes: id, Valid: id != uuid.Nil} }

// Raw converts ids to the form that pgx sends without converting them to text first,
// which would cost a batch a quarter of its time.
func Raw(ids []uuid.UUID) [][16]byte {
	raw := make([][16]byte, len(ids))
	for i, id := range ids {
		raw[i] = id
	}
	return raw
}
