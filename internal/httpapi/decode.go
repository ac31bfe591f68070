package httpapi

import (
	"bytes"
	"errors"
	"reflect"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/dopaminestore/dopamine/internal/problem"
)

// strict applies to every body in addition to the package's own rules (names are case-sensitive and
// unique, the text is valid UTF-8, nothing follows).
var strict = json.RejectUnknownMembers(true)

// DecodeJSON decodes the body of a JSONBody route into the struct that v points to. It returns
// invalid-request with the field at fault for: bad JSON, a value that is not an object, an unknown
// or repeated name (names are case-sensitive), NUL in a text, a value of the wrong type. Absent
// fields stay unchanged; use pointers or Optional to detect them.
func DecodeJSON(c echo.Context, v any) error { return decode(requestOf(c).body, v) }

func decode(body []byte, v any) error {
	trimmed := bytes.TrimLeft(body, " \t\r\n")
	switch {
	case len(trimmed) == 0:
		return problem.New(problem.InvalidRequest, "the body is empty; a JSON object is expected")
	case trimmed[0] != '{':
		return problem.New(problem.InvalidRequest, "the body must be a JSON object")
	}
	if err := json.Unmarshal(body, v, strict); err != nil {
		return decodeProblem(err)
	}
	if field, found := nulField(body); found {
		return problem.Invalid(problem.Field(field, "must not hold the character NUL"))
	}
	return nil
}

// ValueError is returned by a type's own decoding to describe a right value, as in "must be a
// UUID". The text is shown to the client.
type ValueError string

// Error returns the text.
func (e ValueError) Error() string { return string(e) }

func decodeProblem(err error) error {
	var semantic *json.SemanticError
	if errors.As(err, &semantic) {
		return problem.Invalid(problem.Field(fieldName(semantic.JSONPointer), semanticMessage(semantic))).Wrap(err)
	}
	var syntactic *jsontext.SyntacticError
	if errors.As(err, &syntactic) && errors.Is(err, jsontext.ErrDuplicateName) {
		return problem.Invalid(problem.Field(fieldName(syntactic.JSONPointer), "is given twice")).Wrap(err)
	}
	return problem.New(problem.InvalidRequest, "the body is not valid JSON in UTF-8").Wrap(err)
}

func semanticMessage(e *json.SemanticError) string {
	var value ValueError
	switch {
	case errors.Is(e, json.ErrUnknownName):
		return "is not a field of this request"
	case errors.As(e, &value):
		return value.Error()
	case e.GoType == nil:
		return "is not allowed"
	}
	switch e.GoType.Kind() {
	case reflect.String:
		return "must be a string"
	case reflect.Bool:
		return "must be true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "must be a whole number within its range"
	case reflect.Slice, reflect.Array:
		return "must be a list"
	case reflect.Struct, reflect.Map:
		return "must be an object"
	}
	return "is not allowed"
}

// fieldName writes a JSON pointer as clients write fields: a.b.0.
func fieldName(p jsontext.Pointer) string {
	var parts []string
	for token := range p.Tokens() {
		parts = append(parts, token)
	}
	return strings.Join(parts, ".")
}

// nulField finds the first text in valid JSON that holds NUL, which can only be
// written as \u0000 there.
func nulField(body []byte) (string, bool) {
	if !bytes.Contains(body, []byte(`\u0000`)) {
		return "", false
	}
	dec := jsontext.NewDecoder(bytes.NewReader(body))
	for {
		token, err := dec.ReadToken()
		if err != nil { // the end: the body was valid
			return "", false
		}
		if token.Kind() == '"' && strings.ContainsRune(token.String(), 0) {
			return fieldName(dec.StackPointer()), true
		}
	}
}
