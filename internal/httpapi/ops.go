package httpapi

import (
	"net/http"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// handleOps adds the routes of every process, with or without an API.
func (s *Server) handleOps() {
	s.Handle(
		Route{Method: http.MethodGet, Path: "/health/live", Access: Open, Handler: func(c echo.Context) error {
			return JSON(c, http.StatusOK, readiness{Status: Up, Components: map[string]Health{}})
		}},
		Route{Method: http.MethodGet, Path: "/health/ready", Access: Open, Handler: s.serveReady},
	)
	if !s.opts.HideMetrics {
		s.Handle(metricsRoute(s.opts.Registry))
	}
	if s.opts.OpenAPI == nil {
		return
	}
	s.Handle(Route{Method: http.MethodGet, Path: "/openapi.yaml", Access: Open, Handler: func(c echo.Context) error {
		return c.Blob(http.StatusOK, "application/yaml", s.opts.OpenAPI)
	}})
}

func metricsRoute(r *prometheus.Registry) Route {
	return Route{Method: http.MethodGet, Path: "/metrics", Access: Open, Handler: echo.WrapHandler(promhttp.HandlerFor(r, promhttp.HandlerOpts{}))}
}

// Ops returns a second server, at an address that is not public, with the health and metrics of
// this one.
func (s *Server) Ops(addr string) *Server {
	ops := New(Options{Addr: addr, Registry: prometheus.NewRegistry(), HideMetrics: true, Logger: s.log})
	ops.prober, ops.primary = s.prober, s
	ops.Handle(metricsRoute(s.opts.Registry))
	return ops
}

// serveReady returns the last results of the checks; DOWN has the status 503. A process
// that stops is DOWN.
func (s *Server) serveReady(c echo.Context) error {
	r := s.prober.report(c.Request().Context())
	if s.draining.Load() || s.primary != nil && s.primary.draining.Load() {
		r.Status = Down
		r.addDetail("process", "the process is stopping")
	}
	status := http.StatusOK
	if r.Status == Down {
		status = http.StatusServiceUnavailable
	}
	c.Response().Header().Set("Cache-Control", "no-store")
	return JSON(c, status, r)
}
