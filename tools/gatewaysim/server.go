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

	"github.com/dopaminestore/dopamine/internal/httpapi"
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
	*httpapi.Endpoint
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
		Endpoint: httpapi.NewEndpoint(opts.Addr), opts: opts, log: opts.Logger.With("component", "gateway-sim"), books: newBooks(),
		chance: rand.New(rand.NewPCG(opts.Seed, 0)),
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
	return s.Bind(func(l net.Listener) (_ net.Listener, err error) {
		if s.opts.Books != "" {
			s.books, err = openBooks(s.opts.Books)
		}
		return l, err
	})
}

// Run serves until ctx ends, finishes the requests that it has accepted, drops
// callbacks that were not sent yet and need not arrive, and returns nil. A server
// runs once.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Listen(); err != nil {
		return err
	}
	defer s.end()
	s.resume()
	hs := &http.Server{
		Handler: s.Handler(), ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	return s.Serve(ctx, hs, httpapi.Shutdown{
		Begin:   s.stop, // slow responses are sent now
		Timeout: shutdownTimeout,
		End:     func(context.Context, error) {},
	})
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
