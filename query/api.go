package query

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/semaphore"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/consistency"
	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/query/cache"
	"github.com/dopaminestore/dopamine/query/decisionlog"
	"github.com/dopaminestore/dopamine/query/readmodel"
	"github.com/dopaminestore/dopamine/query/streams"
	"github.com/dopaminestore/dopamine/query/timetravel"
)

// openAPI describes the routes; tests check the routes and the responses against it.
//
//go:embed openapi.yaml
var openAPI []byte

const (
	// listTTL is how long a product list is served from the cache.
	listTTL = time.Second
	// listEntries is the maximum number of cached lists (statuses, pages and sizes).
	listEntries = 1000
	// listConcurrency is the maximum number of concurrent reads of lists.
	listConcurrency = 4
)

// Config configures the query API.
type Config struct {
	// Server configures the HTTP server. OpenAPI is filled in, and the check of the database is
	// added to Checks, which may have others.
	Server httpapi.Options
	// ReadPool is the database of the projections. Required. Its connections should have a
	// connect_timeout of one or two seconds.
	ReadPool *pgxpool.Pool
	// WritePool is the database of the event store and the decision logs. If it is nil, time travel
	// and fairness respond 503.
	WritePool *pgxpool.Pool
	// ReadProbe and WriteProbe lead to the same databases over connections that no request uses, so
	// that the readiness does not wait for requests. Default: ReadPool and WritePool.
	ReadProbe, WriteProbe *pgxpool.Pool
	// Topic is the topic that the projections are built from. Default: kafka.Topic.
	Topic string
	// Drop serves an example of a buyer's page. If it is nil, the page is not served.
	Drop *Drop
}

// API is the query API. Create it with New and call Run once.
type API struct {
	server  *httpapi.Server
	models  *readmodel.Reader
	write   *pgxpool.Pool // nil if the write side cannot be read
	past    *timetravel.Reader
	logs    *decisionlog.Reader
	streams *streams.Publisher
	assets  map[string]asset // of the dashboard
	drop    *Drop

	// lists caches the product lists, which are the same for all clients.
	lists      *cache.Cache[httpapi.Tagged]
	slotCounts largeCounts // of my-slots
}

// New returns the API. It does not need the database yet.
func New(cfg Config) (*API, error) {
	if cfg.ReadPool == nil {
		return nil, errors.New("the query API needs a pool of connections to the projections' database")
	}
	cfg.Server.OpenAPI = openAPI
	cfg.Server.Checks = append([]httpapi.Check{{
		Name: "database", Required: true, Probe: probeDatabases(cmp.Or(cfg.ReadProbe, cfg.ReadPool), cmp.Or(cfg.WriteProbe, cfg.WritePool)),
	}}, cfg.Server.Checks...)
	assets, err := readAssets()
	if err != nil {
		return nil, err
	}
	log := cfg.Server.Logger
	if log == nil {
		log = slog.Default()
	}
	a := &API{
		server: httpapi.New(cfg.Server),
		models: readmodel.New(cfg.ReadPool, cfg.WritePool, cmp.Or(cfg.Topic, kafka.Topic)),
		write:  cfg.WritePool,
		past:   timetravel.New(cfg.WritePool),
		logs:   decisionlog.New(cfg.WritePool),
		assets: assets,
		lists:  cache.New[httpapi.Tagged](listTTL, listEntries, semaphore.NewWeighted(listConcurrency), readmodel.Timeout, readmodel.Timeout),
		drop:   cfg.Drop,
	}
	a.streams = streams.New(a.models, cfg.WritePool, cfg.Server.Registry, log)
	owner := httpapi.Role(auth.Buyer | auth.Admin)
	a.server.Handle(
		httpapi.Route{Method: http.MethodGet, Path: "/v1/products", Access: httpapi.Public, Handler: a.listProducts},
		httpapi.Route{Method: http.MethodGet, Path: "/v1/products/:id", Access: httpapi.Public, Handler: a.getProduct},
		httpapi.Route{Method: http.MethodGet, Path: "/v1/products/:id/fairness", Access: httpapi.Public, Handler: a.logs.GetReport},
		httpapi.Route{Method: http.MethodGet, Path: "/v1/products/:id/fairness/log", Access: httpapi.Public, Handler: a.logs.GetLog},
		httpapi.Route{Method: http.MethodGet, Path: "/v1/slots/my-slots", Access: httpapi.Role(auth.Buyer), Handler: a.mySlots},
		httpapi.Route{Method: http.MethodGet, Path: "/v1/slots/:id", Access: owner, Handler: a.getSlot},
		httpapi.Route{Method: http.MethodGet, Path: "/v1/payments/:id", Access: owner, Handler: a.getPayment},
		httpapi.Route{Method: http.MethodGet, Path: "/v1/payments/:id/refunds", Access: owner, Handler: a.listRefunds},
		httpapi.Route{Method: http.MethodGet, Path: "/v1/operations/money", Access: httpapi.Role(auth.Admin), Handler: a.listMoney},
		httpapi.Route{Method: http.MethodGet, Path: "/v1/purchases", Access: owner, Handler: a.listPurchases},
		httpapi.Route{Method: http.MethodGet, Path: "/v1/audit", Access: httpapi.Role(auth.Admin), Handler: a.listAudit},
		httpapi.Route{Method: http.MethodGet, Path: "/", Access: httpapi.Public, Handler: a.dashboard},
		httpapi.Route{Method: http.MethodGet, Path: "/assets/:file", Access: httpapi.Public, Handler: a.dashboard},
		httpapi.Route{Method: http.MethodGet, Path: "/v1/products/:id/stream", Access: httpapi.Public, Endless: true, Handler: a.streams.Product},
		httpapi.Route{Method: http.MethodGet, Path: "/v1/slots/my-slots/stream", Access: httpapi.Role(auth.Buyer), Endless: true, Handler: a.streams.MySlots},
		httpapi.Route{Method: http.MethodGet, Path: "/v1/stats/stream", Access: httpapi.Role(auth.Admin), Endless: true, Handler: a.streams.Stats},
		httpapi.Route{Method: http.MethodGet, Path: "/dashboard/stream", Access: httpapi.Role(auth.Admin), Endless: true, Handler: a.streams.Operations},
	)
	if a.drop != nil {
		a.server.Handle(a.dropRoutes()...)
	}
	return a, nil
}

// Run serves until ctx ends; see httpapi.Server. The publishers of the streams stop after the
// streams.
func (a *API) Run(ctx context.Context) error {
	reading, stop := context.WithCancel(context.WithoutCancel(ctx))
	var readers sync.WaitGroup
	readers.Go(func() {
		defer guard.Log("publish streams")
		a.streams.Run(reading)
	})
	readers.Go(func() {
		defer guard.Log("sample rates")
		consistency.Follow(reading, a.models.Incarnation)
	})
	defer readers.Wait()
	defer stop()
	return a.server.Run(ctx)
}

// Handler returns the API without its listener.
func (a *API) Handler() http.Handler { return a.server }

// Listen binds the address before Run, so that the port is known.
func (a *API) Listen() error { return a.server.Listen() }

// Addr returns the address of the listener, nil before Listen or Ready.
func (a *API) Addr() net.Addr { return a.server.Addr() }

// Ready returns a channel that is closed when the server accepts requests.
func (a *API) Ready() <-chan struct{} { return a.server.Ready() }

// Ops returns the server of health and metrics on a separate address.
func (a *API) Ops(addr string) *httpapi.Server { return a.server.Ops(addr) }

// Routes returns the served routes, with paths in OpenAPI's form.
func (a *API) Routes() []httpapi.RouteInfo { return a.server.Routes() }

// probeDatabases reports DOWN if the projections cannot be read, and DEGRADED if only the write
// side cannot.
func probeDatabases(read, write *pgxpool.Pool) func(context.Context) httpapi.ComponentHealth {
	return func(ctx context.Context) httpapi.ComponentHealth {
		wrote := make(chan error, 1)
		go func() {
			defer guard.Log("run the query API")
			if write == nil {
				wrote <- nil
				return
			}
			wrote <- write.Ping(ctx)
		}()
		readErr, writeErr := read.Ping(ctx), <-wrote
		switch {
		case readErr != nil:
			return httpapi.ComponentHealth{Status: httpapi.Down, Details: []string{"the read side's database does not respond"}}
		case writeErr != nil:
			return httpapi.ComponentHealth{Status: httpapi.Degraded, Details: []string{"the write side's database does not respond"}}
		}
		return httpapi.ComponentHealth{Status: httpapi.Up}
	}
}
