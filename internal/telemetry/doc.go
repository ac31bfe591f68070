// Package telemetry sets up tracing, logs and metrics, and propagates the W3C trace context through
// the program.
//
// A trace id exists whether or not spans are recorded: it is in every response, in every event and
// in the logs. Therefore the context always has an OpenTelemetry span context. Without an exporter
// it is a plain one, made from the request's traceparent or from random numbers, and no span is
// allocated. With an exporter it is that of the recorded span. TraceID and Traceparent read either.
package telemetry
