package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/linkedin/goavro/v2"
)

// schemas decodes values: by the fingerprint in the value, or by the id that a registry knows.
type schemas struct {
	registry      string
	http          http.Client
	byFingerprint map[uint64]*goavro.Codec
	byID          map[uint32]*goavro.Codec
}

func loadSchemas(folder, registry string) (*schemas, error) {
	s := &schemas{registry: registry, http: http.Client{Timeout: 10 * time.Second}, byFingerprint: map[uint64]*goavro.Codec{}, byID: map[uint32]*goavro.Codec{}}
	if folder == "" {
		return s, nil
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.avsc"))
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		codec, err := goavro.NewCodec(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		fingerprint, err := fingerprint(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		s.byFingerprint[fingerprint] = codec
	}
	return s, nil
}

// fingerprint returns the CRC-64-AVRO of a schema's Parsing Canonical Form. The forms of goavro
// and hamba/avro keep logical types, which the specification strips, so these are stripped first.
func fingerprint(schema []byte) (uint64, error) {
	var parsed any
	if err := json.Unmarshal(schema, &parsed); err != nil {
		return 0, err
	}
	text, err := json.Marshal(withoutLogicalTypes(parsed))
	if err != nil {
		return 0, err
	}
	codec, err := goavro.NewCodec(string(text))
	if err != nil {
		return 0, err
	}
	return codec.Rabin, nil
}

func withoutLogicalTypes(schema any) any {
	switch s := schema.(type) {
	case []any: // a union
		for i := range s {
			s[i] = withoutLogicalTypes(s[i])
		}
	case map[string]any:
		if s["type"] != "record" {
			return s["type"]
		}
		for _, f := range s["fields"].([]any) {
			field := f.(map[string]any)
			field["type"] = withoutLogicalTypes(field["type"])
			delete(field, "default")
		}
	}
	return schema
}

func (s *schemas) decode(value []byte) (any, error) {
	if len(value) >= 5 && value[0] == 0 { // Confluent wire format: 0, id of the schema, data
		codec, err := s.registered(binary.BigEndian.Uint32(value[1:5]))
		if err != nil {
			return nil, err
		}
		native, _, err := codec.NativeFromBinary(value[5:])
		return native, err
	}
	fingerprint, data, err := goavro.FingerprintFromSOE(value) // single-object encoding
	if err != nil {
		return nil, err
	}
	codec := s.byFingerprint[fingerprint]
	if codec == nil {
		return nil, fmt.Errorf("no schema has the fingerprint %016x", fingerprint)
	}
	native, _, err := codec.NativeFromBinary(data)
	return native, err
}

func (s *schemas) registered(id uint32) (*goavro.Codec, error) {
	if codec := s.byID[id]; codec != nil {
		return codec, nil
	}
	if s.registry == "" {
		return nil, errors.New("the value names a schema of a registry: give --registry")
	}
	res, err := s.http.Get(fmt.Sprintf("%s/schemas/ids/%d", s.registry, id))
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	var answer struct{ Schema string }
	if err := json.Unmarshal(body, &answer); err != nil || res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("schema %d: %s: %.200s", id, res.Status, body)
	}
	codec, err := goavro.NewCodec(answer.Schema)
	if err == nil {
		s.byID[id] = codec
	}
	return codec, err
}
