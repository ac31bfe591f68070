// Package telemetry sets up tracing, logs and metrics, and carries the W3C trace
// context through the program.
//
// A trace id exists whether or not spans are recorded: it is in every answer, in
// every event and in the logs. So the context always carries an OpenTelemetry span
// context. Without an exporter it is a plain one, made from the request's
// traceparent or from random numbers, and no span is ever allocated; with one it is
// that of the recorded span. TraceID and Traceparent read either.
package telemetry
