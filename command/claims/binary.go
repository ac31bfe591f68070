package claims

import "github.com/google/uuid"

// binary converts ids to the form that pgx sends without converting them to text first,
// which would cost a batch a quarter of its time.
func binary(ids []uuid.UUID) [][16]byte {
	raw := make([][16]byte, len(ids))
	for i, id := range ids {
		raw[i] = id
	}
	return raw
}
