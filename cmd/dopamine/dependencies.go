package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/gatestore"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/internal/gateway/stripe"
	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/postgres"
	"github.com/dopaminestore/dopamine/internal/presence"
	"github.com/dopaminestore/dopamine/internal/telemetry"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/redis/topology"
)

// connectTimeout bounds the opening of a connection to Postgres: an unavailable database is noticed
// within seconds, not after TCP has given up.
const connectTimeout = 2 * time.Second

// lazyTimeout bounds how long a process waits at startup for a database that it can work without.
const lazyTimeout = 5 * time.Second

// closeLeast is the minimum time for closing.
const closeLeast = 500 * time.Millisecond

// parts is what the roles of one process share. close closes everything in the reverse order of
// opening.
type parts struct {
	name    string
	log     *slog.Logger
	tracing *telemetry.Tracing
	closers []func(context.Context) error
	lazy    bool                      // open pools even if Postgres is unavailable: the process can work without it, or reports it
	drain   time.Duration             // of the APIs in this process
	startBy time.Time                 // until when await retries; zero: never
	stopAt  atomic.Pointer[time.Time] // when the process was asked to stop; nil: not yet

	writePool, readPool *pgxpool.Pool
	leasePool           *pgxpool.Pool // set by openPresence
	// Pools of one connection, reserved for health checks: those of a busy process must not wait for
	// the connections of requests. probe is the write side's, readProbe the read side's, which is the
	// same if both are one database.
	probe, readProbe *pgxpool.Pool
	// Whether the pools' connections go through a pooler in transaction mode.
	writePooled, readPooled bool
	// directPool uses server connections without a pooler, for session locks and LISTEN.
	directPool *pgxpool.Pool
	store      *eventstore.Store
	gate       *redis.Gate
	claims     *claims.Store
	gateStore  *gatestore.Store
	notifier   *eventstore.Notifier
	payments   *payments.Service
	presence   *presence.Presence   // nil: in no list
	stripe     *stripe.Client       // nil unless it is the payment gateway
	registry   *prometheus.Registry // for processes without an API
}

// observed are the settings that every long-lived command has.
var observed = []*config.Setting{config.LogFormat, config.LogLevel, config.OTLPEndpoint, config.StartupTimeout}

// newParts sets up logs and tracing.
func newParts(ctx context.Context, cmd *cli.Command, r *config.Reader, stderr io.Writer) (*parts, error) {
	format, level := r.Logging()
	endpoint := r.OTLPEndpoint()
	startup := r.Duration(config.StartupTimeout, 0)
	if err := r.Err(); err != nil {
		return nil, err
	}
	p := &parts{name: cmd.Name, startBy: time.Now().Add(startup), log: telemetry.NewLogger(stderr, format, level), registry: telemetry.NewRegistry()}
	slog.SetDefault(p.log)
	build := telemetry.ReadBuild()
	p.log.Info("starting", "process", p.name, "version", build.Version, "revision", build.Revision, "go", build.Go)
	context.AfterFunc(ctx, func() {
		now := time.Now()
		p.stopAt.Store(&now)
	})
	tracing, err := telemetry.StartTracing(ctx, "dopamine-"+cmd.Name, endpoint)
	if err != nil {
		return nil, fmt.Errorf("start tracing: %w", err)
	}
	p.tracing = tracing
	p.onClose(tracing.Stop)
	return p, nil
}

func (p *parts) onClose(f func(context.Context) error) { p.closers = append(p.closers, f) }

// close closes everything within the time that is left for stopping the process. Whatever takes
// longer ends with the process.
func (p *parts) close() {
	limit := shutdownLimitWith(p.drain)
	left := limit
	if requested := p.stopAt.Load(); requested != nil {
		left = max(closeLeast, time.Until(requested.Add(limit)))
	}
	ctx, cancel := context.WithTimeout(context.Background(), left)
	defer cancel()
	closed, closers := make(chan struct{}), p.closers
	p.closers = nil
	go func() {
		defer guard.Log("close what the process opened")
		defer close(closed)
		for _, f := range slices.Backward(closers) {
			if err := f(ctx); err != nil && !errors.Is(err, context.Canceled) {
				p.log.Warn("closing", "error", err)
			}
		}
	}()
	select {
	case <-closed:
	case <-ctx.Done():
		p.log.Warn("not everything was closed in time")
	}
}

// pool opens a connection pool suitable for the pooler in front of the database, if any; pooled
// reports a pooler in transaction mode.
func (p *parts) pool(ctx context.Context, url string, size config.Pool, prepare ...func(*pgxpool.Config)) (pool *pgxpool.Pool, pooled bool, err error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, false, fmt.Errorf("database URL: %w", err)
	}
	cfg.MinConns, cfg.MaxConns = int32(size.Kept), int32(size.Max)
	cfg.ConnConfig.ConnectTimeout = connectTimeout
	if cfg.ConnConfig.RuntimeParams["application_name"] == "" {
		cfg.ConnConfig.RuntimeParams["application_name"] = "dopamine " + p.name
	}
	if p.tracing.Enabled() {
		cfg.ConnConfig.Tracer = otelpgx.NewTracer(otelpgx.WithTracerProvider(telemetry.WithinTrace()))
	}
	var pooling postgres.Pooling
	detect := func(ctx context.Context) (err error) {
		pooling, err = postgres.Detect(ctx, cfg.ConnConfig)
		return err
	}
	if p.lazy {
		bounded, cancel := context.WithTimeout(ctx, lazyTimeout)
		err := detect(bounded)
		cancel()
		if err != nil {
			p.log.Warn("Postgres is unavailable, continuing without it", "error", err)
		}
	} else if err := p.await(ctx, "Postgres", detect); err != nil {
		return nil, false, fmt.Errorf("connect to Postgres: %w", err)
	}
	if pooling != postgres.Direct && !strings.Contains(url, "default_query_exec_mode") {
		p.log.Info("connection pooler found", "transaction_mode", pooling == postgres.Transaction)
		cfg.ConnConfig = postgres.PoolerConfig(cfg.ConnConfig)
	}
	for _, f := range prepare {
		f(cfg)
	}
	pool, err = postgres.Open(ctx, cfg)
	if err != nil {
		return nil, false, err
	}
	p.onClose(func(context.Context) error { pool.Close(); return nil })
	return pool, pooling == postgres.Transaction, nil
}

// directNeeded returns the error of a process whose session locks and LISTEN would silently break
// behind a pooler in transaction mode. s is the setting that would be right.
func directNeeded(s *config.Setting) error {
	return config.Usage(fmt.Sprintf("--%s (%s) is missing, and the database's address leads to a connection pooler in transaction mode, "+
		"which breaks session locks, LISTEN and migrations; give the address of the server itself: %s", s.Name, s.Variable(), s.Right))
}

// openDirect opens the pool for session locks and LISTEN: the write side's, or one to
// --database-direct-url. Call openWrite first.
func (p *parts) openDirect(ctx context.Context, r *config.Reader) error {
	pooled := p.writePooled
	p.directPool = p.writePool
	if url := r.DatabaseDirectURL(); url != r.DatabaseURL() {
		var err error
		if p.directPool, pooled, err = p.pool(ctx, url, config.Pool{Max: r.DatabasePool().Max}, postgres.CommitDurably); err != nil {
			return err
		}
	}
	if pooled {
		return directNeeded(config.DatabaseDirectURL)
	}
	return nil
}

// openWrite opens the write side's database and checks its schema.
func (p *parts) openWrite(ctx context.Context, url string, size config.Pool) (err error) {
	p.writePool, p.writePooled, err = p.pool(ctx, url, size, postgres.CommitDurably)
	if err != nil {
		return err
	}
	p.claims, p.gateStore = claims.NewStore(p.writePool), gatestore.NewStore(p.writePool, avsc.Decode)
	p.probe, err = p.openProbe(ctx, p.writePool, p.readProbe)
	return err
}

func (p *parts) openRead(ctx context.Context, url string, size config.Pool) (err error) {
	if p.readPool, p.readPooled, err = p.pool(ctx, url, size); err != nil {
		return err
	}
	p.readProbe, err = p.openProbe(ctx, p.readPool, p.probe)
	return err
}

// openProbe returns a pool of one connection to the database of pool: other, if that leads there.
func (p *parts) openProbe(ctx context.Context, pool, other *pgxpool.Pool) (*pgxpool.Pool, error) {
	cfg := pool.Config()
	if other != nil && other.Config().ConnString() == cfg.ConnString() {
		return other, nil
	}
	cfg.MinConns, cfg.MaxConns = 0, 1
	probe, err := postgres.Open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("for health checks: %w", err)
	}
	p.onClose(func(context.Context) error { probe.Close(); return nil })
	return probe, nil
}

// leaseConnections are reserved for the leases of gates, the heartbeats of rebuilds and of the
// process, which must not wait for anything else.
const leaseConnections = 3

// openPresence adds the process to the list of live ones. It is removed when everything opened
// later has been closed. Call openWrite first. works is set for a worker.
func (p *parts) openPresence(ctx context.Context, works bool) (err error) {
	cfg := p.writePool.Config()
	cfg.MinConns, cfg.MaxConns = 1, leaseConnections
	if p.leasePool, err = postgres.Open(ctx, cfg); err != nil {
		return fmt.Errorf("for leases: %w", err)
	}
	p.onClose(func(context.Context) error { p.leasePool.Close(); return nil })
	p.presence = presence.Join(ctx, p.leasePool, works, p.log)
	p.onClose(p.presence.Close)
	return nil
}

// openStore opens the appender. Call openWrite first.
func (p *parts) openStore(ctx context.Context, queue int) (err error) {
	opts := eventstore.Options{Queue: queue, Pooled: p.writePooled, Observe: observeBatches(p.registry)}
	err = p.await(ctx, "Postgres", func(ctx context.Context) (err error) {
		p.store, err = eventstore.Open(ctx, p.writePool, opts)
		return err
	})
	if err != nil {
		return fmt.Errorf("open the event store: %w", err)
	}
	p.onClose(p.store.Close)
	return nil
}

// openGate connects to Redis. Call openPresence first.
func (p *parts) openGate(ctx context.Context, server redisServer, size config.Pool) (err error) {
	opts := server.opts
	opts.Node, opts.Lanes, opts.LanesMax = p.presence.ID, size.Kept, size.Max
	opts.Observer, opts.Tracing = newGateMetrics(p.registry), p.tracing.Enabled()
	err = p.await(ctx, "Redis", func(ctx context.Context) (err error) {
		p.gate, err = redis.Open(ctx, server.urls, p.gateStore.WithLeasePool(p.leasePool), opts)
		return err
	})
	if errors.Is(err, topology.ErrAddress) { // for example if db 3 of a cluster's node is requested
		return config.Usage("--redis-url (DOPAMINE_REDIS_URL): " + err.Error())
	}
	if err != nil {
		return fmt.Errorf("open the gate: %w", err)
	}
	p.onClose(func(context.Context) error { return p.gate.Close() })
	return nil
}

// openPayments creates the payment service. Call openStore and openGate first.
func (p *parts) openPayments(ctx context.Context, s paymentSettings) error {
	client, err := p.openGateway(ctx, s.gateway)
	if err != nil {
		return err
	}
	p.payments, err = payments.New(payments.Config{
		Pool: p.writePool, Store: p.store, Reader: eventstore.NewReader(p.writePool), Claims: p.claims, Gate: p.gate,
		Gateway: client, CallbackURL: s.callbackURL, PaymentTimeout: s.timeout, SlotTTL: s.slotTTL, SlotWarning: s.slotWarning,
		Registry: p.registry, Logger: p.log,
	})
	if err != nil {
		return err
	}
	p.onClose(p.payments.Close)
	return nil
}

func (p *parts) openNotifier(ctx context.Context) {
	p.notifier = eventstore.Listen(context.WithoutCancel(ctx), p.directPool)
	p.onClose(func(context.Context) error { p.notifier.Close(); return nil })
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
