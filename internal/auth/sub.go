package auth

import (
	"errors"

	"github.com/google/uuid"
)

// uuidLength is that of the only spelling taken; uuid.Parse knows four.
const uuidLength = 36

func parseSub(s string) (uuid.UUID, error) {
	if len(s) != uuidLength {
		return uuid.Nil, errors.New("sub is no UUID")
	}
	id, err := uuid.Parse(s)
	if err != nil {
		return uuid.Nil, errors.New("sub is no UUID")
	}
	return id, nil
}
