package export

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/apimodel"
)

// byteOrderMark makes Excel read a file as UTF-8.
const byteOrderMark = "\ufeff"

// Header returns the CSV record of the names of T's fields in JSON, after a byte order mark if bom
// is set.
func Header[T any](bom bool) (b []byte) {
	if bom {
		b = append(b, byteOrderMark...)
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[T]()) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		b = appendField(b, name)
	}
	return endRecord(b)
}

// Record appends v's fields, in the order of the struct, as a CSV record (RFC 4180). A nil pointer
// is an empty field. encoding/csv is not used because with CRLF it rewrites line breaks inside
// fields.
func Record[T any](b []byte, v *T) ([]byte, error) {
	fields := reflect.ValueOf(v).Elem()
	for i := range fields.NumField() {
		text, err := textOf(fields.Field(i))
		if err != nil {
			return b, fmt.Errorf("field %s of %T: %w", fields.Type().Field(i).Name, v, err)
		}
		b = appendField(b, text)
	}
	return endRecord(b), nil
}

func textOf(field reflect.Value) (string, error) {
	if field.Kind() == reflect.Pointer {
		if field.IsNil() {
			return "", nil
		}
		field = field.Elem()
	}
	switch v := field.Addr().Interface().(type) {
	case *uuid.UUID:
		return v.String(), nil
	case *apimodel.Time:
		return v.String(), nil
	case *json.RawMessage:
		return string(*v), nil
	case *bool:
		return strconv.FormatBool(*v), nil
	}
	if field.Kind() == reflect.String {
		return field.String(), nil
	}
	return "", fmt.Errorf("no CSV form for %s", field.Type())
}

// appendField appends a field and a comma, quoted if necessary. If a spreadsheet would run the text
// as a formula, it is prefixed with an apostrophe, which marks it as text.
func appendField(b []byte, s string) []byte {
	if isFormula(s) {
		s = "'" + s
	}
	if strings.ContainsAny(s, "\",\r\n") || strings.HasPrefix(s, " ") || strings.HasSuffix(s, " ") {
		s = `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
	}
	return append(append(b, s...), ',')
}

// endRecord replaces the comma after the last field.
func endRecord(b []byte) []byte { return append(b[:len(b)-1], "\r\n"...) }

// isFormula reports whether a spreadsheet would interpret the text as a formula
// (https://owasp.org/www-community/attacks/CSV_Injection). Amounts are never negative, so none
// begins with one of these characters.
func isFormula(s string) bool {
	return s != "" && strings.ContainsRune("=+-@\t\r\n", rune(s[0])) || strings.HasPrefix(s, "\uff1d") ||
		strings.HasPrefix(s, "\uff0b") || strings.HasPrefix(s, "\uff0d") || strings.HasPrefix(s, "\uff20")
}
