package httpapi

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dopaminestore/dopamine/internal/problem"
)

type sample struct {
	ID     *UUID            `json:"productId"`
	Name   string           `json:"name"`
	Stock  int              `json:"stock"`
	Paused *bool            `json:"paused"`
	Sale   *moment          `json:"saleDate"`
	End    Optional[moment] `json:"saleEndDate"`
	Tags   []string         `json:"tags"`
	Inner  *struct {
		Deep string `json:"deep"`
	} `json:"inner"`
}

// moment is a field type with its own decoding.
type moment struct{ time.Time }

func (m *moment) UnmarshalJSON(raw []byte) (err error) {
	m.Time, err = ParseTime(strings.Trim(string(raw), `"`))
	return err
}

func TestDecode_Refusals(t *testing.T) {
	for _, c := range []struct{ name, body, field, message string }{
		{"empty", "", "", ""},
		{"blank", " \n", "", ""},
		{"no object", `[]`, "", ""},
		{"null", `null`, "", ""},
		{"a string", `"x"`, "", ""},
		{"cut", `{"name":"x"`, "", ""},
		{"trailing", `{"name":"x"} {}`, "", ""},
		{"trailing comma", `{"name":"x",}`, "", ""},
		{"single quotes", `{'name':'x'}`, "", ""},
		{"comment", `{/* */}`, "", ""},
		{"NaN", `{"stock":NaN}`, "", ""},
		{"byte order mark", "\ufeff{}", "", ""},
		{"invalid UTF-8", "{\"name\":\"\xff\"}", "", ""},
		{"invalid UTF-8 in a name", "{\"na\xffme\":\"\"}", "", ""},
		{"half a surrogate pair", `{"name":"\ud800"}`, "", ""},
		{"raw NUL", "{\"name\":\"\x00\"}", "", ""},
		{"unknown", `{"nam":"x"}`, "nam", "is not a field of this request"},
		{"case", `{"Name":"x"}`, "Name", "is not a field of this request"},
		{"case of all", `{"PRODUCTID":"x"}`, "PRODUCTID", "is not a field of this request"},
		{"twice", `{"name":"x","name":"y"}`, "name", "is given twice"},
		{"twice by escape", `{"name":"x","\u006eame":"y"}`, "name", "is given twice"},
		{"unknown inside", `{"inner":{"x":1}}`, "inner.x", "is not a field of this request"},
		{"twice inside", `{"inner":{"deep":"a","deep":"b"}}`, "inner.deep", "is given twice"},
		{"NUL", `{"name":"a\u0000b"}`, "name", "must not hold the character NUL"},
		{"NUL inside", `{"inner":{"deep":"\\\u0000"}}`, "inner.deep", "must not hold the character NUL"},
		{"NUL in a list", `{"tags":["a","\u0000"]}`, "tags.1", "must not hold the character NUL"},
		{"not a string", `{"name":5}`, "name", "must be a string"},
		{"not a number", `{"stock":"5"}`, "stock", "must be a whole number within its range"},
		{"fraction", `{"stock":1.5}`, "stock", "must be a whole number within its range"},
		{"too large", `{"stock":99999999999999999999}`, "stock", "must be a whole number within its range"},
		{"not a bool", `{"paused":"true"}`, "paused", "must be true or false"},
		{"not a UUID", `{"productId":"x"}`, "productId", "must be a UUID"},
		{"another spelling", `{"productId":"{0af76519-16cd-43dd-8448-eb211c80319c}"}`, "productId", "must be a UUID"},
		{"no dashes", `{"productId":"0af7651916cd43dd8448eb211c80319c"}`, "productId", "must be a UUID"},
		{"UUID as a number", `{"productId":5}`, "productId", ""},
		{"not a time", `{"saleDate":"tomorrow"}`, "saleDate", "must be an RFC 3339 time such as 2026-11-24T10:00:00Z"},
		{"time as a number", `{"saleDate":5}`, "saleDate", "must be an RFC 3339 time such as 2026-11-24T10:00:00Z"},
		{"optional of the wrong kind", `{"saleEndDate":{}}`, "saleEndDate", "must be an RFC 3339 time such as 2026-11-24T10:00:00Z"},
		{"not a list", `{"tags":"x"}`, "tags", "must be a list"},
		{"not an object", `{"inner":1}`, "inner", "must be an object"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var v sample
			err := decode([]byte(c.body), &v)
			var p *problem.Error
			require.ErrorAs(t, err, &p)
			require.Equal(t, problem.InvalidRequest, p.Slug())
			require.NotEmpty(t, p.Detail())
			if c.field == "" {
				require.Empty(t, p.Fields())
				return
			}
			require.Len(t, p.Fields(), 1)
			require.Equal(t, c.field, p.Fields()[0].Field)
			if c.message != "" {
				require.Equal(t, c.message, p.Fields()[0].Message)
			}
		})
	}
}

func TestDecode_Accepted(t *testing.T) {
	var v sample
	require.NoError(t, decode([]byte(` {"productId":"0AF76519-16CD-43DD-8448-EB211C80319C","name":"\\u0000 é","stock":7,
		"paused":false,"saleDate":"2026-11-24T19:00:00.123456789+09:00","saleEndDate":null,"tags":[],"inner":null} `), &v))
	require.Equal(t, uuid.MustParse("0af76519-16cd-43dd-8448-eb211c80319c"), v.ID.UUID)
	require.Equal(t, `\u0000 é`, v.Name)
	require.Equal(t, time.Date(2026, 11, 24, 10, 0, 0, 123456789, time.UTC), v.Sale.Time)
	require.True(t, v.End.Set)
	require.True(t, v.End.Null)
	require.False(t, v.End.Given())
	require.False(t, *v.Paused)

	v = sample{}
	require.NoError(t, decode([]byte(`{"saleEndDate":"2026-11-24t10:00:00z"}`), &v))
	require.True(t, v.End.Given())
	require.Equal(t, time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC), v.End.Value.Time)
	require.Nil(t, v.Paused)

	v = sample{}
	require.NoError(t, decode([]byte(`{}`), &v))
	require.False(t, v.End.Set)
}

// TestDecode_AgreesWithEncodingJSON: whatever is taken, encoding/json reads as the same
// thing, and names nothing that the struct lacks.
func TestDecode_AgreesWithEncodingJSON(t *testing.T) {
	fragments := []string{`{`, `}`, `"name"`, `"Name"`, `"stock"`, `:`, `,`, `"x"`, `1`, `null`, `"\u0000"`, `"\\u0000"`,
		` `, `"\ud83d\ude00"`, `[`, `]`, `"tags"`, "\x00", "\xff", `"é"`, `"inner"`, `"deep"`, `1e2`, `-0`}
	rapid.Check(t, func(t *rapid.T) {
		body := strings.Join(rapid.SliceOfN(rapid.SampledFrom(fragments), 1, 12).Draw(t, "body"), "")
		checkDecode(t, body)
	})
}

func checkDecode(t require.TestingT, body string) {
	var ours, theirs sample
	if err := decode([]byte(body), &ours); err != nil {
		require.Equal(t, problem.InvalidRequest, problem.From(err).Slug())
		return
	}
	require.True(t, utf8.ValidString(body))
	require.NoError(t, json.Unmarshal([]byte(body), &theirs), body)
	require.Equal(t, theirs.Name, ours.Name)
	require.Equal(t, theirs.Stock, ours.Stock)
	require.NotContains(t, ours.Name, "\x00")
	for _, tag := range ours.Tags {
		require.NotContains(t, tag, "\x00")
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"name":"x"}`, `{"stock":1,"stock":2}`, `{"inner":{"deep":"\u0000"}}`, `{"Name":1}`, `[]`, ``} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) { checkDecode(t, body) })
}

func TestDecode_ShowsValueErrors(t *testing.T) {
	var v struct {
		X refusing `json:"x"`
	}
	p := problem.From(decode([]byte(`{"x":1}`), &v))
	require.Equal(t, []problem.FieldError{{Field: "x", Message: "must be nicer"}}, p.Fields())
	require.NotContains(t, p.Detail(), "inner")
}

type refusing struct{}

func (*refusing) UnmarshalJSON([]byte) error { return errors.Join(ValueError("must be nicer")) }

func BenchmarkDecodeAcquire(b *testing.B) {
	body := []byte(`{"productId":"0af76519-16cd-43dd-8448-eb211c80319c"}`)
	b.ReportAllocs()
	for b.Loop() {
		var in struct {
			ProductID *UUID `json:"productId"`
		}
		if err := decode(body, &in); err != nil {
			b.Fatal(err)
		}
	}
}
