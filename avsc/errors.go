package avsc

import "fmt"

// UnknownEventError says that an event type is none of this program's: it was
// written by a newer one, or is no event of ours at all.
type UnknownEventError struct{ Type string }

func (e *UnknownEventError) Error() string {
	return fmt.Sprintf("event type %q is not known to this program", e.Type)
}

// UnknownVersionError says that a stored payload has a schema version that
// this program cannot read: it was written by a newer one.
type UnknownVersionError struct {
	Type    string
	Version int
	Newest  int // what this program writes
}

func (e *UnknownVersionError) Error() string {
	return fmt.Sprintf("schema version %d of event type %s is not known to this program, which writes %d",
		e.Version, e.Type, e.Newest)
}

// UnknownSchemaError says that an Avro value was written with a schema that is
// not among those ever published by this program.
type UnknownSchemaError struct{ Fingerprint uint64 }

func (e *UnknownSchemaError) Error() string {
	return fmt.Sprintf("no published schema has the CRC-64-AVRO fingerprint %016x", e.Fingerprint)
}

// ValueError says that a field's value cannot be encoded without changing it,
// or was not what the field may hold when it was decoded.
type ValueError struct {
	Type, Field string
	Reason      string
}

func (e *ValueError) Error() string {
	return fmt.Sprintf("%s.%s: %s", e.Type, e.Field, e.Reason)
}
