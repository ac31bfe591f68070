package avsc

import (
	"errors"
	"fmt"
)

// UnknownEventError reports an event type that this program does not know: it was
// written by a newer version, or it is not an event of this system.
type UnknownEventError struct{ Type string }

func (e *UnknownEventError) Error() string {
	return fmt.Sprintf("event type %q is not known to this program", e.Type)
}

// UnknownVersionError reports that a stored payload has a schema version that
// this program cannot read: it was written by a newer version.
type UnknownVersionError struct {
	Type    string
	Version int
	Newest  int // the version that this program writes
}

func (e *UnknownVersionError) Error() string {
	return fmt.Sprintf("schema version %d of event type %s is not known to this program, which writes %d",
		e.Version, e.Type, e.Newest)
}

// IsNewer reports whether an event cannot be decoded because a newer program recorded it. Such an
// event is left to a newer program (contract 6).
func IsNewer(err error) bool {
	return errors.As(err, new(*UnknownEventError)) || errors.As(err, new(*UnknownVersionError))
}

// UnknownSchemaError reports that an Avro value was written with a schema that this
// program never published.
type UnknownSchemaError struct{ Fingerprint uint64 }

func (e *UnknownSchemaError) Error() string {
	return fmt.Sprintf("no published schema has the CRC-64-AVRO fingerprint %016x", e.Fingerprint)
}

// ValueError reports that a field's value cannot be encoded without changing it,
// or that a decoded value is invalid for its field.
type ValueError struct {
	Type, Field string
	Reason      string
}

func (e *ValueError) Error() string {
	return fmt.Sprintf("%s.%s: %s", e.Type, e.Field, e.Reason)
}
