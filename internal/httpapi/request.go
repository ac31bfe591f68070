package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/otel/trace"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/telemetry"
)

// request is the server's state of one request. It is also the request's context, so that it needs
// no map and no second value.
type request struct {
	context.Context
	server      *Server
	start       time.Time
	span        trace.Span // nil if nothing is recorded
	trace       string
	traceHeader [1]string
	identity    auth.Identity
	known       bool
	body        []byte
}

type requestKey struct{}

// Value finds the request itself under its key.
func (rc *request) Value(key any) any {
	if key == (requestKey{}) {
		return rc
	}
	return rc.Context.Value(key)
}

func requestOf(c echo.Context) *request {
	return c.Request().Context().Value(requestKey{}).(*request)
}

// IdentityOf returns the caller's identity. It returns false if there was no token, which only
// happens on a Public or Open route.
func IdentityOf(c echo.Context) (auth.Identity, bool) {
	rc := requestOf(c)
	return rc.identity, rc.known
}

// TraceID returns the 32 hex digits of the response's X-Trace-ID.
func TraceID(c echo.Context) string { return requestOf(c).trace }

// startTrace continues a valid traceparent, else uses a valid X-Trace-ID, else starts a new trace.
// The span is nil if nothing is recorded.
func (s *Server) startTrace(r *http.Request) (context.Context, trace.Span) {
	ctx := r.Context()
	var wanted trace.TraceID
	if values := r.Header["Traceparent"]; len(values) == 1 {
		if sc, ok := telemetry.ParseTraceparent(values[0]); ok {
			if state, err := trace.ParseTraceState(r.Header.Get("Tracestate")); err == nil {
				sc = sc.WithTraceState(state)
			}
			ctx = trace.ContextWithRemoteSpanContext(ctx, sc)
			if s.opts.Tracer == nil {
				return ctx, nil
			}
			return s.opts.Tracer.Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindServer))
		}
	}
	if values := r.Header["X-Trace-Id"]; len(values) == 1 {
		wanted, _ = telemetry.ParseTraceID(values[0])
	}
	if s.opts.Tracer != nil {
		if wanted.IsValid() {
			ctx = telemetry.WithWantedTrace(ctx, wanted)
		}
		return s.opts.Tracer.Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindServer))
	}
	if !wanted.IsValid() {
		wanted = telemetry.NewTraceID()
	}
	return trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: wanted, SpanID: telemetry.NewSpanID(),
	})), nil
}
