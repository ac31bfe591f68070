package main

import (
	"context"

	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/telemetry"
	"github.com/dopaminestore/dopamine/query"
)

func queryAPICommand() *cli.Command {
	return &cli.Command{
		Name:  "query-api",
		Usage: "serve queries from the read models",
		Flags: settings([]*config.Setting{config.QueryAddr}, writeSide, readSide, redisAddress, kafkaSide, topicName, tokenSide, serverSide, []*config.Setting{config.MetricsAddr}, observed),
		Action: untilStopped(func(ctx context.Context, p *parts, r *config.Reader) ([]service, error) {
			if r.String(config.ReadDatabaseURL) == "" {
				r.Require(config.DatabaseURL)
			}
			write, read, size := r.DatabaseURL(), r.ReadDatabaseURL(), r.DatabasePool()
			cfg := queryServer(ctx, p, r)
			kafka := kafkaOf(r)
			cfg.Checks = optionalChecks(p, redisOf(r), kafka.cluster, nil)
			if err := r.Err(); err != nil {
				return nil, err
			}
			if err := p.await(ctx, "Postgres", func(ctx context.Context) error { return db.CheckRead(ctx, read) }); err != nil {
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
			var err error
			if cfg.Verifier, err = p.openVerifier(ctx, r, cfg.Verifier); err != nil {
				return nil, err
			}
			cfg.Checks = append(cfg.Checks, clockChecks(cfg.Registry, p.readProbe, p.probe, nil)...)
			api, err := query.New(query.Config{Server: cfg, ReadPool: p.readPool, WritePool: p.writePool, ReadProbe: p.readProbe, WriteProbe: p.probe, Topic: kafka.topic})
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
