package httpapi

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Health is the state of a component, or of the whole.
type Health string

// The states. A degraded component serves, but not as it should.
const (
	Up       Health = "UP"
	Degraded Health = "DEGRADED"
	Down     Health = "DOWN"
)

// probeTimeout is how long a component may take to answer.
const probeTimeout = 2 * time.Second

// Check is one component of /health/ready.
type Check struct {
	// Name is how the answer calls it: database, redis or kafka.
	Name string
	// Required makes the whole DOWN where this is; otherwise the whole is DEGRADED.
	Required bool
	// Probe looks at the component and returns when ctx ends, after two seconds, at
	// the latest.
	Probe func(context.Context) Health
}

// PingCheck makes a Probe of a function that fails where the component is away.
func PingCheck(ping func(context.Context) error) func(context.Context) Health {
	return func(ctx context.Context) Health {
		if ping(ctx) != nil {
			return Down
		}
		return Up
	}
}

// PartsCheck makes a Probe of a function that counts the parts of a component that
// serve, and all of them: DEGRADED where some do.
func PartsCheck(count func(context.Context) (serving, all int, err error)) func(context.Context) Health {
	return func(ctx context.Context) Health {
		switch serving, all, _ := count(ctx); serving {
		case 0:
			return Down
		case all:
			return Up
		default:
			return Degraded
		}
	}
}

type readiness struct {
	Status     Health            `json:"status"`
	Components map[string]Health `json:"components"`
}

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

func (s *Server) serveReady(c echo.Context) error {
	r := s.probe(c.Request().Context())
	status := http.StatusOK
	if r.Status == Down {
		status = http.StatusServiceUnavailable
	}
	c.Response().Header().Set("Cache-Control", "no-store")
	return JSON(c, status, r)
}

// probe asks every component at the same time and waits for all: a Probe ends with
// its context.
func (s *Server) probe(ctx context.Context) readiness {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	states := make([]Health, len(s.opts.Checks))
	var wg sync.WaitGroup
	for i, check := range s.opts.Checks {
		wg.Go(func() {
			states[i] = check.Probe(ctx)
		})
	}
	wg.Wait()
	r := readiness{Status: Up, Components: make(map[string]Health, len(states))}
	for i, check := range s.opts.Checks {
		r.Components[check.Name] = states[i]
		switch {
		case states[i] == Down && check.Required:
			r.Status = Down
		case states[i] != Up && r.Status == Up:
			r.Status = Degraded
		}
	}
	return r
}
