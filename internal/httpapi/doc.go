// Package httpapi is what the command API and the query API have in common: one
// HTTP server around Echo's router that traces, authenticates, limits, reads
// bodies, and renders problems, the same way for every route.
//
// # What is answered first
//
// Where several things are wrong with a request, the answer is the first of: no
// such path, wrong method, token, role, rate, size, media type, values, then what
// the handler finds. The order is made here and not by handlers: the router decides
// the first two; a route carries its own Access and Body, and route.run goes through
// token, role, rate, size and media type before the handler is called. (Echo's
// groups with middleware would turn 405 into 404, so nothing here is a group.) A
// handler reads all values, then looks for what they name, then asks whose it is.
//
// # What a request costs
//
// No middleware chain and no closure per request. A request gets one value of its
// own, request, which is its context as well; where no exporter is configured a
// trace is two random ids and no span. Access logs exist at debug level alone.
//
// # Answers without an end
//
// A Stream is a long answer, an export, that its handler writes piece by piece. A
// Live is one that goes on until its client leaves: its connection is taken over
// from net/http, whose buffers and stack would be most of its memory, and it
// outlives its handler. The server tells both to end when it stops, and waits.
//
// # Errors
//
// Handlers return errors. A *problem.Error in the chain is shown, anything else is
// "internal", logged with its text and answered without. An answer that fails after
// it has begun is cut off, so that half an export never looks whole.
package httpapi
