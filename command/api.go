package command

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/gatestore"
	"github.com/dopaminestore/dopamine/command/grants"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/apimodel"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/consistency"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/httpapi"
)

//go:embed openapi.yaml
var openAPI []byte

// Config configures the command API. The API closes none of its fields.
type Config struct {
	Addr        string            // host:port to listen on; port 0 selects a free one
	Pool        *pgxpool.Pool     // the write side's database
	Probe       *pgxpool.Pool     // the same database, over connections that no request uses, for the readiness; nil: Pool
	Store       *eventstore.Store // the writer
	Reader      *eventstore.Reader
	Claims      *claims.Store     //
	GateStore   *gatestore.Store  //
	Gate        Gate              // *redis.Gate
	Payments    *payments.Service //
	Verifier    *auth.Verifier    // of bearer tokens
	AppendQueue int               // size of the store's queue
	SlotTTL     time.Duration     // life of a slot, 1 ms or more
	SlotWarning time.Duration     // how long before its deadline to warn; none if it is not below SlotTTL
	// WebhookSecrets verify the signatures of the payment gateway's callbacks,
	// whsec_ and base64; several during a rotation.
	WebhookSecrets []string
	// Stripe parses Stripe's webhooks, if Stripe is the payment gateway: the route
	// /v1/webhooks/stripe replaces /v1/webhooks/payment, and
	// WebhookSecrets are not used. nil: the gateway implements the HTTP contract.
	Stripe gateway.WebhookParser
	httpapi.Limits
	CORSOrigins   []string // none: no other origin may call the API
	HideMetrics   bool     // serve no /metrics; Ops does
	ReturnOrigins []string // allowed origins of a payment's return URL; none: only loopback addresses
	// Checks are components of /health/ready in addition to the database and Redis.
	Checks   []httpapi.Check
	Registry *prometheus.Registry
	Tracer   trace.Tracer     // nil: no spans for requests
	Logger   *slog.Logger     // nil: slog.Default()
	Now      func() time.Time // nil: time.Now
}

func (c *Config) validate() error {
	switch {
	case c.Pool == nil, c.Store == nil, c.Reader == nil, c.Claims == nil, c.GateStore == nil, c.Gate == nil,
		c.Payments == nil, c.Verifier == nil, c.Registry == nil:
		return errors.New("command API: pool, store, reader, claims, gate store, gate, payments, verifier and registry are required")
	case len(c.WebhookSecrets) == 0 && c.Stripe == nil:
		return errors.New("command API: no webhook secret; give one or more")
	case c.AppendQueue < 1:
		return fmt.Errorf("command API: append queue %d: must be 1 or more", c.AppendQueue)
	case c.SlotTTL < time.Millisecond:
		return fmt.Errorf("command API: slot TTL %s: must be 1ms or more", c.SlotTTL)
	case c.SlotWarning < 0:
		return fmt.Errorf("command API: slot warning %s: must be 0 or more", c.SlotWarning)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

// API is the command API.
type API struct {
	server   *httpapi.Server
	commands commands
	webhooks gateway.WebhookParser
	reader   *eventstore.Reader
	origins  []string
	now      func() time.Time
}

// New creates the command API.
func New(c Config) (*API, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	webhooks, webhookPath := c.Stripe, "/v1/webhooks/stripe"
	if webhooks == nil {
		var err error
		if webhooks, err = gateway.NewWebhooks(c.WebhookSecrets); err != nil {
			return nil, fmt.Errorf("command API: %w", err)
		}
		webhookPath = "/v1/webhooks/payment"
	}
	m := newMetrics(c.Registry)
	s := &services{
		store: c.Store, gate: c.Gate, claims: c.Claims, counter: c.GateStore, payments: c.Payments,
		grants: &grants.Grants{
			Gate: c.Gate, Claims: c.Claims, SlotTTL: c.SlotTTL, SlotWarning: c.SlotWarning, Logger: c.Logger,
			Corrected: func(reason string) { m.again.WithLabelValues(reason).Inc() },
		},
		catalogue: newCatalogue(func(ctx context.Context, product uuid.UUID, after int) ([]domain.Envelope, error) {
			return avsc.ReadStream(ctx, c.Reader, product, after)
		}), admission: newAdmission(c.AppendQueue, c.Gate),
		metrics: m, log: c.Logger, now: c.Now,
	}
	a := &API{
		commands: newCommands(s), webhooks: webhooks, origins: c.ReturnOrigins, reader: c.Reader, now: c.Now,
	}
	a.server = httpapi.New(httpapi.Options{
		Addr: c.Addr, Verifier: c.Verifier, Limits: c.Limits, CORSOrigins: c.CORSOrigins, HideMetrics: c.HideMetrics,
		OpenAPI: openAPI, Registry: c.Registry, Tracer: c.Tracer, Logger: c.Logger, Now: c.Now,
		Checks: append([]httpapi.Check{
			{Name: "database", Required: true, Probe: httpapi.PingCheck(cmp.Or(c.Probe, c.Pool).Ping)},
			{Name: "redis", Required: true, Probe: httpapi.PartsCheck(c.Gate.Health)},
		}, c.Checks...),
	})
	admin, buyer := httpapi.Role(auth.Admin), httpapi.Role(auth.Buyer)
	a.server.Handle(
		httpapi.Route{Method: http.MethodPost, Path: "/v1/products", Access: admin, Body: httpapi.JSONBody, Handler: a.postProduct},
		httpapi.Route{Method: http.MethodPut, Path: "/v1/products/:id", Access: admin, Body: httpapi.JSONBody, Handler: a.putProduct},
		httpapi.Route{Method: http.MethodDelete, Path: "/v1/products/:id", Access: admin, Handler: a.deleteProduct},
		httpapi.Route{Method: http.MethodPost, Path: "/v1/slots/acquire", Access: buyer, Body: httpapi.JSONBody, Handler: a.postAcquire},
		httpapi.Route{Method: http.MethodDelete, Path: "/v1/slots/:id", Access: httpapi.Role(auth.Buyer | auth.Admin), Handler: a.deleteSlot},
		httpapi.Route{Method: http.MethodPost, Path: "/v1/payments", Access: buyer, Body: httpapi.JSONBody, Handler: a.postPayment},
		httpapi.Route{Method: http.MethodPost, Path: "/v1/products/:id/cancel", Access: admin, Handler: a.postCancelSale},
		httpapi.Route{Method: http.MethodDelete, Path: "/v1/payments/:id", Access: httpapi.Role(auth.Buyer | auth.Admin), Handler: a.deletePayment},
		httpapi.Route{Method: http.MethodPost, Path: "/v1/payments/:id/refunds", Access: admin, Body: httpapi.JSONBody, Handler: a.postRefund},
		httpapi.Route{Method: http.MethodPost, Path: "/v1/payments/:id/resolution", Access: admin, Body: httpapi.JSONBody, Handler: a.postResolution},
		httpapi.Route{Method: http.MethodPost, Path: webhookPath, Access: httpapi.Open, Body: httpapi.RawBody, Handler: a.postCallback},
	)
	return a, nil
}

// Handler returns the API without its listener.
func (a *API) Handler() http.Handler { return a.server }

// Listen binds the address, for callers that need the port before Run.
func (a *API) Listen() error { return a.server.Listen() }

// Addr returns the listening address; nil before Listen or Ready.
func (a *API) Addr() net.Addr { return a.server.Addr() }

// Ready is closed when the server accepts requests.
func (a *API) Ready() <-chan struct{} { return a.server.Ready() }

// Run serves until ctx ends, finishes the accepted requests, and returns.
func (a *API) Run(ctx context.Context) error {
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	var follower sync.WaitGroup
	follower.Go(func() {
		defer guard.Log("follow the incarnation")
		consistency.Follow(following, func(ctx context.Context) (int64, error) {
			id, err := a.reader.Identity(ctx)
			return id.Incarnation, err
		})
	})
	defer follower.Wait()
	defer stop()
	return a.server.Run(ctx)
}

// Ops returns the server of health and metrics on a separate address.
func (a *API) Ops(addr string) *httpapi.Server { return a.server.Ops(addr) }

func (a *API) postProduct(c echo.Context) error {
	cmd, err := decode(c, createProductRequest.command)
	if err != nil {
		return err
	}
	r, err := execute(c, a.commands.createProduct, cmd)
	return answerProduct(c, http.StatusCreated, "/v1/products/", r.view.ID, r, err)
}

func (a *API) putProduct(c echo.Context) error {
	id, err := httpapi.PathUUID(c, "id")
	if err != nil {
		return err
	}
	change, err := decode(c, updateProductRequest.command)
	if err != nil {
		return err
	}
	r, err := execute(c, a.commands.updateProduct, updateProduct{id, change, httpapi.IfMatchOf(c)})
	return answerProduct(c, http.StatusOK, "", id, r, err)
}

func (a *API) deleteProduct(c echo.Context) error { return handleByID(c, a.commands.deleteProduct) }

func (a *API) deleteSlot(c echo.Context) error { return handleByID(c, a.commands.releaseSlot) }

// acquireRequest is the body of POST /v1/slots/acquire.
type acquireRequest struct {
	ProductID httpapi.Optional[httpapi.UUID] `json:"productId"`
}

func (a *API) postAcquire(c echo.Context) error {
	var body acquireRequest
	if err := httpapi.DecodeJSON(c, &body); err != nil {
		return err
	}
	if !body.ProductID.Given() {
		return errNoProductID
	}
	key, err := httpapi.IdempotencyKey(c)
	if err != nil {
		return err
	}
	r, err := execute(c, a.commands.acquireSlot, acquireSlot{body.ProductID.Value.UUID, key})
	return answer(c, http.StatusCreated, "/v1/slots/", r.view.ID, r, err)
}

func (a *API) postPayment(c echo.Context) error {
	cmd, err := decode(c, func(body startPaymentRequest) (payments.Start, error) { return body.command(a.origins) })
	if err != nil {
		return err
	}
	r, err := execute(c, a.commands.startPayment, cmd)
	return answer(c, http.StatusCreated, "/v1/payments/", r.view.ID, r, err)
}

// decode returns the command that a request's body B describes.
func decode[B, C any](c echo.Context, command func(body B) (C, error)) (cmd C, err error) {
	var body B
	if err := httpapi.DecodeJSON(c, &body); err != nil {
		return cmd, err
	}
	return command(body)
}

// handleByID executes a command that needs only an id and returns no body.
func handleByID(c echo.Context, h handler[uuid.UUID, commandResult[nothing]]) error {
	id, err := httpapi.PathUUID(c, "id")
	if err != nil {
		return err
	}
	r, err := execute(c, h, id)
	if err != nil {
		return refused(c, err)
	}
	httpapi.SetPosition(c, r.product, r.position)
	return c.NoContent(http.StatusNoContent)
}

// answer writes the result of a command. location is the query API's path before the
// id, "" for no header.
func answer[V any](c echo.Context, status int, location string, id uuid.UUID, r commandResult[V], err error) error {
	if err != nil {
		return refused(c, err)
	}
	setResult(c, location, id, r)
	return httpapi.JSON(c, status, r.view)
}

// answerProduct is like answer for a product, which has an ETag.
func answerProduct(c echo.Context, status int, location string, id uuid.UUID, r commandResult[apimodel.Product], err error) error {
	if err != nil {
		return refused(c, err)
	}
	setResult(c, location, id, r)
	return httpapi.TaggedJSON(c, status, r.view, r.view.Version())
}

func setResult[V any](c echo.Context, location string, id uuid.UUID, r commandResult[V]) {
	httpapi.SetPosition(c, r.product, r.position)
	if location != "" {
		c.Response().Header().Set("Location", location+id.String())
	}
}

// refused adds the position of its reason to a refusal.
func refused(c echo.Context, err error) error {
	var p *positioned
	if errors.As(err, &p) {
		httpapi.SetPosition(c, p.product, p.position)
	}
	return err
}

// caller returns the user of the request; every route here needs a role.
func caller(c echo.Context) auth.Identity {
	id, _ := httpapi.IdentityOf(c)
	return id
}
