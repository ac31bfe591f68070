package claims

import "github.com/google/uuid"

// binary gives ids as pgx sends them without a detour through their text, which
// would cost a batch a quarter of its time.
func binary(ids []uuid.UUID) [][16]byte {
	raw := make([][16]byte, len(ids))
	for i, id := range ids {
		raw[i] = id
	}
	return raw
}
