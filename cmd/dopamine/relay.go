package main

import (
	"context"
	"os"
	"runtime/debug"

	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/internal/schemaregistry"
	"github.com/dopaminestore/dopamine/relay"
)

func relayCommand() *cli.Command {
	return &cli.Command{
		Name:  "relay",
		Usage: "publish events from the event store to Kafka; one leads, others stand by",
		Flags: settings(writeSide, kafkaSide, topicName, schemaSide, topicSide, []*config.Setting{config.MetricsAddr}, observed),
		Action: untilStopped(func(ctx context.Context, p *parts, r *config.Reader) ([]service, error) {
			r.Require(config.DatabaseURL, config.KafkaBrokers)
			url, size, kafka := r.DatabaseURL(), r.DatabasePool(), kafkaOf(r)
			r.OptionalAddr(config.MetricsAddr)
			registry := registryOf(r)
			if err := r.Err(); err != nil {
				return nil, err
			}
			if err := p.await(ctx, "Postgres", func(ctx context.Context) error { return db.CheckWrite(ctx, url) }); err != nil {
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
			checks := append(clockChecks(p.registry, p.probe, p.probe, nil), databaseCheck(p.probe), required(kafkaCheck(p, kafka.cluster, relay.Health)))
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
		Pool: p.directPool, Store: eventstore.NewReader(p.writePool), Notifier: p.notifier, Kafka: k.cluster, Topic: k.topic,
		TopicSettings: k.wanted, Registerer: p.registry, Logger: p.log,
	}
	if registry != nil {
		cfg.Registry = registry
	}
	return relay.New(cfg)
}
