package httpapi

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/dopaminestore/dopamine/internal/guard"
)

// Endpoint is an address on which an HTTP server starts and stops: it is bound once, reports when it
// accepts requests, and finishes those that it has accepted.
type Endpoint struct {
	addr     string
	ready    chan struct{}
	mu       sync.Mutex
	listener net.Listener
}

// NewEndpoint returns an Endpoint that is not bound yet; port 0 chooses a free one.
func NewEndpoint(addr string) *Endpoint { return &Endpoint{addr: addr, ready: make(chan struct{})} }

// Bind binds the address unless it is bound. wrap may replace the listener.
func (e *Endpoint) Bind(wrap func(net.Listener) (net.Listener, error)) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.listener != nil {
		return nil
	}
	bound, err := net.Listen("tcp", e.addr)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", e.addr, err)
	}
	wrapped, err := wrap(bound)
	if err != nil {
		_ = bound.Close()
		return err
	}
	e.listener = wrapped
	return nil
}

// Addr returns the address of the listener, nil before it is bound.
func (e *Endpoint) Addr() net.Addr {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.listener == nil {
		return nil
	}
	return e.listener.Addr()
}

// Ready is closed when requests are accepted.
func (e *Endpoint) Ready() <-chan struct{} { return e.ready }

// Shutdown is how an Endpoint stops.
type Shutdown struct {
	// Drain, unless nil, runs before; until then requests are accepted. served reports that the
	// server has failed, which Drain may return.
	Drain func(served <-chan error) error
	// Begin runs when no more requests are accepted; what would delay the accepted ones ends here.
	Begin func()
	// Timeout is the time that accepted requests have to finish.
	Timeout time.Duration
	// End runs after them with what is left of it; late is why some were cut off, or nil.
	End func(grace context.Context, late error)
}

// Serve serves on the bound address until ctx ends, and then shuts down. It returns an error if the
// server failed.
func (e *Endpoint) Serve(ctx context.Context, hs *http.Server, stop Shutdown) error {
	failed := func(err error) error { return fmt.Errorf("serve %s: %w", e.addr, err) }
	served := make(chan error, 1)
	go func() {
		defer guard.Log("serve HTTP")
		served <- hs.Serve(e.listener)
	}()
	close(e.ready)
	select {
	case err := <-served:
		return failed(err)
	case <-ctx.Done():
	}
	if stop.Drain != nil {
		if err := stop.Drain(served); err != nil {
			return failed(err)
		}
	}
	stop.Begin()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stop.Timeout)
	defer cancel()
	late := hs.Shutdown(grace)
	if late != nil {
		_ = hs.Close() // only closes what is left; no caller can use the error
	}
	stop.End(grace, late)
	<-served
	return nil
}
