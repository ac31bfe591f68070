package gatewaysim

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	readTimeout     = 10 * time.Second
	writeTimeout    = 2 * time.Minute // slow responses included
	idleTimeout     = 2 * time.Minute
	shutdownTimeout = 5 * time.Second
	// callbackConnections bounds the connections to the receiver of callbacks.
	callbackConnections = 64
	callbackTimeout     = 5 * time.Second
)

// Server is the simulator. Create it with New, then call Run.
type Server struct {
	opts    Options
	log     *slog.Logger
	signers []*standardwebhooks.Webhook
	client  *http.Client
	books   *books

	chanceMu sync.Mutex
	chance   *rand.Rand

	ctx  context.Context // ends with the server
	stop context.CancelFunc
	work sync.WaitGroup // payments and refunds in progress, callbacks

	mu       sync.Mutex
	listener net.Listener
	ready    chan struct{}
}

// New returns a simulator. The error names the options that are wrong, or that
// the books cannot be opened.
func New(opts Options) (*Server, error) {
	if err := opts.validate(); err != nil {
		return nil, fmt.Errorf("gatewaysim: %w", err)
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.Seed == 0 {
		opts.Seed = rand.Uint64()
	}
	s := &Server{
		opts: opts, log: opts.Logger.With("component", "gateway-sim"), books: newBooks(),
		chance: rand.New(rand.NewPCG(opts.Seed, 0)), ready: make(chan struct{}),
		client: &http.Client{
			Timeout:       callbackTimeout,
			Transport:     &http.Transport{MaxConnsPerHost: callbackConnections, MaxIdleConnsPerHost: callbackConnections, IdleConnTimeout: idleTimeout},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	for _, secret := range opts.WebhookSecrets {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		if err != nil || len(key) == 0 {
			return nil, errors.New("gatewaysim: a webhook secret must be whsec_<base64>") // without the secret
		}
		signer, err := standardwebhooks.NewWebhookRaw(key)
		if err != nil {
			return nil, fmt.Errorf("gatewaysim: webhook secret: %w", err)
		}
		s.signers = append(s.signers, signer)
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// Listen binds the address and opens the books. Run does it if it was not done.
func (s *Server) Listen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil {
		return nil
	}
	l, err := net.Listen("tcp", s.opts.Addr)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", s.opts.Addr, err)
	}
	if s.opts.Books != "" {
		if s.books, err = openBooks(s.opts.Books); err != nil {
			_ = l.Close()
			return err
		}
	}
	s.listener = l
	return nil
}

// Addr returns the address that the simulator listens on, nil before Listen.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// Ready is closed when requests are accepted.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx ends, finishes the requests that it has accepted, drops
// callbacks that were not sent yet and need not arrive, and returns nil. A server
// runs once.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Listen(); err != nil {
		return err
	}
	hs := &http.Server{
		Handler: s.Handler(), ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- hs.Serve(s.listener) }()
	s.resume()
	close(s.ready)
	select {
	case err := <-served:
		s.end()
		return fmt.Errorf("serve %s: %w", s.opts.Addr, err)
	case <-ctx.Done():
	}
	s.stop() // slow responses are sent now
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := hs.Shutdown(grace); err != nil {
		_ = hs.Close() // closes the connections that are left
	}
	<-served
	s.end()
	return nil
}

// end stops what runs in the background. No request may be in progress.
func (s *Server) end() {
	s.stop()
	s.work.Wait()
	s.client.CloseIdleConnections()
	if s.books.journal != nil {
		_ = s.books.journal.close() // every write was complete
	}
}

// happens reports true with the given probability.
func (s *Server) happens(share float64) bool {
	s.chanceMu.Lock()
	defer s.chanceMu.Unlock()
	return s.chance.Float64() < share
}

// upTo draws a duration below d.
func (s *Server) upTo(d time.Duration) time.Duration {
	s.chanceMu.Lock()
	defer s.chanceMu.Unlock()
	return time.Duration(s.chance.Float64() * float64(d))
}

// oneOf draws an index below n.
func (s *Server) oneOf(n int) int {
	s.chanceMu.Lock()
	defer s.chanceMu.Unlock()
	return s.chance.IntN(n)
}

// pause waits for d. It returns an error if the server has stopped.
func (s *Server) pause(d time.Duration) error {
	if d <= 0 {
		return context.Cause(s.ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}
