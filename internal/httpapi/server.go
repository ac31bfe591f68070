package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/problem"
)

const (
	// readHeaderTimeout counts from the first byte of a request.
	readHeaderTimeout = 10 * time.Second
	// readTimeout counts from the moment a connection is there, so it includes
	// preconnectTimeout.
	readTimeout = preconnectTimeout + 15*time.Second
	// writeTimeout bounds a whole response; a Stream renews it with every piece.
	writeTimeout = 30 * time.Second
	// idleTimeout is longer than the pause between two requests of one page.
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 32 << 10
	// shutdownTimeout leaves time for the rest of the process within the ten seconds
	// in which it stops. The drain delay, up to maxSharedDrain of it, is part of it.
	shutdownTimeout = 8 * time.Second
	maxSharedDrain  = 5 * time.Second
	// unavailableLogs is how many 503 responses per second are logged: while a dependency is
	// unavailable every request fails.
	unavailableLogs = 10
)

// Limits bound what clients may take of a server, and how it stops.
type Limits struct {
	// BuyerRate is the maximum number of requests per second of one buyer to this server, in bursts
	// of twice as many. 0: no limit.
	BuyerRate int
	// AnonymousRate is the same for requests without a token from one client address.
	AnonymousRate int
	// TrustedProxies are the proxies whose X-Forwarded-For is trusted.
	TrustedProxies trustedProxies
	// MaxConnections and MaxConnectionsPerAddress bound the open connections; 0: no
	// limit. Connections of trusted proxies do not count by address.
	MaxConnections, MaxConnectionsPerAddress int
	// DrainDelay is how long after the end of Run's context requests are still accepted, while
	// /health/ready is DOWN, so that load balancers notice first.
	DrainDelay time.Duration
}

// Options configure a Server.
type Options struct {
	// Addr is the host:port to listen on; port 0 chooses a free one.
	Addr string
	// Verifier verifies bearer tokens. Required unless all routes are Open.
	Verifier *auth.Verifier
	Limits
	// CORSOrigins may call from a browser, as scheme://host[:port]; "*" is any. None: no other origin.
	CORSOrigins []string
	// Checks are the components of /health/ready.
	Checks []Check
	// ProbeInterval is the time between two probes of a check; default one second.
	ProbeInterval time.Duration
	// OpenAPI is served at /openapi.yaml, unless it is nil.
	OpenAPI []byte
	// Registry takes the server's metrics and is served at /metrics, unless
	// HideMetrics is set. Required.
	Registry    *prometheus.Registry
	HideMetrics bool
	// Tracer records a span for each request; nil: trace ids only.
	Tracer trace.Tracer
	// Logger defaults to slog.Default().
	Logger *slog.Logger
	// Now is the clock of the rate limit; nil: time.Now.
	Now func() time.Time
}

// Server is an HTTP server. Create it with New, add routes with Handle, then call Run.
type Server struct {
	*Endpoint
	opts              Options
	log               *slog.Logger
	echo              *echo.Echo
	routes            []RouteInfo
	static            map[string][]string // methods of the paths without parameters
	buyers, anonymous *limiter
	draining          atomic.Bool
	cors              *cors
	metrics           *metrics
	unrouted          *routeMetrics
	busyLogs          *rate.Limiter
	refusals          *refusals
	prober            *prober
	primary           *Server // of an Ops server: the server whose health it reports

	lives sync.WaitGroup // the goroutines of open responses

	mu       sync.Mutex
	open     map[*Live]struct{}
	stopping chan struct{}
	done     chan struct{} // closed when Run has ended
}

// New makes a server with the routes that every API has: /health/live,
// /health/ready, /metrics and /openapi.yaml.
func New(opts Options) *Server {
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	s := &Server{
		Endpoint:  NewEndpoint(opts.Addr),
		opts:      opts,
		log:       opts.Logger,
		echo:      echo.New(),
		static:    map[string][]string{},
		buyers:    newLimiter(opts.BuyerRate, opts.Now),
		anonymous: newLimiter(opts.AnonymousRate, opts.Now),
		cors:      newCORS(opts.CORSOrigins),
		metrics:   newMetrics(opts.Registry),
		busyLogs:  rate.NewLimiter(unavailableLogs, unavailableLogs),
		refusals:  newRefusals(opts.Registry, opts.Logger, opts.Now),
		prober:    newProber(opts.Checks, opts.ProbeInterval, opts.Registry, opts.Logger),
		open:      map[*Live]struct{}{},
		stopping:  make(chan struct{}),
		done:      make(chan struct{}),
	}
	s.unrouted = s.metrics.route("any", "unmatched")
	s.echo.HTTPErrorHandler = func(err error, c echo.Context) {
		rc := requestOf(c)
		s.fail(c, rc, err)
		s.unrouted.status(c.Response().Status, time.Since(rc.start))
	}
	s.handleOps()
	return s
}

// Listen binds the address. Run does so if necessary; a caller that needs the port before calls it
// first.
func (s *Server) Listen() error {
	return s.Bind(func(l net.Listener) (net.Listener, error) {
		return limitListener(l, s.opts.Limits, s.opts.Registry), nil
	})
}

// Run serves until ctx ends. Then /health/ready is DOWN for the drain delay while requests are
// served. After that it accepts no more, ends streams, waits for accepted requests for eight
// seconds less the drain delay, and returns. It returns an error if it could not listen or serve. A
// server runs once.
func (s *Server) Run(ctx context.Context) error {
	defer close(s.done)
	if err := s.Listen(); err != nil {
		return err
	}
	hs := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	probing, stopProbing := context.WithCancel(context.WithoutCancel(ctx))
	var probes sync.WaitGroup
	if s.primary == nil {
		probes.Go(func() {
			defer guard.Log("probe components")
			s.prober.run(probing)
		})
	}
	defer probes.Wait()
	defer stopProbing()
	return s.Serve(ctx, hs, Shutdown{
		Drain:   s.drain,
		Begin:   func() { close(s.stopping) },
		Timeout: shutdownTimeout - min(s.opts.DrainDelay, maxSharedDrain),
		End: func(grace context.Context, late error) {
			if late != nil {
				s.log.Warn("requests were cut off at shutdown", "error", late)
			}
			s.endLives(grace)
		},
	})
}

// drain continues to serve for the drain delay. Responses close their connections, so that none is
// idle, about to carry a request, when the listener closes.
func (s *Server) drain(served <-chan error) error {
	s.draining.Store(true)
	if s.primary != nil {
		<-s.primary.done // its health is of interest until then
		return nil
	}
	if s.opts.DrainDelay <= 0 {
		return nil
	}
	delay := time.NewTimer(s.opts.DrainDelay)
	defer delay.Stop()
	select {
	case err := <-served:
		return err
	case <-delay.C:
		return nil
	}
}

// ServeHTTP starts the request's trace and passes it to the router.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rc := &request{server: s, start: time.Now()}
	ctx, span := s.startTrace(r)
	rc.Context = ctx
	rc.trace = trace.SpanContextFromContext(ctx).TraceID().String()
	rc.traceHeader[0] = rc.trace
	h := w.Header()
	h["X-Trace-Id"] = rc.traceHeader[:]
	h["X-Content-Type-Options"] = noSniff
	if s.draining.Load() {
		h["Connection"] = closing
	}
	if span != nil {
		rc.span = span
		defer span.End()
	}
	if s.cors != nil && s.cors.handle(w, r) {
		return
	}
	s.echo.ServeHTTP(w, r.WithContext(rc))
}

// fail responds with the problem in err and logs what an operator should see. It returns false if
// the response had already begun.
func (s *Server) fail(c echo.Context, rc *request, err error) bool {
	p := toProblem(err)
	r := c.Request()
	gone := r.Context().Err() != nil && errors.Is(err, context.Canceled)
	switch {
	case gone:
		s.log.DebugContext(rc, "client disconnected", "method", r.Method, "route", c.Path(), "error", err)
	case p.Status() == http.StatusServiceUnavailable:
		if s.busyLogs.Allow() {
			s.log.WarnContext(rc, "request rejected as unavailable", "method", r.Method, "route", c.Path(), "error", err)
		}
	case p.Status() == http.StatusUnauthorized:
		s.refusals.note(rc, c.Path(), err)
	case p.Status() >= http.StatusInternalServerError:
		s.log.ErrorContext(rc, "a request failed", "method", r.Method, "route", c.Path(), "error", err)
	}
	if c.Response().Committed {
		return false
	}
	if werr := problem.Write(c.Response(), p, r.URL.Path, rc.trace); werr != nil {
		s.log.DebugContext(rc, "response could not be written", "error", werr)
	}
	return true
}

// toProblem converts errors of Echo and other errors to problems.
func toProblem(err error) *problem.Error {
	if p, ok := err.(*problem.Error); ok { // the refusals of a rush
		return p
	}
	var he *echo.HTTPError
	if errors.As(err, &he) {
		switch he.Code {
		case http.StatusNotFound:
			return problem.New(problem.NotFound, "no such path")
		case http.StatusMethodNotAllowed:
			return problem.New(problem.MethodNotAllowed, "the header Allow names the methods of this path")
		}
	}
	return problem.From(err)
}
