package auth

import (
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

const (
	// maxSub is the longest sub, in characters.
	maxSub = 255

	uuidText   = 36 // with hyphens
	uuidDigits = 32 // without
	urnPrefix  = "urn:uuid:"
)

// userNamespace is the namespace of the user ids derived from a sub that is not a UUID. It never
// changes, because the ids are in events.
var userNamespace = uuid.MustParse("6f1e0d5e-8b1e-5f6b-9d0a-2f3f7f0c2a11")

var errSub = errors.New("sub must have 1 to 255 characters")

// userID returns the id of a user: sub itself if it is a UUID, otherwise the UUIDv5 of issuer and
// sub. The nil UUID and those of version 5 are treated like any other text, so that no sub can
// produce the id of another one.
func userID(issuer, sub string) (uuid.UUID, error) {
	if n := utf8.RuneCountInString(sub); n < 1 || n > maxSub {
		return uuid.Nil, errSub
	}
	if id, ok := parseUUID(sub); ok && id != uuid.Nil && id.Version() != 5 {
		return id, nil
	}
	return uuid.NewSHA1(userNamespace, []byte(issuer+"\n"+sub)), nil
}

// parseUUID parses a UUID in either case, with or without hyphens, in braces or as a URN.
// uuid.Parse accepts any characters in place of the braces.
func parseUUID(s string) (uuid.UUID, bool) {
	switch {
	case len(s) == uuidText, len(s) == uuidDigits:
	case len(s) == uuidText+len("{}") && s[0] == '{' && s[len(s)-1] == '}':
		s = s[1 : len(s)-1]
	case len(s) == len(urnPrefix)+uuidText && strings.EqualFold(s[:len(urnPrefix)], urnPrefix):
		s = s[len(urnPrefix):]
	default:
		return uuid.Nil, false
	}
	id, err := uuid.Parse(s)
	return id, err == nil
}
