package avsc

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/uuid"
	"github.com/hamba/avro/v2"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dopaminestore/dopamine/domain"
)

func readSchema(t require.TestingT, path string) (*avro.RecordSchema, []byte) {
	b, err := fs.ReadFile(files, path)
	require.NoError(t, err)
	s, err := avro.ParseBytesWithCache(b, "", &avro.SchemaCache{})
	require.NoError(t, err, path)
	return s.(*avro.RecordSchema), b
}

// fileOf returns the name of an event's schema without its extension: slot-acquired.
func fileOf(eventType string) string {
	return strings.ToLower(regexp.MustCompile(`\B[A-Z]`).ReplaceAllString(eventType, "-$0"))
}

func TestSchemas_NamedAfterEvent(t *testing.T) {
	for eventType := range forms {
		s, _ := readSchema(t, fileOf(eventType)+".avsc")
		require.Equal(t, "com.dopaminestore.product.events."+eventType+"Event", s.FullName())
		require.NotEmpty(t, s.Doc(), eventType)
		for _, f := range s.Fields() {
			require.NotEmpty(t, f.Doc(), "%s.%s", eventType, f.Name())
		}
	}
}

// The fields that other domains read, as published: field, type, default.
// All other fields have a default.
func TestSchemas_PublishedFields(t *testing.T) {
	const none = "none"
	promised := map[string][][3]string{
		"slot-acquired": {
			{"slotId", "string uuid", none}, {"userId", "string uuid", none}, {"productId", "string uuid", none},
			{"acquisitionTimestamp", "long timestamp-millis", none}, {"expirationTimestamp", "long timestamp-millis", none},
			{"traceId", "string", none},
		},
		"slot-expired": {
			{"slotId", "string uuid", none}, {"userId", "string uuid", none}, {"productId", "string uuid", none},
			{"expirationTimestamp", "long timestamp-millis", none}, {"reclaimStatus", "string", "AUTO_EXPIRED"},
			{"traceId", "string", none},
		},
		"payment-completed": {
			{"purchaseId", "string uuid", none}, {"slotId", "string uuid", none}, {"userId", "string uuid", none},
			{"productId", "string uuid", none}, {"paymentStatus", "string", none}, {"amount", "bytes decimal 19 4", none},
			{"currency", "string", "KRW"}, {"confirmationTimestamp", "long timestamp-millis", none}, {"traceId", "string", none},
		},
	}
	for file, want := range promised {
		s, _ := readSchema(t, file+".avsc")
		var rest []*avro.Field
		got := make([][3]string, 0, len(want))
		for _, f := range s.Fields() {
			if !slices.ContainsFunc(want, func(w [3]string) bool { return w[0] == f.Name() }) {
				rest = append(rest, f)
				continue
			}
			byDefault := none
			if f.HasDefault() {
				byDefault = fmt.Sprint(f.Default())
			}
			got = append(got, [3]string{f.Name(), describe(f.Type()), byDefault})
		}
		require.Equal(t, want, got, file)
		for _, f := range rest {
			require.True(t, f.HasDefault(), "%s.%s has no default", file, f.Name())
		}
	}
}

// describe returns everything of a type that matters to readers.
func describe(s avro.Schema) string {
	if u, ok := s.(*avro.UnionSchema); ok {
		members := make([]string, 0, 2)
		for _, m := range u.Types() {
			members = append(members, describe(m))
		}
		return strings.Join(members, " | ")
	}
	name := string(s.Type())
	if l, ok := s.(avro.LogicalTypeSchema); ok && l.Logical() != nil {
		name += " " + string(l.Logical().Type())
		if d, ok := l.Logical().(*avro.DecimalLogicalSchema); ok {
			name += fmt.Sprintf(" %d %d", d.Precision(), d.Scale())
		}
	}
	return name
}

func TestMarshal_ReadableByOtherImplementation(t *testing.T) {
	for eventType, gen := range eventGenerators {
		schema, _ := readSchema(t, fileOf(eventType)+".avsc")
		t.Run(eventType, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				value, err := Marshal(nil, genEnvelope(t, gen(t)))
				require.NoError(t, err)
				ours, _, err := known.current[eventType].codec.NativeFromBinary(value[headerSize:])
				require.NoError(t, err)
				var theirs map[string]any
				require.NoError(t, avro.Unmarshal(schema, value[headerSize:], &theirs))
				require.Len(t, theirs, len(schema.Fields()))
				for _, f := range schema.Fields() {
					require.Equal(t, plain(t, describe(f.Type()), ours.(map[string]any)[f.Name()]),
						plain(t, describe(f.Type()), theirs[f.Name()]), f.Name())
				}
			})
		})
	}
}

// plain returns a decoded value as text, after checking that its Go type is
// that of the logical type.
func plain(t require.TestingT, description string, v any) string {
	if m, ok := v.(map[string]any); ok { // a union
		require.Len(t, m, 1)
		for _, member := range m {
			v = member
		}
	}
	switch v := v.(type) {
	case nil:
		require.Contains(t, description, "null")
		return "null"
	case time.Time:
		require.Contains(t, description, "timestamp-millis")
		return v.UTC().Format(time.RFC3339Nano)
	case *big.Rat:
		require.Contains(t, description, "decimal")
		return v.RatString()
	case []byte:
		require.Equal(t, "bytes", description)
		return hex.EncodeToString(v)
	case string:
		if strings.Contains(description, "uuid") {
			require.Equal(t, uuid.MustParse(v).String(), v)
		}
		require.NotContains(t, description, "long")
		return v
	default:
		require.NotContains(t, description, " ", "%T has lost its logical type", v)
		return fmt.Sprint(v)
	}
}

func TestFingerprint_EqualsOtherImplementation(t *testing.T) {
	list, err := os.ReadFile("testdata/fingerprints.txt")
	require.NoError(t, err)
	listed := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(list)); lines.Scan(); {
		if file, fp, ok := strings.Cut(lines.Text(), " "); ok && file != "#" {
			listed[file] = fp
		}
	}
	paths, err := fs.Glob(files, "published/*.avsc")
	require.NoError(t, err)
	require.Len(t, listed, len(paths), "each published schema has its fingerprint, and no other has")
	for _, p := range paths {
		_, schema := readSchema(t, p)
		fp, err := fingerprint(schema)
		require.NoError(t, err)
		require.Equal(t, listed[path.Base(p)], hex.EncodeToString(binary.LittleEndian.AppendUint64(nil, fp)), p)
	}

	// From the Avro project's own share/test/data/schema-tests.txt.
	for schema, want := range map[string]int64{`"null"`: 7195948357588979594, `"int"`: 8247732601305521295, `"string"`: -8142146995180207161,
		`{"name":"foo","type":"record","fields":[]}`: -4824392279771201922} {
		fp, err := fingerprint([]byte(schema))
		require.NoError(t, err)
		require.Equal(t, want, int64(fp), schema)
	}
	_, err = fingerprint([]byte(`{"type":"map","values":"int"}`))
	require.ErrorContains(t, err, "not a record")
}

// published returns an event's schemas, oldest first.
func published(t *testing.T, eventType string) (schemas []*avro.RecordSchema, last []byte) {
	for n := 1; ; n++ {
		p := "published/" + fileOf(eventType) + "." + strconv.Itoa(n) + ".avsc"
		if _, err := fs.Stat(files, p); err != nil {
			return schemas, last
		}
		var s *avro.RecordSchema
		s, last = readSchema(t, p)
		schemas = append(schemas, s)
	}
}

func TestSchemas_PresentIsLastPublished(t *testing.T) {
	count := 0
	for eventType := range forms {
		all, last := published(t, eventType)
		_, present := readSchema(t, fileOf(eventType)+".avsc")
		require.Equal(t, string(last), string(present), "%s: copy a changed schema to published/ under the next number", eventType)
		count += len(all)
	}
	paths, err := fs.Glob(files, "published/*.avsc")
	require.NoError(t, err)
	require.Len(t, paths, count, "published/ has nothing but numbered schemas of events")
}

func TestSchemas_ReadPredecessors(t *testing.T) {
	for eventType := range forms {
		all, _ := published(t, eventType)
		for i, reader := range all {
			for j, writer := range all[:i] {
				require.NoError(t, breaks(reader, writer), "%s: schema %d against %d", eventType, i+1, j+1)
			}
		}
	}
}

// breaks returns why a reader with the newer schema could not read data that was
// written with the older one: by Avro's rules (BACKWARD), or because a field has another
// logical type or default, which those rules do not check.
func breaks(newer, older *avro.RecordSchema) error {
	if err := avro.NewSchemaCompatibility().Compatible(newer, older); err != nil {
		return err
	}
	for _, was := range older.Fields() {
		for _, is := range newer.Fields() {
			if is.Name() != was.Name() {
				continue
			}
			if describe(is.Type()) != describe(was.Type()) {
				return fmt.Errorf("%s was %s and is %s", is.Name(), describe(was.Type()), describe(is.Type()))
			}
			if was.HasDefault() && fmt.Sprint(is.Default()) != fmt.Sprint(was.Default()) {
				return fmt.Errorf("%s has another default", is.Name())
			}
		}
	}
	return nil
}

func TestBreaks(t *testing.T) {
	older, text := readSchema(t, "slot-expired.avsc")
	for name, change := range map[string]func(string) string{
		"a field without a default": func(s string) string {
			return strings.Replace(s, `"fields": [`, `"fields": [{"name": "more", "type": "int"},`, 1)
		},
		"another type": func(s string) string {
			return strings.Replace(s, `"name": "traceId", "type": "string"`, `"name": "traceId", "type": "bytes"`, 1)
		},
		"another logical type": func(s string) string { return strings.Replace(s, "timestamp-millis", "timestamp-micros", 1) },
		"another default":      func(s string) string { return strings.Replace(s, `"default": "AUTO_EXPIRED"`, `"default": ""`, 1) },
		"a default less":       func(s string) string { return strings.Replace(s, `, "default": "AUTO_EXPIRED"`, ``, 1) },
		"another name":         func(s string) string { return strings.Replace(s, "SlotExpiredEvent", "SlotEndedEvent", 1) },
	} {
		changed := change(string(text))
		require.NotEqual(t, string(text), changed, name)
		newer, err := avro.ParseBytesWithCache([]byte(changed), "", &avro.SchemaCache{})
		require.NoError(t, err)
		require.Error(t, breaks(newer.(*avro.RecordSchema), older), name)
	}
	added := strings.Replace(string(text), `"fields": [`, `"fields": [{"name": "more", "type": "int", "default": 1},`, 1)
	newer, err := avro.ParseBytesWithCache([]byte(added), "", &avro.SchemaCache{})
	require.NoError(t, err)
	require.NoError(t, breaks(newer.(*avro.RecordSchema), older))
}

// A value of an older schema: fields added later have their defaults, a
// field that was removed since is skipped.
func TestUnmarshal_UsesWriterSchema(t *testing.T) {
	_, present := readSchema(t, "slot-expired.avsc")
	var old map[string]any
	require.NoError(t, json.Unmarshal(present, &old))
	kept := []any{map[string]any{"name": "dropped", "type": "string"}}
	for _, f := range old["fields"].([]any) {
		switch f.(map[string]any)["name"] {
		case "unit", "arrivalSequence", "actor", "reclaimStatus":
		default:
			kept = append(kept, f)
		}
	}
	old["fields"] = kept
	oldText, err := json.Marshal(old)
	require.NoError(t, err)
	s, err := loadSchemas(fstest.MapFS{
		"slot-expired.avsc":             {Data: present},
		"published/slot-expired.1.avsc": {Data: oldText},
	})
	require.NoError(t, err)

	slot, user, product := uuid.New(), uuid.New(), uuid.New()
	at := time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)
	fp, err := fingerprint(oldText)
	require.NoError(t, err)
	value := binary.LittleEndian.AppendUint64([]byte{marker0, marker1}, fp)
	value, err = s.written[fp].codec.BinaryFromNative(value, map[string]any{
		"dropped": "x", "slotId": slot.String(), "userId": user.String(), "productId": product.String(),
		"expirationTimestamp": at, "traceId": "", "recordedAt": at.Add(time.Second),
	})
	require.NoError(t, err)

	e, err := s.unmarshal(value, Headers{EventType: "SlotExpired", StreamID: slot})
	require.NoError(t, err)
	require.Equal(t, domain.SlotExpired{UserID: user, Deadline: at, ReclaimStatus: domain.AutoExpired}, e.Event)
	require.Equal(t, at.Add(time.Second), e.RecordedAt)
	require.Equal(t, product, e.ProductID)
	require.Equal(t, domain.ActorSystem, e.Actor)
}
