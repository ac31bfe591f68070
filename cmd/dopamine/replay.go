package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/audit"
	"github.com/dopaminestore/dopamine/projections/products"
	"github.com/dopaminestore/dopamine/projections/purchases"
	"github.com/dopaminestore/dopamine/projections/replay"
	"github.com/dopaminestore/dopamine/projections/slots"
	"github.com/dopaminestore/dopamine/relay"
)

// everyProjection returns all projections that can be replayed.
func everyProjection() []projections.Rebuildable {
	return []projections.Rebuildable{products.New(), slots.New(), purchases.New(), audit.New()}
}

func projectionNames() string {
	var names []string
	for _, p := range everyProjection() {
		names = append(names, p.Name())
	}
	return strings.Join(names, ", ")
}

func replayCommand() *cli.Command {
	flags := append(settings([]*config.Setting{config.DatabaseURL, config.DatabaseDirectURL}, readSide, kafkaSide, topicName, schemaSide, []*config.Setting{config.Data}),
		&cli.BoolFlag{Name: "from-kafka", Usage: "read what the relay has published from the topic instead of the event store"},
		&cli.BoolFlag{Name: "verify", Usage: "compare with the live rows first; if they differ, report the differences and do not swap"},
		&cli.BoolFlag{Name: "drop-old", Usage: "drop older generations after the swap"},
		&cli.IntFlag{Name: "rate", Usage: "maximum events per second (0: no limit)"})
	return &cli.Command{
		Name:      "replay",
		Usage:     "rebuild a projection from the event store while the live one is served, and swap",
		ArgsUsage: "<projection|all>",
		Flags:     flags,
		Before:    config.FromData,
		Action:    replayProjections,
	}
}

func replayProjections(ctx context.Context, cmd *cli.Command) error {
	r := config.From(cmd)
	r.Require(config.DatabaseURL)
	write, read := r.DatabaseDirectURL(), directReadURL(r)
	k, registry := kafkaOf(r), registryOf(r)
	var topic *replay.Topic
	if cmd.Bool("from-kafka") {
		r.Require(config.KafkaBrokers)
		topic = &replay.Topic{Kafka: k.cluster, Name: k.topic, Decoder: decoderWith(registry)}
	}
	if cmd.Int("rate") < 0 {
		r.RefuseFlag("rate", "is negative; give events per second, or 0")
	}
	if err := r.Err(); err != nil {
		return err
	}
	chosen, err := chosenProjections(cmd)
	if err != nil {
		return err
	}
	if err := errors.Join(db.CheckWrite(ctx, write), db.CheckRead(ctx, read)); err != nil {
		return err
	}
	p := &parts{name: cmd.Name, log: slog.New(slog.NewTextHandler(cmd.Root().ErrWriter, nil))}
	defer p.close()
	const perProjection, others = 3, 4
	if err := p.openWrite(ctx, write, config.Pool{Max: perProjection * len(chosen)}); err != nil {
		return err
	}
	if err := p.openRead(ctx, read, config.Pool{Max: perProjection*len(chosen) + others}); err != nil {
		return err
	}
	if p.readPooled { // it holds a session lock for each projection
		return directNeeded(readDirectSetting(r))
	}
	out := cmd.Root().Writer
	show := newReplayProgress(cmd.Root().ErrWriter)
	p.log = slog.New(slog.NewTextHandler(show, nil))
	differences := &differencePrinter{out: out}
	err = replay.Run(ctx, replay.Config{
		ReadPool: p.readPool, Store: eventstore.NewReader(p.writePool), Published: published(p.writePool, k.topic), Projections: chosen, Topic: topic,
		Rate: cmd.Int("rate"), Verify: cmd.Bool("verify"), DropOld: cmd.Bool("drop-old"),
		OnProgress: show.update, OnDifference: differences.print, Logger: p.log,
	})
	show.end()
	differences.end()
	switch {
	case err == nil:
		for _, c := range chosen {
			last := show.last(c.Name())
			fmt.Fprintf(out, "%s: generation %d is live, at position %d, from %d events in %s\n", c.Name(), last.Generation, last.Position,
				last.Events, last.EndedAt.Sub(last.StartedAt).Round(time.Millisecond))
		}
		return nil
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted; the live generation is unchanged")
	}
	return err
}

func chosenProjections(cmd *cli.Command) ([]projections.Rebuildable, error) {
	name := cmd.Args().First()
	if cmd.Args().Len() != 1 {
		return nil, config.Usage("replay takes one argument: all, or one of " + projectionNames())
	}
	if name == "all" {
		return everyProjection(), nil
	}
	for _, p := range everyProjection() {
		if p.Name() == name {
			return []projections.Rebuildable{p}, nil
		}
	}
	return nil, config.Usage(fmt.Sprintf("unknown projection %q: give all, or one of %s", name, projectionNames()))
}

// published returns a function that reads how far the store and the relay are.
func published(writePool *pgxpool.Pool, topic string) func(context.Context) (projections.Head, error) {
	return func(ctx context.Context) (projections.Head, error) {
		head, _, err := readHead(ctx, writePool)
		head.Topic = topic
		return head, err
	}
}

// readHead returns how far the store and the relay are, and the relay's checkpoint.
func readHead(ctx context.Context, writePool *pgxpool.Pool) (head projections.Head, checkpoint relay.Checkpoint, err error) {
	if checkpoint, err = relay.ReadCheckpoint(ctx, writePool); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return head, checkpoint, err
	}
	head.Published, head.Last, head.TopicID = checkpoint.Position, checkpoint.Last, checkpoint.TopicID
	head.Position, err = eventstore.NewReader(writePool).Head(ctx) // after the checkpoint: never behind it
	return head, checkpoint, err
}

// maxDifferences is the maximum number of differences that are printed; all are counted.
const maxDifferences = 1000

type differencePrinter struct {
	mu  sync.Mutex
	out io.Writer
	all int
}

func (p *differencePrinter) print(d replay.Difference) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all++
	switch {
	case p.all > maxDifferences:
	case d.Live == "":
		fmt.Fprintf(p.out, "%s %s: the row is missing; the store has %s\n", d.Table, d.Key, d.Store)
	case d.Store == "":
		fmt.Fprintf(p.out, "%s %s: the row should not be there: %s\n", d.Table, d.Key, d.Live)
	default:
		fmt.Fprintf(p.out, "%s %s: %s is %s, the store has %s\n", d.Table, d.Key, d.Column, d.Live, d.Store)
	}
}

func (p *differencePrinter) end() {
	if more := p.all - maxDifferences; more > 0 {
		fmt.Fprintf(p.out, "and %d more differences\n", more)
	}
}
