package problem

import (
	"errors"
	"math"
	"slices"
	"time"
)

// Error is an error that a client may see. It is immutable: With, WithRetryAfter
// and Wrap return changed copies, so that one value can be shared by requests.
type Error struct {
	slug       Slug
	detail     string
	extras     []member
	fields     []FieldError
	retryAfter int
	cause      error
}

type member struct {
	name  string
	value any
}

// FieldError names one wrong field and describes a right value.
type FieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// New returns a problem with the slug. The detail is shown to the client: it describes what was
// wrong with this request and contains no internal text.
func New(slug Slug, detail string) *Error {
	return &Error{slug: slug, detail: detail}
}

// Invalid makes an invalid-request that names the fields at fault.
func Invalid(fields ...FieldError) *Error {
	detail := "a value is missing or not allowed"
	if len(fields) == 1 {
		detail = fields[0].Field + " " + fields[0].Message
	}
	return &Error{slug: InvalidRequest, detail: detail, fields: fields}
}

// Field is one entry for Invalid; the message reads on from the field's name,
// as in "must be 1 to 200 characters".
func Field(name, message string) FieldError {
	return FieldError{Field: name, Message: message}
}

// With returns a copy with an extra member at the top level of the body. The value is anything that
// encoding/json can encode; name must not be one of the standard members.
func (e *Error) With(name string, value any) *Error {
	c := *e
	c.extras = append(slices.Clip(e.extras), member{name, value})
	return &c
}

// WithRetryAfter returns a copy whose Retry-After is d, rounded up to whole seconds and at least
// one.
func (e *Error) WithRetryAfter(d time.Duration) *Error {
	c := *e
	c.retryAfter = max(1, int(math.Ceil(d.Seconds())))
	return &c
}

// Wrap returns a copy with the error behind it, which is logged and found by
// errors.Is and errors.As, never shown.
func (e *Error) Wrap(cause error) *Error {
	c := *e
	c.cause = cause
	return &c
}

// Error returns the text for logs, including the cause.
func (e *Error) Error() string {
	text := string(e.slug)
	if e.detail != "" {
		text += ": " + e.detail
	}
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is a problem with the same slug, whatever their details.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.slug == e.slug
}

// Slug returns the problem's slug.
func (e *Error) Slug() Slug { return e.slug }

// Detail returns the detail that is shown.
func (e *Error) Detail() string { return e.detail }

// Fields returns the fields at fault.
func (e *Error) Fields() []FieldError { return e.fields }

// Status returns the HTTP status.
func (e *Error) Status() int { return e.slug.Status() }

// RetryAfter returns the seconds for the Retry-After header, 0 for none.
func (e *Error) RetryAfter() int {
	if e.retryAfter > 0 {
		return e.retryAfter
	}
	_, k := lookup(e.slug)
	return k.retryAfter
}

// From returns the problem in err's chain. If there is none, it returns internal with err as its
// cause; for nil it returns nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	var p *Error
	if errors.As(err, &p) {
		return p
	}
	return New(Internal, "the request could not be processed").Wrap(err)
}
