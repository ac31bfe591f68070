package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/command"
	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/internal/gateway/stripe"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/postgres"
	"github.com/dopaminestore/dopamine/internal/schemaregistry"
	"github.com/dopaminestore/dopamine/internal/telemetry"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/query"
	"github.com/dopaminestore/dopamine/relay"
	"github.com/dopaminestore/dopamine/worker"
)

// Settings, by purpose.
var (
	writeSide = []*config.Setting{config.DatabaseURL, config.DatabaseDirectURL, config.DatabasePool, config.DatabasePoolMax}
	readSide  = []*config.Setting{config.ReadDatabaseURL}
	redisSide = append(redisAddress, config.RedisPool, config.RedisPoolMax)
	// redisAddress is for processes that have no gate.
	redisAddress = []*config.Setting{config.RedisURL, config.RedisCA, config.RedisKeyPrefix}
	tokenSide    = []*config.Setting{config.JWTKey, config.JWKSURL, config.JWTIssuer, config.JWTAudience, config.JWTRolesClaim, config.JWTDefaultRoles}
	serverSide   = []*config.Setting{config.BuyerRate, config.AnonymousRate, config.TrustedProxies, config.MaxConnections,
		config.MaxConnectionsPerAddress, config.DrainDelay, config.CORSOrigins}
	queueSide = []*config.Setting{config.AppendQueue}
	// paymentSide are the settings for payments of the command API and the worker. The callback's
	// URL is derived from the command API's address.
	paymentSide = []*config.Setting{config.Gateway, config.GatewayURL, config.GatewayKey, config.StripeKey, config.StripePublishableKey, config.CallbackURL, config.CommandAddr, config.PaymentTimeout, config.SlotTTL, config.SlotWarning}
)

func settings(groups ...[]*config.Setting) []cli.Flag {
	var all []*config.Setting
	for _, g := range groups {
		all = append(all, g...)
	}
	return config.Flags(all...)
}

// role runs one long-lived process: build creates its services from the settings, and they are
// served until the context ends.
func role(build func(ctx context.Context, p *parts, r *config.Reader) ([]service, error)) cli.ActionFunc {
	return func(ctx context.Context, cmd *cli.Command) error {
		r := config.From(cmd)
		p, err := newParts(ctx, cmd, r, cmd.Root().ErrWriter)
		if err != nil {
			return err
		}
		defer p.close()
		services, err := build(ctx, p, r)
		if err != nil {
			return unlessStopped(ctx, err)
		}
		return serve(ctx, shutdownLimitWith(p.drain), func() { p.log.Info("ready", "process", cmd.Name) }, services)
	}
}

func commandAPICommand() *cli.Command {
	return &cli.Command{
		Name:  "command-api",
		Usage: "take commands: products, slots, payments, and the payment gateway's callbacks",
		Flags: settings([]*config.Setting{config.WebhookSecrets, config.ReturnOrigins}, writeSide, redisSide, kafkaSide, tokenSide, serverSide, queueSide, paymentSide, []*config.Setting{config.MetricsAddr}, observed),
		Action: role(func(ctx context.Context, p *parts, r *config.Reader) ([]service, error) {
			r.Require(config.DatabaseURL, config.RedisURL, config.WebhookSecrets)
			requireGateway(r)
			cfg := commandConfig(ctx, p, r)
			cfg.Checks = optionalChecks(p, redisServer{}, kafkaOf(r).cluster)
			if err := openCommandSide(ctx, p, r); err != nil {
				return nil, err
			}
			api, err := newCommandAPI(p, cfg)
			if err != nil {
				return nil, err
			}
			return apiServices(p, r, "command API", api), nil
		}),
	}
}

// verifierOf returns the verifier of tokens. Errors of the key are recorded in r.
func verifierOf(ctx context.Context, r *config.Reader) *auth.Verifier {
	cfg := r.Auth()
	if cfg.KeyFile == "" && cfg.JWKSURL == "" {
		return nil
	}
	v, err := auth.New(ctx, cfg)
	if err != nil {
		s := config.JWTKey
		if cfg.JWKSURL != "" {
			s = config.JWKSURL
		}
		r.Refuse(s, err.Error())
	}
	return v
}

// openCommandSide opens what commands and the worker need. It reads all
// settings first, so that one start names all that is wrong.
func openCommandSide(ctx context.Context, p *parts, r *config.Reader) error {
	url, size, server, lanes, queue := r.DatabaseURL(), r.DatabasePool(), redisOf(r), r.RedisPool(), 0
	paying := paymentSettingsOf(r)
	if r.Has(config.AppendQueue) { // the worker takes the store's default
		queue = r.AppendQueue()
	}
	if r.Has(config.MetricsAddr) {
		r.OptionalAddr(config.MetricsAddr)
	}
	if err := r.Err(); err != nil {
		return err
	}
	if err := p.await(ctx, "Postgres", func() error { return db.CheckWrite(ctx, url) }); err != nil {
		return err
	}
	if err := p.openWrite(ctx, url, size); err != nil {
		return err
	}
	if err := p.openPresence(ctx, p.name != "command-api"); err != nil {
		return err
	}
	if err := p.openStore(ctx, queue); err != nil {
		return err
	}
	if err := p.openGate(ctx, server, lanes); err != nil {
		return err
	}
	return p.openPayments(ctx, paying)
}

// commandConfig reads what the command API is set to; the parts it works with
// are filled in by newCommandAPI, once they are open.
func commandConfig(ctx context.Context, p *parts, r *config.Reader) command.Config {
	return command.Config{
		Addr:        r.Addr(config.CommandAddr),
		Verifier:    verifierOf(ctx, r),
		AppendQueue: r.AppendQueue(),
		SlotTTL:     r.SlotTTL(),
		SlotWarning: r.SlotWarning(),
		Limits:      limitsOf(p, r),
		CORSOrigins: r.CORSOrigins(),
		HideMetrics: r.Has(config.MetricsAddr) && r.OptionalAddr(config.MetricsAddr) != "",

		WebhookSecrets: r.WebhookSecrets(),
		ReturnOrigins:  r.ReturnOrigins(),

		Registry: p.registry,
		Tracer:   p.tracing.Tracer(),
		Logger:   p.log,
	}
}

// limitsOf reads the bounds of an API, and notes its drain delay for the process.
func limitsOf(p *parts, r *config.Reader) httpapi.Limits {
	limits := r.Limits()
	p.drain = limits.DrainDelay
	return limits
}

func newCommandAPI(p *parts, cfg command.Config) (*command.API, error) {
	cfg.Pool, cfg.Store, cfg.Reader = p.writePool, p.store, eventstore.NewReader(p.writePool)
	cfg.Claims, cfg.Gate, cfg.Payments = p.claims, p.gate, p.payments
	cfg.Checks = append(cfg.Checks, clockChecks(p.registry, p.writePool, p.gate)...)
	if p.stripe != nil {
		var err error
		if cfg.Stripe, err = stripe.NewWebhooks(p.stripe, cfg.WebhookSecrets); err != nil {
			return nil, err
		}
	}
	return command.New(cfg)
}

// apiServices returns an API and, if an address is given for them, its health and metrics.
func apiServices(p *parts, r *config.Reader, name string, api httpAPI) []service {
	services := []service{apiService(p, name, api)}
	if addr := r.OptionalAddr(config.MetricsAddr); addr != "" {
		ops := api.Ops(addr)
		services = append(services, service{name: "metrics", run: ops.Run, ready: ops.Ready()})
	}
	return services
}

// httpAPI is implemented by both APIs.
type httpAPI interface {
	Listen() error
	Addr() net.Addr
	Ready() <-chan struct{}
	Run(context.Context) error
	Ops(addr string) *httpapi.Server
}

func apiService(p *parts, name string, api httpAPI) service {
	return service{name: name, ready: api.Ready(), run: func(ctx context.Context) error {
		if err := api.Listen(); err != nil {
			return err
		}
		p.log.Info("listening", "api", name, "addr", api.Addr().String())
		return api.Run(ctx)
	}}
}

func queryAPICommand() *cli.Command {
	return &cli.Command{
		Name:  "query-api",
		Usage: "serve queries from the read models",
		Flags: settings([]*config.Setting{config.QueryAddr}, writeSide, readSide, redisAddress, kafkaSide, topicName, tokenSide, serverSide, []*config.Setting{config.MetricsAddr}, observed),
		Action: role(func(ctx context.Context, p *parts, r *config.Reader) ([]service, error) {
			if r.String(config.ReadDatabaseURL) == "" {
				r.Require(config.DatabaseURL)
			}
			write, read, size := r.DatabaseURL(), r.ReadDatabaseURL(), r.DatabasePool()
			cfg := queryServer(ctx, p, r)
			kafka := kafkaOf(r)
			cfg.Checks = optionalChecks(p, redisOf(r), kafka.cluster)
			if err := r.Err(); err != nil {
				return nil, err
			}
			if err := p.await(ctx, "Postgres", func() error { return db.CheckRead(ctx, read) }); err != nil {
				return nil, err
			}
			if err := p.openRead(ctx, read, size); err != nil {
				return nil, err
			}
			if write != "" { // without it, time travel and fairness respond 503
				p.lazy = true
				if err := p.openWrite(ctx, write, size); err != nil {
					return nil, err
				}
			}
			cfg.Checks = append(cfg.Checks, clockChecks(cfg.Registry, p.readPool, nil)...)
			api, err := query.New(query.Config{Server: cfg, ReadPool: p.readPool, WritePool: p.writePool, Topic: kafka.topic})
			if err != nil {
				return nil, err
			}
			return apiServices(p, r, "query API", api), nil
		}),
	}
}

// queryServer has a separate registry, because both APIs may be in one process.
func queryServer(ctx context.Context, p *parts, r *config.Reader) httpapi.Options {
	return httpapi.Options{
		Addr:        r.Addr(config.QueryAddr),
		Verifier:    verifierOf(ctx, r),
		Limits:      limitsOf(p, r),
		CORSOrigins: r.CORSOrigins(),
		HideMetrics: r.Has(config.MetricsAddr) && r.OptionalAddr(config.MetricsAddr) != "",
		Registry:    telemetry.NewRegistry(),
		Tracer:      p.tracing.Tracer(),
		Logger:      p.log,
	}
}

// opsService serves health and metrics of a process without an API, if an address is given for
// them.
func opsService(p *parts, r *config.Reader, checks ...httpapi.Check) []service {
	addr := r.OptionalAddr(config.MetricsAddr)
	if addr == "" {
		return nil
	}
	server := httpapi.New(httpapi.Options{Addr: addr, Registry: p.registry, Logger: p.log, Checks: checks})
	return []service{{name: "metrics", run: server.Run, ready: server.Ready()}}
}

func relayCommand() *cli.Command {
	return &cli.Command{
		Name:  "relay",
		Usage: "publish events from the event store to Kafka; one leads, others stand by",
		Flags: settings(writeSide, kafkaSide, topicName, schemaSide, topicSide, []*config.Setting{config.MetricsAddr}, observed),
		Action: role(func(ctx context.Context, p *parts, r *config.Reader) ([]service, error) {
			r.Require(config.DatabaseURL, config.KafkaBrokers)
			url, size, kafka := r.DatabaseURL(), r.DatabasePool(), kafkaOf(r)
			r.OptionalAddr(config.MetricsAddr)
			registry := registryOf(r)
			if err := r.Err(); err != nil {
				return nil, err
			}
			if err := p.await(ctx, "Postgres", func() error { return db.CheckWrite(ctx, url) }); err != nil {
				return nil, err
			}
			if err := p.openWrite(ctx, url, size); err != nil {
				return nil, err
			}
			if err := p.openDirect(ctx, r); err != nil {
				return nil, err
			}
			p.openNotifier(ctx)
			roomForGarbage()
			if err := checkTopic(ctx, p, kafka); err != nil {
				return nil, err
			}
			relay := newRelay(p, kafka, registry)
			checks := append(clockChecks(p.registry, p.writePool, nil), databaseCheck(p.writePool), required(kafkaCheck(p, kafka.cluster, relay.Health)))
			ops := opsService(p, r, checks...)
			return append(ops, service{name: "relay", run: relay.Run}), nil
		}),
	}
}

// decoderWith returns a decoder that reads values of both framings if there is a registry.
func decoderWith(registry *schemaregistry.Client) *avsc.Decoder {
	if registry == nil {
		return nil
	}
	return avsc.NewDecoder(registry)
}

// roomForGarbage makes the collector run less often, unless GOGC is set: a relay allocates much
// that is short-lived and keeps little, and publishes about a fifth more events this way.
func roomForGarbage() {
	const percent = 400
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

func newRelay(p *parts, k kafkaSettings, registry *schemaregistry.Client) *relay.Relay {
	cfg := relay.Config{
		Pool: p.writePool, Store: eventstore.NewReader(p.writePool), Notifier: p.notifier, Kafka: k.cluster, Topic: k.topic,
		TopicSettings: k.wanted, Registerer: p.registry, Logger: p.log,
	}
	if registry != nil {
		cfg.Registry = registry
	}
	return relay.New(cfg)
}

func projectorCommand() *cli.Command {
	return &cli.Command{
		Name:  "projector",
		Usage: "build the read models from Kafka",
		Flags: settings(writeSide, readSide, kafkaSide, topicName, groupName, topicSide, schemaSide, []*config.Setting{config.MetricsAddr}, observed),
		Action: role(func(ctx context.Context, p *parts, r *config.Reader) ([]service, error) {
			r.Require(config.DatabaseURL, config.KafkaBrokers)
			r.OptionalAddr(config.MetricsAddr)
			write, read, size, kafka := r.DatabaseURL(), r.ReadDatabaseURL(), r.DatabasePool(), kafkaOf(r)
			registry := registryOf(r)
			if err := r.Err(); err != nil {
				return nil, err
			}
			if err := p.await(ctx, "Postgres", func() error { return db.CheckRead(ctx, read) }); err != nil {
				return nil, err
			}
			if err := p.openWrite(ctx, write, size); err != nil {
				return nil, err
			}
			if err := p.openRead(ctx, read, size); err != nil {
				return nil, err
			}
			if err := checkTopic(ctx, p, kafka); err != nil {
				return nil, err
			}
			projector := newProjector(p, kafka, registry)
			checks := append(clockChecks(p.registry, p.readPool, nil), databaseCheck(p.readPool), required(kafkaCheck(p, kafka.cluster, projector.Health)))
			ops := opsService(p, r, checks...)
			return append(ops, service{name: "projector", run: projector.Run}), nil
		}),
	}
}

// readModels returns the projections that a projector maintains: all that can be replayed.
func readModels() []projections.Projection {
	var all []projections.Projection
	for _, p := range everyProjection() {
		all = append(all, p)
	}
	return all
}

func newProjector(p *parts, k kafkaSettings, registry *schemaregistry.Client) *projections.Runner {
	return projections.NewRunner(projections.Config{
		ReadPool: p.readPool, Store: eventstore.NewReader(p.writePool), Kafka: k.cluster, Topic: k.topic, Group: k.group,
		TopicSettings: k.wanted, Published: published(p.writePool, k.topic),
		Decoder: decoderWith(registry), Projections: readModels(), Registerer: p.registry, Logger: p.log,
	})
}

func workerCommand() *cli.Command {
	return &cli.Command{
		Name:  "worker",
		Usage: "run background jobs: slot expiry, warnings, gate sync, payment reconciliation, refunds",
		Flags: settings(writeSide, redisSide, paymentSide, []*config.Setting{config.MetricsAddr}, observed),
		Action: role(func(ctx context.Context, p *parts, r *config.Reader) ([]service, error) {
			r.Require(config.DatabaseURL, config.RedisURL)
			requireGateway(r)
			if err := openCommandSide(ctx, p, r); err != nil {
				return nil, err
			}
			if err := p.openDirect(ctx, r); err != nil {
				return nil, err
			}
			p.openNotifier(ctx)
			checks := append(clockChecks(p.registry, p.writePool, p.gate), databaseCheck(p.writePool), gateCheck(p.gate))
			ops := opsService(p, r, checks...)
			return append(ops, workerService(p)), nil
		}),
	}
}

func workerService(p *parts) service {
	w := worker.New(worker.Config{
		Gate: p.gate, Claims: p.claims, Store: p.store, Reader: eventstore.NewReader(p.writePool), Notifier: p.notifier, Payments: p.payments,
		Presence: p.presence, Registerer: p.registry, Logger: p.log,
	})
	return service{name: "worker", run: w.Run}
}

func migrateCommand() *cli.Command {
	return &cli.Command{
		Name:  "migrate",
		Usage: "create or update the schemas of the write side and the read side",
		Flags: append(settings([]*config.Setting{config.DatabaseURL, config.DatabaseDirectURL}, readSide, observed),
			&cli.BoolFlag{Name: "create-database", Usage: "create the databases that the URLs name if they do not exist"}),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			r := config.From(cmd)
			r.Require(config.DatabaseURL)
			write, read := r.DatabaseDirectURL(), directReadURL(r)
			p, err := newParts(ctx, cmd, r, cmd.Root().ErrWriter)
			if err != nil {
				return err
			}
			defer p.close()
			if cmd.Bool("create-database") {
				if err := createDatabases(ctx, write, read); err != nil {
					return err
				}
			}
			if err := requireDirect(ctx, r, write, read); err != nil {
				return err
			}
			err = migrate(ctx, write, read)
			if errors.Is(err, db.ErrNoDatabase) {
				return fmt.Errorf("%w, or use --create-database to create it", err)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.Root().Writer, "both schemas are up to date")
			return err
		},
	}
}

// directReadURL returns the read side's Postgres for uses that need server connections without a
// pooler.
func directReadURL(r *config.Reader) string {
	if r.String(config.ReadDatabaseURL) != "" {
		return r.ReadDatabaseURL()
	}
	return r.DatabaseDirectURL()
}

// readDirectSetting returns the setting for a direct address of the read side.
func readDirectSetting(r *config.Reader) *config.Setting {
	if r.String(config.ReadDatabaseURL) != "" {
		return config.ReadDatabaseURL
	}
	return config.DatabaseDirectURL
}

// requireDirect refuses a write side or a read side behind a pooler in transaction mode. A database
// that does not exist yet is not checked.
func requireDirect(ctx context.Context, r *config.Reader, write, read string) error {
	for url, s := range map[string]*config.Setting{write: config.DatabaseDirectURL, read: readDirectSetting(r)} {
		cfg, err := pgxpool.ParseConfig(url)
		if err != nil {
			return fmt.Errorf("database URL: %w", err)
		}
		cfg.ConnConfig.ConnectTimeout = connectTimeout
		if pooling, err := postgres.Detect(ctx, cfg.ConnConfig); err == nil && pooling == postgres.Transaction {
			return directNeeded(s)
		}
	}
	return nil
}

func createDatabases(ctx context.Context, urls ...string) error {
	for _, url := range urls {
		if err := db.CreateDatabase(ctx, url); err != nil {
			return err
		}
	}
	return nil
}

func migrate(ctx context.Context, write, read string) error {
	if err := db.MigrateWrite(ctx, write); err != nil {
		return err
	}
	return db.MigrateRead(ctx, read)
}
