package telemetry

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"

	"go.opentelemetry.io/otel/trace"
)

// traceparentLength is the length of version 00 (https://www.w3.org/TR/trace-context/).
const traceparentLength = 55

// TraceID returns the 32 hex digits of the context's trace, "" if it has none.
func TraceID(ctx context.Context) string {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.HasTraceID() {
		return ""
	}
	return sc.TraceID().String()
}

// Traceparent returns the context's current span as a W3C traceparent, "" if there is no trace.
func Traceparent(ctx context.Context) string {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return ""
	}
	b := make([]byte, 0, traceparentLength)
	b = append(b, "00-"...)
	id, span := sc.TraceID(), sc.SpanID()
	b = hex.AppendEncode(b, id[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, span[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, []byte{byte(sc.TraceFlags())})
	return string(b)
}

// ContextWithTraceparent returns a context whose next span continues the trace of the traceparent.
// If that is not valid, it returns ctx.
func ContextWithTraceparent(ctx context.Context, traceparent string) context.Context {
	sc, ok := ParseTraceparent(traceparent)
	if !ok {
		return ctx
	}
	return trace.ContextWithRemoteSpanContext(ctx, sc)
}

// ParseTraceparent parses a W3C traceparent. According to the recommendation a later version may be
// longer, and only its first four fields are used.
func ParseTraceparent(s string) (trace.SpanContext, bool) {
	if len(s) < traceparentLength || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return trace.SpanContext{}, false
	}
	var version, flags [1]byte
	var id trace.TraceID
	var span trace.SpanID
	if !lowerHex(version[:], s[:2]) || !lowerHex(id[:], s[3:35]) || !lowerHex(span[:], s[36:52]) || !lowerHex(flags[:], s[53:55]) {
		return trace.SpanContext{}, false
	}
	switch {
	case version[0] == 0xff,
		version[0] == 0 && len(s) != traceparentLength,
		len(s) > traceparentLength && s[traceparentLength] != '-':
		return trace.SpanContext{}, false
	}
	sc := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: id, SpanID: span, TraceFlags: trace.TraceFlags(flags[0]) & trace.FlagsSampled, Remote: true,
	})
	return sc, sc.IsValid()
}

// ParseTraceID parses 32 hex digits, in either case, that are not all zero.
func ParseTraceID(s string) (trace.TraceID, bool) {
	var id trace.TraceID
	if len(s) != 2*len(id) {
		return id, false
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return id, false
	}
	return id, id.IsValid()
}

// lowerHex decodes what the recommendation allows: hex digits in lower case.
func lowerHex(dst []byte, s string) bool {
	for i := range len(s) {
		if c := s[i]; c >= 'A' && c <= 'F' {
			return false
		}
	}
	_, err := hex.Decode(dst, []byte(s))
	return err == nil
}

// NewTraceID returns a random trace id. It names a request and guards nothing, so
// the cheap generator does.
func NewTraceID() trace.TraceID {
	var id trace.TraceID
	for !id.IsValid() {
		binary.BigEndian.PutUint64(id[:8], rand.Uint64())
		binary.BigEndian.PutUint64(id[8:], rand.Uint64())
	}
	return id
}

// NewSpanID returns a random span id.
func NewSpanID() trace.SpanID {
	var id trace.SpanID
	for !id.IsValid() {
		binary.BigEndian.PutUint64(id[:], rand.Uint64())
	}
	return id
}
