package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/otel/trace"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/telemetry"
)

const (
	// answerWithin is the default of Options.Timeout.
	answerWithin  = 10 * time.Second
	connectWithin = 3 * time.Second
	// idleConnections are kept to the one host there is.
	idleConnections = 64
	idleFor         = 90 * time.Second
	// maxAnswer is the longest body that is read; real ones have a few hundred bytes.
	maxAnswer = 64 << 10

	// failuresInARow open the breaker where they come within failuresWithin.
	failuresInARow = 10
	failuresWithin = 30 * time.Second
	// leftAlone is for how long an open breaker asks nothing; then triesAtOnce
	// calls try.
	leftAlone   = 3 * time.Second
	triesAtOnce = 5
)

// Options say where the gateway is.
type Options struct {
	// URL is the gateway's; paths come behind it.
	URL string
	// Timeout bounds one call; 0: ten seconds.
	Timeout time.Duration
	// Registerer takes the metrics; nil: none.
	Registerer prometheus.Registerer
	// Logger is told when the gateway is left alone; nil: slog.Default().
	Logger *slog.Logger
}

// Client is the gateway over HTTP. Made by New; safe for concurrent use.
type Client struct {
	payments, refunds string
	timeout           time.Duration
	http              *http.Client
	breaker           *gobreaker.CircuitBreaker[reply]
	metrics           *metrics
}

var _ Gateway = (*Client)(nil)

// New makes a client; it sends nothing yet. The error says what is wrong with the
// URL.
func New(opts Options) (*Client, error) {
	base, err := url.Parse(opts.URL)
	if err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" {
		return nil, fmt.Errorf("gateway: %q is no URL such as https://pay.example.com", opts.URL)
	}
	if opts.Timeout == 0 {
		opts.Timeout = answerWithin
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	c := &Client{
		payments: base.JoinPath("payments").String(),
		refunds:  base.JoinPath("refunds").String(),
		timeout:  opts.Timeout,
		metrics:  newMetrics(opts.Registerer),
		http: &http.Client{
			Transport: &http.Transport{
				Proxy:                 http.ProxyFromEnvironment,
				DialContext:           (&net.Dialer{Timeout: connectWithin}).DialContext,
				TLSHandshakeTimeout:   connectWithin,
				MaxIdleConnsPerHost:   idleConnections,
				IdleConnTimeout:       idleFor,
				ForceAttemptHTTP2:     true,
				ResponseHeaderTimeout: opts.Timeout,
			},
			// A redirected POST would be a GET.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	c.breaker = gobreaker.NewCircuitBreaker[reply](gobreaker.Settings{
		Name:         "gateway",
		MaxRequests:  triesAtOnce,
		Interval:     failuresWithin,
		Timeout:      leftAlone,
		ReadyToTrip:  func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= failuresInARow },
		IsSuccessful: answered,
		IsExcluded:   func(err error) bool { return errors.Is(err, errNotWaited) },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			c.metrics.open.Set(0)
			if to == gobreaker.StateOpen {
				c.metrics.open.Set(1)
			}
			opts.Logger.Warn("the payment gateway's breaker changed", "state", to.String())
		},
	})
	return c, nil
}

// errNotWaited: the caller did not wait for the answer, which says nothing about
// the gateway.
var errNotWaited = errors.New("gateway: the caller did not wait")

// Close lets go of idle connections. Calls after it work.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// answered says whether the gateway did its work, whatever it decided.
func answered(err error) bool {
	var refused *Refused
	return err == nil || errors.As(err, &refused) || errors.Is(err, ErrNeverHeardOf)
}

// Pay implements Gateway.
func (c *Client) Pay(ctx context.Context, r PayRequest) (PayAnswer, error) {
	a, err := c.call(ctx, "pay", request{
		method: http.MethodPost, url: c.payments, key: r.Reference.String(),
		body: payBody{
			Reference: r.Reference, Amount: r.Amount.String(), Currency: r.Amount.Currency(),
			Method: string(r.Method), CallbackURL: r.CallbackURL,
		},
		good: func(status int) bool {
			return status == http.StatusOK || status == http.StatusCreated || status == http.StatusAccepted
		},
		makesSense: func(a reply) error { return a.checkStatus() },
	})
	if err != nil {
		return PayAnswer{}, fmt.Errorf("ask for payment %s: %w", r.Reference, err)
	}
	return PayAnswer{PaymentID: a.PaymentID, Status: a.Status, FailureReason: a.FailureReason}, nil
}

// Look implements Gateway.
func (c *Client) Look(ctx context.Context, reference uuid.UUID) (State, error) {
	a, err := c.call(ctx, "look", request{
		method: http.MethodGet, url: c.payments + "/" + reference.String(),
		good: func(status int) bool { return status == http.StatusOK },
		look: true,
		makesSense: func(a reply) error {
			if err := a.checkStatus(); err != nil || a.Status != Succeeded {
				return err
			}
			return a.checkMoney()
		},
	})
	if err != nil {
		return State{}, fmt.Errorf("look at payment %s: %w", reference, err)
	}
	s := State{PaymentID: a.PaymentID, Status: a.Status, Currency: a.Currency, FailureReason: a.FailureReason}
	s.Amount, _ = domain.ParseDecimal(string(a.Amount)) // checked where it counts
	return s, nil
}

// Refund implements Gateway.
func (c *Client) Refund(ctx context.Context, reference uuid.UUID, amount domain.Money) (string, error) {
	a, err := c.call(ctx, "refund", request{
		method: http.MethodPost, url: c.refunds, key: reference.String(),
		body: refundBody{Reference: reference, Amount: amount.String(), Currency: amount.Currency()},
		good: func(status int) bool { return status == http.StatusOK || status == http.StatusCreated },
		makesSense: func(a reply) error {
			if a.RefundID == "" {
				return errors.New("no refundId")
			}
			return nil
		},
	})
	if err != nil {
		return "", fmt.Errorf("refund payment %s: %w", reference, err)
	}
	return a.RefundID, nil
}

// call makes one call, unless the breaker is open.
func (c *Client) call(ctx context.Context, name string, r request) (reply, error) {
	ctx, span := telemetry.Start(ctx, "gateway."+name, trace.WithSpanKind(trace.SpanKindClient))
	start := time.Now()
	a, err := c.breaker.Execute(func() (reply, error) {
		bounded, cancel := context.WithTimeout(ctx, c.timeout)
		defer cancel()
		a, err := c.send(bounded, r)
		if err != nil && ctx.Err() != nil {
			err = errors.Join(errNotWaited, err)
		}
		return a, err
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		err = ErrNotAsked
	}
	c.metrics.done(name, err, time.Since(start))
	if answered(err) {
		telemetry.End(span, nil)
	} else {
		telemetry.End(span, err)
	}
	return a, err
}
