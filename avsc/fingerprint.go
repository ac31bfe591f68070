package avsc

import (
	"encoding/json"
	"fmt"
	"strings"
)

// fingerprint returns the CRC-64-AVRO of a schema's Parsing Canonical Form.
// goavro's and hamba's forms keep attributes of logical types that the specification
// strips, so other readers do not know their fingerprints.
//
// https://avro.apache.org/docs/1.12.0/specification/#schema-fingerprints
func fingerprint(schema []byte) (uint64, error) {
	var parsed any
	if err := json.Unmarshal(schema, &parsed); err != nil {
		return 0, fmt.Errorf("parse Avro schema: %w", err)
	}
	var b strings.Builder
	if err := canonical(&b, parsed, ""); err != nil {
		return 0, err
	}
	return crc64([]byte(b.String())), nil
}

// canonical writes the Parsing Canonical Form of a schema made of records,
// unions and primitive types, including logical types; events consist
// of these.
func canonical(b *strings.Builder, schema any, namespace string) error {
	switch s := schema.(type) {
	case string:
		fmt.Fprintf(b, "%q", s)
		return nil
	case []any:
		return list(b, s, func(member any) error { return canonical(b, member, namespace) })
	case map[string]any:
		switch s["type"] {
		case "record":
			return canonicalRecord(b, s, namespace)
		case "null", "boolean", "int", "long", "float", "double", "bytes", "string":
			return canonical(b, s["type"], namespace)
		}
	}
	return fmt.Errorf("canonical form of Avro schema %v: not a record, a union or a primitive type", schema)
}

func canonicalRecord(b *strings.Builder, s map[string]any, namespace string) error {
	name, _ := s["name"].(string)
	if ns, ok := s["namespace"].(string); ok {
		namespace = ns
	}
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		namespace = name[:i]
	} else if namespace != "" {
		name = namespace + "." + name
	}
	fields, ok := s["fields"].([]any)
	if name == "" || !ok {
		return fmt.Errorf("canonical form of Avro record %q: no name or no fields", name)
	}
	fmt.Fprintf(b, `{"name":%q,"type":"record","fields":`, name)
	err := list(b, fields, func(field any) error {
		f, ok := field.(map[string]any)
		if !ok {
			return fmt.Errorf("canonical form of Avro record %q: field %v is not an object", name, field)
		}
		fmt.Fprintf(b, `{"name":%q,"type":`, f["name"])
		if err := canonical(b, f["type"], namespace); err != nil {
			return err
		}
		b.WriteByte('}')
		return nil
	})
	b.WriteByte('}')
	return err
}

func list(b *strings.Builder, items []any, write func(any) error) error {
	b.WriteByte('[')
	for i, item := range items {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := write(item); err != nil {
			return err
		}
	}
	b.WriteByte(']')
	return nil
}

// crc64Empty is the fingerprint of no bytes, and also the polynomial.
const crc64Empty = 0xc15d213aa4d7a795

var crc64Table = func() (table [256]uint64) {
	for i := range table {
		fp := uint64(i)
		for range 8 {
			fp = fp>>1 ^ crc64Empty&-(fp&1)
		}
		table[i] = fp
	}
	return table
}()

func crc64(data []byte) uint64 {
	fp := uint64(crc64Empty)
	for _, c := range data {
		fp = fp>>8 ^ crc64Table[byte(fp)^c]
	}
	return fp
}
