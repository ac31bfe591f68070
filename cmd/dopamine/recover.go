package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/recovery"
	"github.com/dopaminestore/dopamine/relay"
)

func recoverCommand() *cli.Command {
	flags := append(settings([]*config.Setting{config.DatabaseURL, config.DatabaseDirectURL}, readSide, kafkaSide, topicName, schemaSide, []*config.Setting{config.Data}),
		&cli.BoolFlag{Name: "force", Usage: "begin the next incarnation even if nothing contradicts the event store"},
		&cli.BoolFlag{Name: "drop-old", Usage: "drop older generations of the read models after the swap"})
	return &cli.Command{
		Name:  "recover",
		Usage: "begin the next incarnation after the event store was restored to an earlier moment, and rebuild the read models (docs/restore.md)",
		Flags: flags, Before: config.FromData, Action: recoverStore,
	}
}

func recoverStore(ctx context.Context, cmd *cli.Command) error {
	r := config.From(cmd)
	r.Require(config.DatabaseURL, config.KafkaBrokers)
	write, read, k := r.DatabaseDirectURL(), directReadURL(r), kafkaOf(r)
	registry := registryOf(r)
	if err := r.Err(); err != nil {
		return err
	}
	if err := errors.Join(db.CheckWrite(ctx, write), db.CheckRead(ctx, read)); err != nil {
		return err
	}
	p := &parts{name: cmd.Name, log: slog.New(slog.NewTextHandler(cmd.Root().ErrWriter, nil))}
	defer p.close()
	all := everyProjection()
	const perProjection, others = 3, 4
	if err := p.openWrite(ctx, write, config.Pool{Max: perProjection*len(all) + others}); err != nil {
		return err
	}
	if err := p.openRead(ctx, read, config.Pool{Max: perProjection*len(all) + others}); err != nil {
		return err
	}
	if p.writePooled { // it holds the relay's session lock
		return directNeeded(config.DatabaseDirectURL)
	}
	if p.readPooled {
		return directNeeded(readDirectSetting(r))
	}
	show := newReplayProgress(cmd.Root().ErrWriter)
	p.log = slog.New(slog.NewTextHandler(show, nil))
	result, err := recovery.Run(ctx, recovery.Config{
		WritePool: p.writePool, ReadPool: p.readPool, Kafka: k.cluster, Topic: k.topic, Decoder: decoderWith(registry), Projections: all,
		Force: cmd.Bool("force"), DropOld: cmd.Bool("drop-old"), OnProgress: show.update, Logger: p.log,
	})
	show.end()
	foreign := (*relay.ForeignError)(nil)
	switch {
	case errors.Is(err, recovery.ErrNotNeeded):
		return fmt.Errorf("%w; nothing was changed (--force begins an incarnation all the same)", err)
	case errors.As(err, &foreign):
		return config.Usage("--" + config.KafkaTopic.Name + " (" + config.KafkaTopic.Variable() + "): " + foreign.Error())
	case err != nil:
		return fmt.Errorf("%w; run `dopamine recover` again to continue", err)
	}
	out := cmd.Root().Writer
	if c := result.Contradictions; c.Any() {
		fmt.Fprintf(out, "the event store lacks %d records of the topic", c.Records)
		if len(c.Projections) > 0 {
			fmt.Fprintf(out, ", and events that %s had applied", strings.Join(c.Projections, ", "))
		}
		fmt.Fprintln(out)
	}
	printLostMoney(out, result)
	if result.Resumed {
		fmt.Fprintln(out, "continued a recovery that was interrupted")
	}
	fmt.Fprintf(out, "incarnation %d of store %s: positions up to %d are as before, the read models are rebuilt\n",
		result.Incarnation.Incarnation, result.Incarnation.Store, result.SharedPosition)
	return nil
}

// printLostMoney names what the topic knows of payments and the store lost.
func printLostMoney(out io.Writer, result recovery.Result) {
	m := result.Contradictions.Money
	if n := len(m.Refunds); n > 0 {
		fmt.Fprintf(out, "refunds that the store lost: %d; the worker queries the gateway about them, and records those that were made\n", n)
	}
	if n := len(result.LostPayments); n > 0 {
		fmt.Fprintf(out, "payments that the store lost: %d, in the table lost_payments and in the log; compare them with the provider's list\n", n)
	}
	if m.Undecodable > 0 {
		fmt.Fprintf(out, "lost records about payments or refunds that could not be decoded: %d\n", m.Undecodable)
	}
}
