// Package avsc defines the external form of an event: the JSON payload
// in the event store and the Avro value in Kafka. They are one subject,
// because both must stay readable forever.
//
// # In the store
//
// Encode creates the payload and also tries the Avro encoding: an event that the relay
// cannot encode fails its command, not the relay for all events. Decode
// accepts a payload of any schema version up to the present one; an older one
// is upcast first. Times that follow from the time at which an event was
// recorded are not in the payload: a changed slot TTL must not change the
// past.
//
// # In Kafka
//
// There is one .avsc file here for each event type, the schema written now; published/
// keeps every schema that was ever written, numbered, and is never changed.
// Marshal writes Avro single-object encoding: C3 01, the CRC-64-AVRO
// fingerprint of the schema's Parsing Canonical Form in little endian, the
// record. Unmarshal finds the writer's schema by the fingerprint, fills in the
// defaults of newer fields, and returns the envelope that was
// marshaled, together with the contents of Headers. Both return an error rather than change a
// value: money beyond precision 19 and scale 4, a time with a fraction of a
// millisecond, text that is not UTF-8.
//
// With a schema registry, Registered writes the Confluent wire format instead: 0,
// the registry's id of the schema, the record. Decoder reads both: it
// requests the schema of an id from the registry once, and uses its own schema with
// that fingerprint. A value with an unknown id is read from the store.
//
// To change a schema: change the .avsc, copy it to published/ under the next
// number, add its fingerprint to testdata/fingerprints.txt as described there,
// and an upcast from the version before in payload.go, even if it changes nothing. The tests reject a change that readers of earlier schemas could
// not decode.
package avsc
