package domain

import (
	"fmt"
	"strings"
)

// FieldError describes an invalid field of a command. Message continues
// the name: "must be 1 or more".
type FieldError struct {
	Field   string
	Message string
}

// InvalidError refuses a command for its content, independent of the state. It
// lists every invalid field; none if the command as a whole is invalid.
type InvalidError struct {
	Fields []FieldError
}

func (e *InvalidError) Error() string {
	if len(e.Fields) == 0 {
		return "the command changes nothing"
	}
	texts := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		texts[i] = f.Field + " " + f.Message
	}
	return strings.Join(texts, "; ")
}

// invalid collects field errors.
type invalid []FieldError

func (v *invalid) check(ok bool, field, format string, args ...any) {
	if !ok {
		*v = append(*v, FieldError{field, fmt.Sprintf(format, args...)})
	}
}

func (v invalid) err() error {
	if len(v) == 0 {
		return nil
	}
	return &InvalidError{Fields: v}
}
