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
	readTimeout   = 10 * time.Second
	writeTimeout  = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	shutdownGrace = 5 * time.Second
	// callbackConnections bounds what the simulator does to the one who is told.
	callbackConnections = 64
	callbackTimeout     = 5 * time.Second
)

// Options say how the simulator behaves. Shares go from 0 to 1.
type Options struct {
	// Addr is the host:port to listen on; port 0 takes a free one.
	Addr string
	// WebhookSecrets sign callbacks, each as whsec_<base64>: all of them, so that
	// one can be rolled. At least one.
	WebhookSecrets []string
	// SuccessRate is the share of payments that succeed.
	SuccessRate float64
	// Refused is the share of payments that are refused at once, by 402.
	Refused float64
	// Latency is the time from a payment's start to its outcome.
	Latency time.Duration
	// Lost, Repeated and Reordered are shares of the callbacks.
	Lost, Repeated, Reordered float64
	// Seed makes chance the same each time; 0: another each time.
	Seed uint64
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

func (o Options) validate() error {
	var errs []error
	for _, share := range []struct {
		name  string
		value float64
	}{
		{"success-rate", o.SuccessRate}, {"refused", o.Refused},
		{"lost", o.Lost}, {"repeated", o.Repeated}, {"reordered", o.Reordered},
	} {
		if !(share.value >= 0 && share.value <= 1) {
			errs = append(errs, fmt.Errorf("%s must be a share from 0 to 1, not %v", share.name, share.value))
		}
	}
	if o.Latency < 0 {
		errs = append(errs, fmt.Errorf("latency must be 0 or more, not %s", o.Latency))
	}
	if len(o.WebhookSecrets) == 0 {
		errs = append(errs, errors.New("webhook-secrets: one at least"))
	}
	return errors.Join(errs...)
}

// Server is the simulator. Make it with New, then Run it.
type Server struct {
	opts    Options
	log     *slog.Logger
	signers []*standardwebhooks.Webhook
	client  *http.Client
	books   *books

	chanceMu sync.Mutex
	chance   *rand.Rand

	ctx       context.Context // ends with the server: all callbacks
	stop      context.CancelFunc
	callbacks sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener
	ready    chan struct{}
}

// New makes a simulator; the error says which options are wrong.
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
			return nil, errors.New("gatewaysim: a webhook secret looks like whsec_<base64>") // without the secret
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

// Listen binds the address. Run does it where it was not done before.
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
	s.listener = l
	return nil
}

// Addr is the address that is listened on; nil before Listen or Ready.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// Ready is closed when requests are taken.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx ends, finishes the requests that it has accepted, drops
// callbacks that were not sent yet, and returns nil. A server runs once.
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
	close(s.ready)
	select {
	case err := <-served:
		s.end()
		return fmt.Errorf("serve %s: %w", s.opts.Addr, err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if err := hs.Shutdown(grace); err != nil {
		_ = hs.Close() // only closes what is left; there is nobody to tell
	}
	<-served
	s.end()
	return nil
}

// end ends what runs for nobody in particular. No request may be under way.
func (s *Server) end() {
	s.stop()
	s.callbacks.Wait()
	s.client.CloseIdleConnections()
}

// happens draws a lot.
func (s *Server) happens(share float64) bool {
	s.chanceMu.Lock()
	defer s.chanceMu.Unlock()
	return s.chance.Float64() < share
}

// anywhere draws a duration below d.
func (s *Server) anywhere(d time.Duration) time.Duration {
	s.chanceMu.Lock()
	defer s.chanceMu.Unlock()
	return time.Duration(s.chance.Float64() * float64(d))
}
