// Package httpapi is the HTTP server that the command API and the query API share. It wraps Echo's
// router and traces, authenticates, limits, reads bodies, and renders problems, in the same way for
// every route.
//
// # Order of refusals
//
// Contract 7.1 has the order in which a request is refused if several things are wrong with it. Its
// first step is implemented here and not by handlers: the router decides path and method. A route
// carries its own Access and Body, and route.run checks token, role, rate, size and media type
// before the handler is called. (With Echo's groups and middleware, 405 would become 404, so no groups are used.) A
// handler reads all values, then looks up the objects, then checks the owner.
//
// A route without an Access refuses all requests. Package authmatrix tests every route with every
// kind of token.
//
// # Bounds
//
// Limits bound what clients may use: requests per buyer, requests without a token per client
// address, open connections in total and per address. A connection beyond its limit gets 503
// overloaded and is closed. A new connection may stay silent for 30 s, because browsers open
// connections ahead of a sale; after its first byte the header must arrive within 10 s. Behind a
// proxy the client's address is the last one in X-Forwarded-For that is not a trusted proxy's.
//
// # Caching
//
// Responses that need a role have Cache-Control: no-store. A handler whose response is the same for
// all clients calls Cacheable and sends a Tagged, whose ETag is "<version>-<hash>": If-None-Match
// compares all of it, If-Match only the version.
//
// # Readiness
//
// Each Check runs in the background once a second in a separate loop, and /health/ready returns the
// last results. A result that is older than five seconds counts as DOWN, so that a probe that hangs
// is noticed. Several checks may have the name of one component; the worst state counts.
//
// # Stopping
//
// When Run's context ends, /health/ready is DOWN for the drain delay while requests are served with
// Connection: close, so that load balancers and clients move on before the listener closes. Then
// streams end, and accepted requests are finished. A server of health and metrics at another
// address (Ops) outlives the one that it reports on.
//
// # What a request costs
//
// There is no middleware chain and no closure per request. A request has one value, of type
// request, which is also its context. Without an exporter a trace is two random ids and no span.
// Access logs exist at debug level only.
//
// # Responses without an end
//
// A Stream is a long response, such as an export, that its handler writes piece by piece. A Live is
// a response that continues until its client disconnects: its connection is taken over from
// net/http, whose buffers and stack would be most of its memory, and it outlives its handler.
//
// # Errors
//
// Handlers return errors. A *problem.Error in the chain is shown. Any other error is "internal":
// its text is logged and not shown. If a response fails after it has begun, the connection is cut,
// so that a partial export is never taken for a complete one.
package httpapi
