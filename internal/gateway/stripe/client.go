package stripe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	stripego "github.com/stripe/stripe-go/v85"
	"github.com/stripe/stripe-go/v85/form"

	"github.com/dopaminestore/dopamine/internal/gateway"
)

const (
	// keyLifetime is how long after a request was first posted its idempotency key
	// is relied on. Stripe keeps keys for at least 24 hours.
	keyLifetime = 23 * time.Hour
	// searchLag is how far Stripe's search may be behind.
	searchLag = time.Hour
	// maxResponse is the longest response that is read.
	maxResponse = 1 << 20
)

// The members of metadata.
const (
	metaStore     = "store_id"
	metaReference = "reference"
	metaRefund    = "refund_reference"
)

// Options configure a Client.
type Options struct {
	// URL is the base URL; "": Stripe's.
	URL string
	// Key is the secret or restricted key.
	Key string
	// PublishableKey is given to the buyer's page.
	PublishableKey string
	// Store is the event store's id.
	Store uuid.UUID
	// Timeout bounds one call; 0: gateway.DefaultTimeout.
	Timeout time.Duration
	// Registerer receives the metrics; nil: none.
	Registerer prometheus.Registerer
	// Logger receives changes of the circuit breakers; nil: slog.Default().
	Logger *slog.Logger

	now func() time.Time // nil: time.Now; set by tests
}

// Client is the gateway.Gateway over Stripe. Create it with New; safe for
// concurrent use.
type Client struct {
	opts    Options
	http    *http.Client
	backend stripego.Backend
	api     *stripego.Client
	calls   *gateway.Calls
}

var _ gateway.Gateway = (*Client)(nil)

// New returns a Client. It sends nothing yet. Errors do not repeat the key or the URL.
func New(opts Options) (*Client, error) {
	if opts.Key == "" {
		return nil, errors.New("stripe: a secret key is required")
	}
	if opts.URL == "" {
		opts.URL = stripego.APIURL
	}
	base, err := url.Parse(opts.URL)
	if err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" || base.User != nil {
		return nil, errors.New("stripe: the URL must be one such as https://api.stripe.com, without user information")
	}
	if opts.Timeout == 0 {
		opts.Timeout = gateway.DefaultTimeout
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.now == nil {
		opts.now = time.Now
	}
	c := &Client{opts: opts, http: gateway.NewHTTPClient(opts.Timeout), calls: gateway.NewCalls(opts.Timeout, opts.Registerer, opts.Logger)}
	c.http.Transport = &transport{base: c.http.Transport}
	config := &stripego.BackendConfig{
		HTTPClient: c.http, URL: &opts.URL, MaxNetworkRetries: stripego.Int64(0), EnableTelemetry: stripego.Bool(false),
		LeveledLogger: &stripego.LeveledLogger{Level: stripego.LevelNull},
	}
	c.backend = stripego.GetBackendWithConfig(stripego.APIBackend, config)
	c.api = stripego.NewClient(opts.Key, stripego.WithBackends(&stripego.Backends{API: c.backend}))
	return c, nil
}

// Close closes idle connections. Calls after it work.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// transport keeps net/http from repeating requests, bounds responses, and refuses
// JSON with duplicate members, of which the library would take the last.
type transport struct{ base http.RoundTripper }

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.GetBody = nil
	resp, err := t.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	_ = resp.Body.Close()
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the response: %w", err)
	case len(content) > maxResponse:
		return nil, fmt.Errorf("response of more than %d bytes", maxResponse)
	case !jsontext.Value(content).IsValid():
		return nil, fmt.Errorf("response %d is not valid JSON", resp.StatusCode)
	}
	resp.Body = io.NopCloser(bytes.NewReader(content))
	return resp, nil
}

// CloseIdleConnections lets http.Client close them.
func (t *transport) CloseIdleConnections() {
	if b, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		b.CloseIdleConnections()
	}
}

// EncodePayment implements gateway.Gateway: the form of the create request. The
// callback and return URLs are not part of it: webhooks are configured at Stripe,
// and the buyer's page gives the return URL to Stripe when it confirms.
func (c *Client) EncodePayment(r gateway.PaymentRequest) ([]byte, error) {
	amount, err := minor(r.Amount)
	if err != nil {
		return nil, err
	}
	values := &form.Values{}
	form.AppendTo(values, &stripego.PaymentIntentCreateParams{
		Amount: &amount, Currency: stripego.String(strings.ToLower(r.Amount.Currency())),
		AutomaticPaymentMethods: &stripego.PaymentIntentCreateAutomaticPaymentMethodsParams{Enabled: stripego.Bool(true)},
		Metadata:                map[string]string{metaStore: c.store(r.StoreID), metaReference: r.Reference.String()},
	})
	return []byte(values.Encode()), nil
}

// store returns the store id of a request, which is ours if it names none.
func (c *Client) store(id uuid.UUID) string {
	if id == uuid.Nil {
		id = c.opts.Store
	}
	return id.String()
}

// Pay implements gateway.Gateway.
func (c *Client) Pay(ctx context.Context, reference uuid.UUID, request []byte) (gateway.Payment, error) {
	var p gateway.Payment
	err := c.calls.Do(ctx, gateway.CallPay, func(ctx context.Context) error {
		intent, err := c.create(ctx, reference, request)
		if err != nil {
			return err
		}
		p = c.payment(intent)
		return nil
	})
	return p, wrap(gateway.CallPay, reference, err)
}

// create posts a create request. A repetition returns the response to the first
// one, which may be out of date.
func (c *Client) create(ctx context.Context, reference uuid.UUID, request []byte) (*stripego.PaymentIntent, error) {
	intent := &stripego.PaymentIntent{}
	params := &stripego.Params{Context: ctx, IdempotencyKey: stripego.String(reference.String())}
	err := c.backend.CallRaw(http.MethodPost, "/v1/payment_intents", c.opts.Key, request, params, intent)
	if err == nil && intent.ID == "" {
		err = errors.New("unintelligible response: no id")
	}
	return intent, judge(err)
}

// FindPayment implements gateway.Gateway.
func (c *Client) FindPayment(ctx context.Context, q gateway.PaymentQuery) (gateway.Payment, error) {
	var p gateway.Payment
	err := c.calls.Do(ctx, gateway.CallFindPayment, func(ctx context.Context) error {
		intent, err := c.find(ctx, q)
		if err == nil && q.Unwanted && q.GatewayID == "" && cancelable(intent) {
			intent, err = c.cancel(ctx, q.Reference, intent.ID)
		}
		if err != nil {
			return err
		}
		p = c.payment(intent)
		return nil
	})
	return p, wrap(gateway.CallFindPayment, q.Reference, err)
}

// CancelPayment implements gateway.Gateway.
func (c *Client) CancelPayment(ctx context.Context, q gateway.PaymentQuery) (gateway.Payment, error) {
	var p gateway.Payment
	err := c.calls.Do(ctx, gateway.CallCancel, func(ctx context.Context) error {
		intent, err := c.find(ctx, q)
		if err == nil && cancelable(intent) {
			intent, err = c.cancel(ctx, q.Reference, intent.ID)
		}
		if err != nil {
			return err
		}
		p = c.payment(intent)
		return nil
	})
	return p, wrap(gateway.CallCancel, q.Reference, err)
}

// find returns the present PaymentIntent of a query; see the package comment.
func (c *Client) find(ctx context.Context, q gateway.PaymentQuery) (*stripego.PaymentIntent, error) {
	if q.GatewayID != "" {
		return c.retrieve(ctx, q.GatewayID)
	}
	if q.FirstPost.IsZero() {
		q.FirstPost = q.LastPost
	}
	if q.FirstPost.IsZero() {
		return nil, gateway.ErrUnknownReference
	}
	keyEnds := q.FirstPost.Add(keyLifetime)
	if len(q.Request) > 0 && c.opts.now().Before(keyEnds) {
		intent, err := c.create(ctx, q.Reference, q.Request)
		var rejected *gateway.Rejected
		if errors.As(err, &rejected) {
			return nil, gateway.ErrUnknownReference // Stripe does not have it, and does not take it
		}
		if err != nil {
			return nil, err
		}
		return c.retrieve(ctx, intent.ID)
	}
	intent, err := c.search(ctx, q.Reference)
	if err != nil || intent != nil {
		return intent, err
	}
	last := q.LastPost
	if keyEnds.After(last) && len(q.Request) > 0 {
		last = keyEnds // look-ups have posted until then
	}
	if c.opts.now().Before(last.Add(searchLag)) {
		return nil, errors.New("not found yet: the search may be behind")
	}
	return nil, gateway.ErrUnknownReference
}

func (c *Client) retrieve(ctx context.Context, id string) (*stripego.PaymentIntent, error) {
	intent, err := c.api.V1PaymentIntents.Retrieve(ctx, id, &stripego.PaymentIntentRetrieveParams{})
	if err := judge(err); err != nil {
		return nil, err
	}
	return intent, nil
}

// search returns the PaymentIntent with the reference in its metadata, nil if
// there is none.
func (c *Client) search(ctx context.Context, reference uuid.UUID) (*stripego.PaymentIntent, error) {
	params := &stripego.PaymentIntentSearchParams{}
	params.Query = fmt.Sprintf("metadata['%s']:'%s' AND metadata['%s']:'%s'", metaStore, c.opts.Store, metaReference, reference)
	var found *stripego.PaymentIntent
	for intent, err := range c.api.V1PaymentIntents.Search(ctx, params).All(ctx) {
		if err := judge(err); err != nil {
			return nil, err
		}
		if !c.ours(intent.Metadata) || intent.Metadata[metaReference] != reference.String() {
			continue
		}
		if found == nil || intent.Status == stripego.PaymentIntentStatusSucceeded {
			found = intent
		}
	}
	if found == nil {
		return nil, nil
	}
	return c.retrieve(ctx, found.ID) // the index may have an older state
}

// ours reports whether an object with this metadata is of this store.
func (c *Client) ours(metadata map[string]string) bool {
	return metadata[metaStore] == c.opts.Store.String()
}

func cancelable(p *stripego.PaymentIntent) bool {
	return p.Status != stripego.PaymentIntentStatusSucceeded && p.Status != stripego.PaymentIntentStatusCanceled
}

// cancel cancels a PaymentIntent and returns its state, also if that was too late.
func (c *Client) cancel(ctx context.Context, reference uuid.UUID, id string) (*stripego.PaymentIntent, error) {
	params := &stripego.PaymentIntentCancelParams{}
	params.SetIdempotencyKey(reference.String() + "-cancel")
	intent, err := c.api.V1PaymentIntents.Cancel(ctx, id, params)
	err = judge(err)
	var rejected *gateway.Rejected
	if errors.As(err, &rejected) {
		// Too late, or not possible while it is processing: what is its state?
		if now, findErr := c.retrieve(ctx, id); findErr == nil && !cancelable(now) {
			return now, nil
		}
	}
	if err != nil {
		return nil, err
	}
	return intent, nil
}

// payment returns the state of a PaymentIntent.
func (c *Client) payment(intent *stripego.PaymentIntent) gateway.Payment {
	p := gateway.Payment{ID: gateway.ID(intent.ID), Status: gateway.Pending}
	switch intent.Status {
	case stripego.PaymentIntentStatusRequiresPaymentMethod, stripego.PaymentIntentStatusRequiresConfirmation, stripego.PaymentIntentStatusRequiresAction:
		p.Status = gateway.RequiresAction
		if intent.ClientSecret != "" {
			p.NextAction = &gateway.NextAction{Type: gateway.ClientSecret, ClientSecret: intent.ClientSecret, PublishableKey: c.opts.PublishableKey}
		}
	case stripego.PaymentIntentStatusSucceeded:
		p.Status, p.Paid = gateway.Succeeded, paid(intent.AmountReceived, string(intent.Currency))
	case stripego.PaymentIntentStatusCanceled:
		p.Status, p.FailureReason = gateway.Canceled, "CANCELED"
	}
	return p
}

// Refund implements gateway.Gateway.
func (c *Client) Refund(ctx context.Context, r gateway.RefundRequest) (gateway.Refund, error) {
	var refund gateway.Refund
	err := c.calls.Do(ctx, gateway.CallRefund, func(ctx context.Context) error {
		amount, err := minor(r.Amount)
		if err != nil {
			return err
		}
		if r.GatewayPaymentID == "" {
			return errors.New("the PaymentIntent's id is required")
		}
		params := &stripego.RefundCreateParams{
			PaymentIntent: &r.GatewayPaymentID, Amount: &amount,
			Metadata: map[string]string{metaStore: c.opts.Store.String(), metaReference: r.Reference.String(), metaRefund: r.RefundID.String()},
		}
		params.SetIdempotencyKey(r.RefundID.String())
		created, err := c.api.V1Refunds.Create(ctx, params)
		if err := judge(err); err != nil {
			return err
		}
		refund = refundState(created)
		return nil
	})
	return refund, wrap(gateway.CallRefund, r.RefundID, err)
}

// FindRefund implements gateway.Gateway.
func (c *Client) FindRefund(ctx context.Context, r gateway.RefundRequest) (gateway.Refund, error) {
	var refund gateway.Refund
	err := c.calls.Do(ctx, gateway.CallFindRefund, func(ctx context.Context) error {
		found, err := c.findRefund(ctx, r)
		if err != nil {
			return err
		}
		refund = refundState(found)
		return nil
	})
	return refund, wrap(gateway.CallFindRefund, r.RefundID, err)
}

func (c *Client) findRefund(ctx context.Context, r gateway.RefundRequest) (*stripego.Refund, error) {
	if r.GatewayRefundID != "" {
		found, err := c.api.V1Refunds.Retrieve(ctx, r.GatewayRefundID, &stripego.RefundRetrieveParams{})
		if err := judge(err); err != nil {
			return nil, err
		}
		return found, nil
	}
	if r.GatewayPaymentID == "" {
		return nil, gateway.ErrUnknownReference // it cannot have been posted
	}
	params := &stripego.RefundListParams{PaymentIntent: &r.GatewayPaymentID}
	params.Limit = stripego.Int64(100)
	for found, err := range c.api.V1Refunds.List(ctx, params).All(ctx) {
		if err := judge(err); err != nil {
			return nil, err
		}
		if c.ours(found.Metadata) && found.Metadata[metaRefund] == r.RefundID.String() {
			return found, nil
		}
	}
	return nil, gateway.ErrUnknownReference
}

func refundState(r *stripego.Refund) gateway.Refund {
	f := gateway.Refund{ID: gateway.ID(r.ID), Status: gateway.RefundPending}
	switch r.Status {
	case stripego.RefundStatusSucceeded:
		f.Status = gateway.RefundSucceeded
	case stripego.RefundStatusFailed:
		f.Status, f.FailureReason = gateway.RefundFailed, gateway.Code(string(r.FailureReason))
	case stripego.RefundStatusCanceled:
		f.Status, f.FailureReason = gateway.RefundFailed, "CANCELED"
	}
	return f
}

// judge turns an error of the library into one of the port, without its text.
func judge(err error) error {
	var e *stripego.Error
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &e):
		return gateway.WithoutURL(err)
	}
	what := fmt.Errorf("stripe: response %d, type %s, code %s, request %s",
		e.HTTPStatusCode, gateway.Code(string(e.Type)), gateway.Code(string(e.Code)), gateway.ID(e.RequestID))
	switch {
	case e.HTTPStatusCode == http.StatusUnauthorized || e.HTTPStatusCode == http.StatusForbidden:
		return fmt.Errorf("%w: %w", gateway.ErrCredentials, what)
	case e.HTTPStatusCode == http.StatusNotFound && e.Code == stripego.ErrorCodeResourceMissing:
		return gateway.ErrUnknownReference
	case e.HTTPStatusCode == http.StatusPaymentRequired,
		e.HTTPStatusCode == http.StatusBadRequest && e.Type == stripego.ErrorTypeInvalidRequest:
		return rejection(e)
	}
	return what
}

// rejection: a request that Stripe has read and refused. A 400 with
// idempotency_error is none: it says that the key was used before.
func rejection(e *stripego.Error) *gateway.Rejected {
	r := &gateway.Rejected{Reason: gateway.Code(string(e.Code)), HTTPStatus: e.HTTPStatusCode}
	switch {
	case e.Code == stripego.ErrorCodeChargeAlreadyRefunded:
		r.Reason = gateway.ReasonAlreadyRefunded
	case e.Code == "" && e.DeclineCode != "":
		r.Reason = gateway.Code(string(e.DeclineCode))
	case e.Code == "":
		r.Reason = "INVALID_REQUEST"
	}
	return r
}

func wrap(call gateway.Call, id uuid.UUID, err error) error {
	if err != nil {
		return fmt.Errorf("%s %s: %w", call, id, err)
	}
	return nil
}
