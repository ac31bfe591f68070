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

// FieldError names one field at fault and says what would be right.
type FieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// New makes a problem of the slug. The detail is shown to the client: it says
// what was wrong with this request and holds no inner text.
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

// With returns a copy with an extra member at the top level of the body. The
// value is anything that encoding/json takes; name is not one of the standard members.
func (e *Error) With(name string, value any) *Error {
	c := *e
	c.extras = append(slices.Clip(e.extras), member{name, value})
	return &c
}

// WithRetryAfter returns a copy that asks the client to wait for d, rounded up
// to whole seconds and at least one.
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

// Error is the text for logs; it holds the cause.
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

// Is says that problems of the same slug are the same, whatever their details.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.slug == e.slug
}

// Slug returns the problem's slug.
func (e *Error) Slug() Slug { return e.slug }

// Detail returns what is shown as the detail.
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

// From finds the problem in err's chain. What holds none becomes internal, with
// err as its cause; nil stays nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	var p *Error
	if errors.As(err, &p) {
		return p
	}
	return New(Internal, "the request could not be carried out").Wrap(err)
}
