package main

import (
	"cmp"
	"context"
	"errors"
	"net"

	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/command"
	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/internal/gateway/stripe"
	"github.com/dopaminestore/dopamine/internal/httpapi"
)

func commandAPICommand() *cli.Command {
	return &cli.Command{
		Name:  "command-api",
		Usage: "take commands: products, slots, payments, and the payment gateway's callbacks",
		Flags: settings([]*config.Setting{config.WebhookSecrets, config.ReturnOrigins}, writeSide, redisSide, kafkaSide, tokenSide, serverSide, queueSide, paymentSide, []*config.Setting{config.MetricsAddr}, observed),
		Action: untilStopped(func(ctx context.Context, p *parts, r *config.Reader) ([]service, error) {
			r.Require(config.DatabaseURL, config.RedisURL, config.WebhookSecrets)
			requireGateway(r)
			cfg := commandConfig(ctx, p, r)
			cfg.Checks = optionalChecks(p, redisServer{}, kafkaOf(r).cluster, nil)
			if err := openCommandSide(ctx, p, r); err != nil {
				return nil, err
			}
			var err error
			if cfg.Verifier, err = p.openVerifier(ctx, r, cfg.Verifier); err != nil {
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

// verifierOf returns the verifier of tokens with a key file; nil with a key set, which openVerifier
// fetches. Errors of the settings and of the file are recorded in r.
func verifierOf(ctx context.Context, r *config.Reader) *auth.Verifier {
	cfg := r.Auth()
	if cfg.KeyFile == "" {
		return nil
	}
	v, err := auth.New(ctx, cfg)
	if err != nil {
		r.Refuse(config.JWTKey, err.Error())
	}
	return v
}

// openVerifier returns v or, if that is nil, the verifier with the key set, and waits for the
// identity provider as await does. Call it after r.Err.
func (p *parts) openVerifier(ctx context.Context, r *config.Reader, v *auth.Verifier) (*auth.Verifier, error) {
	if v != nil {
		return v, nil
	}
	err := p.await(ctx, "identity provider (--"+config.JWKSURL.Name+")", func(try context.Context) (err error) {
		// The set is refreshed for longer than the try.
		refreshing, stop := context.WithCancel(ctx)
		detach := context.AfterFunc(try, stop)
		v, err = auth.New(refreshing, r.Auth())
		if err == nil && detach() {
			p.onClose(func(context.Context) error { stop(); return nil })
			return nil
		}
		stop()
		if err != nil && try.Err() == nil && !errors.Is(err, auth.ErrKeySetUnavailable) {
			return config.Usage("--" + config.JWKSURL.Name + " (" + config.JWKSURL.Variable() + "): " + err.Error())
		}
		return cmp.Or(err, try.Err())
	})
	return v, err
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
	if err := p.await(ctx, "Postgres", func(ctx context.Context) error { return db.CheckWrite(ctx, url) }); err != nil {
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
// are filled in by newCommandAPI, once they are open, and the verifier of a key set by openVerifier.
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
	cfg.Pool, cfg.Probe, cfg.Store, cfg.Reader = p.writePool, p.probe, p.store, eventstore.NewReader(p.writePool)
	cfg.Claims, cfg.GateStore, cfg.Gate, cfg.Payments = p.claims, p.gateStore, p.gate, p.payments
	cfg.Checks = append(cfg.Checks, clockChecks(p.registry, p.probe, p.probe, p.gate)...)
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
