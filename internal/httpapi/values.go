package httpapi

import (
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
)

// Optional distinguishes an absent field from null. The zero value is absent.
type Optional[T any] struct {
	// Set is true if the field was present, Null if it was null; otherwise Value is its value.
	Set, Null bool
	Value     T
}

// UnmarshalJSONFrom is called if the field is present.
func (o *Optional[T]) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	*o = Optional[T]{Set: true}
	if dec.PeekKind() == 'n' {
		o.Null = true
		_, err := dec.ReadToken()
		return err
	}
	return json.UnmarshalDecode(dec, &o.Value)
}

// Given reports whether there is a value.
func (o Optional[T]) Given() bool { return o.Set && !o.Null }

const uuidLength = 36

// ParseUUID reads a UUID in its one usual spelling, in either case.
func ParseUUID(s string) (uuid.UUID, error) {
	if len(s) != uuidLength { // uuid.Parse knows three more spellings
		return uuid.Nil, ValueError("must be a UUID")
	}
	id, err := uuid.Parse(s)
	if err != nil {
		return uuid.Nil, ValueError("must be a UUID")
	}
	return id, nil
}

// UUID is a field of a body that is a UUID.
type UUID struct{ uuid.UUID }

// UnmarshalText takes what ParseUUID takes.
func (u *UUID) UnmarshalText(text []byte) error {
	id, err := ParseUUID(string(text))
	u.UUID = id
	return err
}

// rfc3339 is stricter than time.Parse, which accepts a comma, a one-digit hour and an offset of
// more than a day.
var rfc3339 = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

// ParseTime reads RFC 3339 with any offset and precision and returns it in UTC. Letters
// may be in lower case, as the RFC allows. Years that leave four digits in UTC are refused.
func ParseTime(s string) (time.Time, error) {
	s = strings.ToUpper(s)
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || !rfc3339.MatchString(s) {
		return time.Time{}, ValueError("must be an RFC 3339 time such as 2026-11-24T10:00:00Z")
	}
	t = t.UTC()
	if t.Year() < 0 || t.Year() > 9999 {
		return time.Time{}, ValueError("must lie in the years 0000 to 9999")
	}
	return t, nil
}
