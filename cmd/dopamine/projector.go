package main

import (
	"context"

	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/internal/schemaregistry"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/projector"
)

func projectorCommand() *cli.Command {
	return &cli.Command{
		Name:  "projector",
		Usage: "build the read models from Kafka",
		Flags: settings(writeSide, readSide, kafkaSide, topicName, groupName, topicSide, schemaSide, []*config.Setting{config.MetricsAddr}, observed),
		Action: untilStopped(func(ctx context.Context, p *parts, r *config.Reader) ([]service, error) {
			r.Require(config.DatabaseURL, config.KafkaBrokers)
			r.OptionalAddr(config.MetricsAddr)
			write, read, size, kafka := r.DatabaseURL(), r.ReadDatabaseURL(), r.DatabasePool(), kafkaOf(r)
			registry := registryOf(r)
			if err := r.Err(); err != nil {
				return nil, err
			}
			if err := p.await(ctx, "Postgres", func(ctx context.Context) error { return db.CheckRead(ctx, read) }); err != nil {
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
			runner := newProjector(p, kafka, registry)
			checks := append(clockChecks(p.registry, p.readProbe, p.probe, nil), databaseCheck(p.readProbe), storeCheck(p.probe), required(kafkaCheck(p, kafka.cluster, runner.Health)))
			ops := opsService(p, r, checks...)
			return append(ops, service{name: "projector", run: runner.Run}), nil
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

func newProjector(p *parts, k kafkaSettings, registry *schemaregistry.Client) *projector.Runner {
	return projector.NewRunner(projector.Config{
		ReadPool: p.readPool, Store: eventstore.NewReader(p.writePool), Kafka: k.cluster, Topic: k.topic, Group: k.group,
		TopicSettings: k.wanted, Published: published(p.writePool, k.topic),
		Decoder: decoderWith(registry), Projections: readModels(), Registerer: p.registry, Logger: p.log,
	})
}
