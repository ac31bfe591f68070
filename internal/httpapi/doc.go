// Package httpapi is what the command API and the query API have in common: one
// HTTP server around Echo's router that traces, authenticates, limits, reads
// bodies, and renders problems, the same way for every route.
//
// # Order of refusals
//
// If several things are wrong with a request, the response is the first of: no
// such path, wrong method, token, role, rate, size, media type, values, then what
// the handler finds. The order is made here and not by handlers: the router decides
// the first two; a route carries its own Access and Body, and route.run goes through
// token, role, rate, size and media type before the handler is called. (Echo's
// groups with middleware would turn 405 into 404, so nothing here is a group.) A
// handler reads all values, then looks up what they name, then checks the owner.
//
// A route without an Access refuses everybody. Package authmatrix tests every route
// with every kind of token.
//
// # Bounds
//
// Limits bound what clients may take: requests per buyer, requests without a token per
// client address, open connections in all and per address. A connection beyond its
// limit gets 503 overloaded and is closed. A new connection may stay silent for 30 s,
// because browsers open theirs ahead of a sale; from its first byte on a header has
// 10 s. Behind a proxy the client's address is the last one in X-Forwarded-For that is
// not a trusted proxy's.
//
// # Caching
//
// Responses that need a role have Cache-Control: no-store. A handler whose response is
// the same for everybody calls Cacheable and sends a Tagged, whose ETag is
// "<version>-<hash>": If-None-Match compares all of it, If-Match only the version.
//
// # Readiness
//
// Each Check runs in the background once a second in a loop of its own, and
// /health/ready returns the last results. A result that is older than five seconds
// counts as DOWN, so that a probe that hangs is noticed. Several checks may have the
// name of one component; the worst state counts.
//
// # Stopping
//
// When Run's context ends, /health/ready is DOWN for the drain delay while requests are
// served with Connection: close, so that load balancers and clients move on before the
// listener closes. Then streams end, and what was accepted is finished. A server of
// health and metrics at another address (Ops) outlives the one that it reports on.
//
// # What a request costs
//
// No middleware chain and no closure per request. A request gets one value of its
// own, request, which is its context as well; without an exporter a trace is two random
// ids and no span. Access logs exist at debug level alone.
//
// # Responses without an end
//
// A Stream is a long response, an export, that its handler writes piece by piece. A
// Live is one that continues until its client leaves: its connection is taken over
// from net/http, whose buffers and stack would be most of its memory, and it
// outlives its handler.
//
// # Errors
//
// Handlers return errors. A *problem.Error in the chain is shown, anything else is
// "internal", logged with its text and shown without. A response that fails after
// it has begun is cut off, so that half an export never looks whole.
package httpapi
