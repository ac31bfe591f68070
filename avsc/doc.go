// Package avsc is the form of an event outside the program: the JSON payload
// in the event store and the Avro value in Kafka, which are one subject,
// because both must be read for ever.
//
// # In the store
//
// Encode makes the payload and tries the Avro encoding at once: what the relay
// could not encode fails its command, not the relay for everybody. Decode
// takes a payload of any schema version up to the present one; an older one
// goes through the upcasts first. Times that follow from when an event was
// recorded are not in the payload: a changed life of slots must not change the
// past.
//
// # In Kafka
//
// One .avsc file here for each event type says what is written now; published/
// keeps every schema that was ever written, numbered, and is never changed.
// Marshal writes Avro single-object encoding: C3 01, the CRC-64-AVRO
// fingerprint of the schema's Parsing Canonical Form in little endian, the
// record. Unmarshal finds the writer's schema by the fingerprint, fills in the
// defaults of fields that are newer, and makes the envelope that was
// marshaled, with what Headers carries. Both sides fail rather than change a
// value: money beyond precision 19 and scale 4, a moment that is no whole
// millisecond, text that is no UTF-8.
//
// With a schema registry, Registered writes the Confluent wire format instead: 0,
// the id that the registry gave to the schema, the record. Decoder reads both: it
// asks the registry once for what an id stands for, and takes its own schema of
// that fingerprint. A value whose id it cannot learn is read from the store.
//
// To change a schema: change the .avsc, copy it to published/ under the next
// number, write its fingerprint to testdata/fingerprints.txt as described
// there. The tests refuse a change that a reader of the schemas before could
// not live with.
package avsc
