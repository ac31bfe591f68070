package httpapi

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/problem"
)

// Access defines who may call a route. The zero value refuses all callers, so a route without an
// Access is closed.
type Access struct {
	kind  accessKind
	roles auth.Roles
}

type accessKind int

const (
	accessNobody accessKind = iota
	accessOpen
	accessPublic
	accessRoles
)

var (
	// Open ignores the Authorization header: for health checks, and for callers that are
	// authenticated by other means.
	Open = Access{kind: accessOpen}
	// Public needs no token, but refuses an invalid one.
	Public = Access{kind: accessPublic}
)

// Role needs a token with at least one of the roles.
func Role(anyOf auth.Roles) Access {
	if anyOf == 0 {
		return Access{}
	}
	return Access{kind: accessRoles, roles: anyOf}
}

// String returns open, public, nobody, or the roles.
func (a Access) String() string {
	switch a.kind {
	case accessOpen:
		return "open"
	case accessPublic:
		return "public"
	case accessRoles:
		return a.roles.String()
	}
	return "nobody"
}

// Roles returns the roles of which a token needs one; 0 if none is needed or none
// suffices.
func (a Access) Roles() auth.Roles { return a.roles }

// Body defines what a route accepts as its body.
type Body int

const (
	// NoBody ignores a body.
	NoBody Body = iota
	// JSONBody reads a body of application/json, for DecodeJSON.
	JSONBody
	// RawBody reads a body of any media type, for ReadBody.
	RawBody
)

// Route is a path with a method and its handler.
type Route struct {
	Method string
	// Path is in Echo's form, with :name for a parameter.
	Path   string
	Access Access
	Body   Body
	// Endless marks a response that continues until its client disconnects: it has no HEAD.
	Endless bool
	Handler echo.HandlerFunc
}

// RouteInfo names a route as OpenAPI does, with {name} for a parameter.
type RouteInfo struct {
	Method, Path string
	Access       Access
}

// Handle adds routes, before Run. A GET route also gets a HEAD route.
func (s *Server) Handle(routes ...Route) {
	for _, r := range routes {
		rt := &route{Route: r, server: s, observe: s.metrics.route(r.Method, r.Path)}
		s.echo.Add(r.Method, r.Path, rt.serve)
		if r.Method == http.MethodGet && !r.Endless {
			s.echo.Add(http.MethodHead, r.Path, rt.serve)
		}
		if strings.HasPrefix(path.Base(r.Path), ":") {
			// Else Echo takes /v1/products/x/y for /v1/products/:id.
			s.echo.RouteNotFound(r.Path+"/*", s.refuseBelow)
		}
		if !strings.Contains(r.Path, ":") {
			s.static[r.Path] = append(s.static[r.Path], r.Method)
		}
		s.routes = append(s.routes, RouteInfo{r.Method, openAPIPath(r.Path), r.Access})
	}
}

// refuseBelow responds to a request that matched no route below a path parameter.
// Echo calls it also for the path of a route with another method.
func (s *Server) refuseBelow(c echo.Context) error {
	methods := []string{http.MethodOptions}
	for _, r := range s.routes {
		if matchesPath(r.Path, c.Request().URL.Path) {
			methods = append(methods, r.Method)
		}
	}
	switch {
	case len(methods) == 1:
		return echo.ErrNotFound
	case c.Request().Method == http.MethodOptions:
		c.Response().Header().Set(echo.HeaderAllow, strings.Join(methods, ", "))
		return c.NoContent(http.StatusNoContent)
	}
	return notAllowed(c, methods)
}

func notAllowed(c echo.Context, methods []string) error {
	c.Response().Header().Set(echo.HeaderAllow, strings.Join(methods, ", "))
	return echo.ErrMethodNotAllowed
}

// matchesPath reports whether path is one of a route's, whose parameters are {name}.
func matchesPath(route, path string) bool {
	want, got := strings.Split(route, "/"), strings.Split(path, "/")
	return slices.EqualFunc(want, got, func(w, g string) bool {
		return w == g || strings.HasPrefix(w, "{") && g != ""
	})
}

// Routes returns every route of the server, HEAD and OPTIONS left out, in the order
// in which they were added.
func (s *Server) Routes() []RouteInfo { return s.routes }

func openAPIPath(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if name, ok := strings.CutPrefix(p, ":"); ok {
			parts[i] = "{" + name + "}"
		}
	}
	return strings.Join(parts, "/")
}

type route struct {
	Route
	server  *Server
	observe *routeMetrics
}

var (
	errNoToken   = problem.New(problem.Unauthenticated, "the request has no bearer token")
	errHeader    = errors.New("header Authorization")
	errBadToken  = problem.New(problem.Unauthenticated, "the bearer token is not valid, or no longer")
	errForbidden = problem.New(problem.Forbidden, "the token's roles do not allow this")
)

// serve is the handler that is registered with the router.
func (rt *route) serve(c echo.Context) error {
	rc := requestOf(c)
	s := rt.server
	if rc.span != nil {
		rc.span.SetName(rt.Method + " " + rt.Path)
	}
	err := rt.run(c, rc)
	whole := err == nil || s.fail(c, rc, err)
	status := c.Response().Status
	took := time.Since(rc.start)
	rt.observe.status(status, took)
	if rc.span != nil {
		rc.span.SetAttributes(attribute.String("http.request.method", c.Request().Method),
			attribute.String("http.route", rt.Path), attribute.Int("http.response.status_code", status))
		if status >= http.StatusInternalServerError {
			rc.span.SetStatus(codes.Error, "")
		}
	}
	if s.log.Enabled(rc, slog.LevelDebug) {
		s.log.DebugContext(rc, "answered", "method", c.Request().Method, "route", rt.Path, "status", status, "took", took)
	}
	if !whole {
		panic(http.ErrAbortHandler) // so that an incomplete response is not taken for a complete one
	}
	return nil
}

// run performs all checks of a request, in the order of the package's comment, and calls the
// handler. A panic is returned as an error.
func (rt *route) run(c echo.Context, rc *request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	for _, v := range c.ParamValues() {
		if v == "" { // Echo takes /v1/products/ for /v1/products/:id
			return echo.ErrNotFound
		}
	}
	r := c.Request()
	if len(c.ParamNames()) > 0 {
		// Else Echo takes DELETE /v1/slots/acquire for DELETE /v1/slots/:id.
		if methods, ok := rt.server.static[r.URL.Path]; ok {
			return notAllowed(c, methods)
		}
	}
	if err := rt.admit(c, r, rc); err != nil {
		return err
	}
	if err := rt.takeBody(r, rc); err != nil {
		return err
	}
	return rt.Handler(c)
}

// admit checks token, role and rate.
func (rt *route) admit(c echo.Context, r *http.Request, rc *request) error {
	s := rt.server
	switch rt.Access.kind {
	case accessOpen:
		return nil
	case accessPublic, accessRoles:
	default:
		return errForbidden
	}
	if err := s.authenticate(r, rc); err != nil {
		return err
	}
	if rt.Access.kind == accessRoles {
		if !rc.known {
			return errNoToken
		}
		if !rc.identity.Has(rt.Access.roles) {
			return errForbidden
		}
		// The response belongs to one user; a handler may set another value.
		c.Response().Header()["Cache-Control"] = noStore
	}
	switch {
	case rc.identity.Has(auth.Buyer):
		return s.buyers.take(limitKey(rc.identity.Sub), errBuyerRate)
	case !rc.known && s.anonymous != nil:
		return s.anonymous.take(clientKey(s.opts.TrustedProxies.clientAddress(r)).As16(), errAnonymousRate)
	}
	return nil
}

// Shared header values; net/http only reads them.
var (
	noStore = []string{"no-store"}
	noSniff = []string{"nosniff"}
	closing = []string{"close"}
)

// authenticate takes the one Authorization header, if there is any.
func (s *Server) authenticate(r *http.Request, rc *request) error {
	values := r.Header["Authorization"]
	if len(values) == 0 {
		return nil
	}
	if len(values) > 1 {
		return errBadToken.Wrap(fmt.Errorf("%w: several", errHeader))
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return errBadToken.Wrap(fmt.Errorf("%w: another scheme than Bearer", errHeader))
	}
	id, err := s.opts.Verifier.Verify(rc, strings.Trim(token, " "))
	if err != nil {
		return errBadToken.Wrap(err)
	}
	rc.identity, rc.known = id, true
	return nil
}
