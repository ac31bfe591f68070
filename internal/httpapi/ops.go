package httpapi

import (
	"net/http"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// handleOps adds the routes of every process, with or without an API.
func (s *Server) handleOps() {
	metrics := echo.WrapHandler(promhttp.HandlerFor(s.opts.Registry, promhttp.HandlerOpts{}))
	s.Handle(
		Route{Method: http.MethodGet, Path: "/health/live", Access: Open, Handler: func(c echo.Context) error {
			return JSON(c, http.StatusOK, readiness{Status: Up, Components: map[string]Health{}})
		}},
		Route{Method: http.MethodGet, Path: "/health/ready", Access: Open, Handler: s.serveReady},
		Route{Method: http.MethodGet, Path: "/metrics", Access: Open, Handler: metrics},
	)
	if s.opts.OpenAPI == nil {
		return
	}
	s.Handle(Route{Method: http.MethodGet, Path: "/openapi.yaml", Access: Open, Handler: func(c echo.Context) error {
		return c.Blob(http.StatusOK, "application/yaml", s.opts.OpenAPI)
	}})
}

// serveReady returns the last results of the checks; DOWN has the status 503.
func (s *Server) serveReady(c echo.Context) error {
	r := s.prober.report(c.Request().Context())
	status := http.StatusOK
	if r.Status == Down {
		status = http.StatusServiceUnavailable
	}
	c.Response().Header().Set("Cache-Control", "no-store")
	return JSON(c, status, r)
}
