package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// DefaultTimeout bounds one call.
	DefaultTimeout = 10 * time.Second
	connectTimeout = 3 * time.Second
	// maxIdleConnections is the number of connections kept to the one host there is.
	maxIdleConnections = 64
	idleTimeout        = 90 * time.Second
)

// Options configure a Client.
type Options struct {
	// URL is the gateway's base URL, without user information.
	URL string
	// Key is sent as "Authorization: Bearer"; "" for none.
	Key string
	// Timeout bounds one call; 0: DefaultTimeout.
	Timeout time.Duration
	// Registerer receives the metrics; nil: none.
	Registerer prometheus.Registerer
	// Logger receives changes of the circuit breakers; nil: slog.Default().
	Logger *slog.Logger
}

// Client is the Gateway over the HTTP contract. Create it with New; safe for
// concurrent use.
type Client struct {
	payments, refunds string
	key               string
	http              *http.Client
	calls             *Calls
}

var _ Gateway = (*Client)(nil)

// New returns a Client. It sends nothing yet. The error describes what is wrong
// with the URL, without repeating it: it may hold a secret.
func New(opts Options) (*Client, error) {
	base, err := url.Parse(opts.URL)
	switch {
	case err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Host == "":
		return nil, errors.New("gateway: the URL must be one such as https://pay.example.com")
	case base.User != nil:
		return nil, errors.New("gateway: the URL must not contain user information; use a key file")
	case base.RawQuery != "" || base.Fragment != "":
		return nil, errors.New("gateway: the URL must not contain a query or a fragment")
	}
	if opts.Timeout == 0 {
		opts.Timeout = DefaultTimeout
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	return &Client{
		payments: base.JoinPath("payments").String(),
		refunds:  base.JoinPath("refunds").String(),
		key:      opts.Key,
		http:     NewHTTPClient(opts.Timeout),
		calls:    NewCalls(opts.Timeout, opts.Registerer, opts.Logger),
	}, nil
}

// NewHTTPClient returns the HTTP client of an adapter. It follows no redirect,
// because a redirected POST becomes a GET.
func NewHTTPClient(timeout time.Duration) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: connectTimeout}).DialContext,
			TLSHandshakeTimeout:   connectTimeout,
			MaxIdleConnsPerHost:   maxIdleConnections,
			IdleConnTimeout:       idleTimeout,
			ForceAttemptHTTP2:     true,
			ResponseHeaderTimeout: timeout,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Close closes idle connections. Calls after it work.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// EncodePayment implements Gateway.
func (c *Client) EncodePayment(r PaymentRequest) ([]byte, error) {
	return json.Marshal(paymentBody{
		Reference: r.Reference, Amount: r.Amount.String(), Currency: r.Amount.Currency(),
		Method: string(r.Method), CallbackURL: r.CallbackURL, ReturnURL: r.ReturnURL,
	})
}

// Pay implements Gateway.
func (c *Client) Pay(ctx context.Context, reference uuid.UUID, request []byte) (Payment, error) {
	return c.payment(ctx, CallPay, exchange{
		method: http.MethodPost, url: c.payments, key: reference.String(), body: request,
		accepts: created, rejects: rejection,
	}, reference)
}

// FindPayment implements Gateway.
func (c *Client) FindPayment(ctx context.Context, q PaymentQuery) (Payment, error) {
	return c.payment(ctx, CallFindPayment, exchange{
		method: http.MethodGet, url: c.payments + "/" + q.Reference.String(),
		accepts: okay, unknown: true, amounts: true,
	}, q.Reference)
}

// CancelPayment implements Gateway.
func (c *Client) CancelPayment(ctx context.Context, q PaymentQuery) (Payment, error) {
	return c.payment(ctx, CallCancel, exchange{
		method: http.MethodPost, url: c.payments + "/" + q.Reference.String() + "/cancel",
		key: q.Reference.String() + "-cancel", body: []byte("{}"),
		accepts: okay, unknown: true, amounts: true, rejects: refusal,
	}, q.Reference)
}

func (c *Client) payment(ctx context.Context, call Call, e exchange, reference uuid.UUID) (Payment, error) {
	var p Payment
	err := c.calls.Do(ctx, call, func(ctx context.Context) error {
		r, err := c.send(ctx, e)
		if err != nil {
			return err
		}
		p, err = r.payment(e.amounts)
		return err
	})
	if err != nil {
		return Payment{}, fmt.Errorf("%s %s: %w", call, reference, err)
	}
	return p, nil
}

// Refund implements Gateway.
func (c *Client) Refund(ctx context.Context, r RefundRequest) (Refund, error) {
	body, err := json.Marshal(refundBody{
		RefundReference: r.RefundID, Reference: r.Reference, PaymentID: r.GatewayPaymentID,
		Amount: r.Amount.String(), Currency: r.Amount.Currency(),
	})
	if err != nil {
		return Refund{}, err
	}
	return c.refund(ctx, CallRefund, exchange{
		method: http.MethodPost, url: c.refunds, key: r.RefundID.String(), body: body,
		accepts: created, rejects: rejection,
	}, r.RefundID)
}

// FindRefund implements Gateway.
func (c *Client) FindRefund(ctx context.Context, r RefundRequest) (Refund, error) {
	return c.refund(ctx, CallFindRefund, exchange{
		method: http.MethodGet, url: c.refunds + "/" + r.RefundID.String(),
		accepts: okay, unknown: true,
	}, r.RefundID)
}

func (c *Client) refund(ctx context.Context, call Call, e exchange, id uuid.UUID) (Refund, error) {
	var refund Refund
	err := c.calls.Do(ctx, call, func(ctx context.Context) error {
		r, err := c.send(ctx, e)
		if err != nil {
			return err
		}
		refund, err = r.refund()
		return err
	})
	if err != nil {
		return Refund{}, fmt.Errorf("%s %s: %w", call, id, err)
	}
	return refund, nil
}
