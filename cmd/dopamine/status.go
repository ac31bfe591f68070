package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/urfave/cli/v3"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/dopaminestore/dopamine/command/gatestore"
	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/attention"
	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/internal/presence"
	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/internal/status"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/parking"
	"github.com/dopaminestore/dopamine/projections/projector"
	"github.com/dopaminestore/dopamine/projections/replay"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/relay"
)

const (
	// statusTimeout is how long status waits for parts that do not respond.
	statusTimeout = 5 * time.Second
	// gateConcurrency is the number of gates read concurrently.
	gateConcurrency = 8
	// maxParked is the maximum number of parked keys that status reads.
	maxParked = 1000
	// maxMoney is the maximum number of payments waiting for an operator that it reads.
	maxMoney = 1000
	// plainWidth is the width of a table if there is no terminal.
	plainWidth = 120
)

func statusCommand() *cli.Command {
	flags := append(settings([]*config.Setting{config.DatabaseURL}, readSide, topicName, redisAddress, []*config.Setting{config.Data}),
		&cli.BoolFlag{Name: "json", Usage: "print JSON; with --watch a line each time"},
		&cli.BoolFlag{Name: "watch", Usage: "repeat until interrupted"},
		&cli.DurationFlag{Name: "every", Usage: "with --watch: how often", Value: 2 * time.Second})
	return &cli.Command{
		Name:   "status",
		Usage:  "show how far everything is, what was set aside, and what waits for a person",
		Flags:  flags,
		Before: config.FromData,
		Action: showStatus,
	}
}

func showStatus(ctx context.Context, cmd *cli.Command) error {
	r := config.From(cmd)
	if r.String(config.ReadDatabaseURL) == "" {
		r.Require(config.DatabaseURL)
	}
	every := cmd.Duration("every")
	if every < 100*time.Millisecond {
		r.RefuseFlag("every", "is too short; give a duration of at least 100ms, as in 2s")
	}
	s := &statusSources{write: r.DatabaseURL(), read: r.ReadDatabaseURL(), redis: redisOf(r), topic: r.KafkaTopic()}
	if err := r.Err(); err != nil {
		return err
	}
	s.parts = &parts{lazy: true, name: cmd.Name, log: slog.New(slog.NewTextHandler(cmd.Root().ErrWriter, nil))}
	defer s.close()
	out := cmd.Root().Writer
	for {
		report, err := s.gather(ctx)
		if err != nil {
			return err
		}
		if ctx.Err() != nil && cmd.Bool("watch") {
			return nil
		}
		if err := printStatus(out, report, cmd.Bool("json"), cmd.Bool("watch")); err != nil {
			return err
		}
		if !cmd.Bool("watch") {
			if report.Store == nil && len(report.Projections) == 0 {
				return quietError{} // nothing could be reached, which the report shows
			}
			return nil
		}
		if sleep.For(ctx, every) != nil {
			return nil
		}
	}
}

func printStatus(out io.Writer, report status.Report, asJSON, watch bool) error {
	if asJSON {
		enc := json.NewEncoder(out)
		if !watch {
			enc.SetIndent("", "  ")
		}
		return enc.Encode(report)
	}
	if watch && isTerminal(out) {
		fmt.Fprint(out, "\x1b[H\x1b[2J") // from the top of an empty screen
	}
	return status.Table(out, report, widthOf(out))
}

// widthOf returns the maximum number of columns of a table.
func widthOf(out io.Writer) int {
	if f, ok := out.(*os.File); ok && isTerminal(out) {
		if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
			return columns
		}
	}
	return plainWidth
}

// statusSources is what status reads from. A part that was unavailable is opened again the next
// time.
type statusSources struct {
	*parts
	write, read string
	topic       string
	redis       redisServer
}

// gather opens the parts and reads them.
func (s *statusSources) gather(ctx context.Context) (status.Report, error) {
	one := config.Pool{Max: gateConcurrency}
	if s.writePool == nil && s.write != "" {
		if err := s.openWrite(ctx, s.write, one); err != nil {
			return status.Report{}, err
		}
	}
	if s.readPool == nil {
		if err := s.openRead(ctx, s.read, one); err != nil {
			return status.Report{}, err
		}
	}
	var parts []status.Part
	writeSide := sync.OnceValues(func() (projections.Head, error) { return projections.Head{}, errors.New("no --database-url was given") })
	if s.write != "" {
		var checkpoint relay.Checkpoint
		writeSide = sync.OnceValues(func() (head projections.Head, err error) {
			ctx, cancel := context.WithTimeout(ctx, statusTimeout)
			defer cancel()
			if err = db.CheckWrite(ctx, s.write); err != nil {
				return head, err
			}
			head, checkpoint, err = readHead(ctx, s.writePool)
			return head, err
		})
		parts = append(parts, status.Part{Name: "event store", Read: func(ctx context.Context, r *status.Report) error {
			head, err := writeSide()
			if err != nil {
				return err
			}
			identity, err := eventstore.NewReader(s.writePool).Identity(ctx)
			if err != nil {
				return err
			}
			blockage, err := relay.ReadBlockage(ctx, s.writePool)
			if err != nil {
				return err
			}
			r.Store = &status.Store{Head: head.Position, Identity: identity.String()}
			r.Relay = &status.Relay{Position: checkpoint.Position, Lag: head.Position - checkpoint.Position}
			if !checkpoint.SavedAt.IsZero() {
				r.Relay.SavedAt = &checkpoint.SavedAt
			}
			if blockage != nil {
				r.Relay.Blocked = &status.Blocked{Reason: blockage.Reason, Since: blockage.Since}
			}
			return nil
		}})
	}
	parts = append(parts, status.Part{Name: "read models", Read: func(ctx context.Context, r *status.Report) error {
		head, err := writeSide()
		return s.readModels(ctx, r, head, err == nil)
	}})
	if s.write != "" {
		parts = append(parts, status.Part{Name: "processes", Read: s.processes}, status.Part{Name: "money", Read: s.money})
	}
	if s.write != "" && len(s.redis.urls) > 0 {
		parts = append(parts, status.Part{Name: "gates", Read: s.gates})
	}
	return status.Gather(ctx, 2*statusTimeout, parts), nil
}

func (s *statusSources) readModels(ctx context.Context, r *status.Report, head projections.Head, known bool) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	if err := db.CheckRead(ctx, s.read); err != nil {
		return err
	}
	blockage, err := projector.ReadBlockage(ctx, s.readPool)
	if err != nil {
		return err
	}
	if blockage != nil {
		r.ProjectorsBlocked = &status.Blocked{Reason: blockage.Reason, Since: blockage.Since}
	}
	head.Topic = s.topic
	all, err := projections.ReadStatus(ctx, s.readPool, head)
	if err != nil {
		return err
	}
	for _, m := range all {
		p := status.Projection{Name: m.Projection, Parked: m.Parked, ParkedKeys: m.ParkedKeys, Skipped: m.Skipped}
		if known {
			p.Position, p.Lag = &m.Position, &m.Lag
		}
		for _, g := range m.Generations {
			if g.State == "live" {
				p.Generation = g.Number
			}
			p.Generations = append(p.Generations, status.Generation(g))
		}
		r.Projections = append(r.Projections, p)
	}
	replays, err := replay.Latest(ctx, s.readPool)
	if err != nil {
		return err
	}
	for _, m := range replays {
		if m.Phase == replay.Swapped {
			continue // the generations show that
		}
		row := status.Replay{
			Projection: m.Projection, Generation: m.Generation, Source: m.Source, Phase: m.Phase, Running: m.Running, Events: m.Events,
			Position: m.Position, Target: m.Target, EventsPerSecond: m.Rate, StartedAt: m.StartedAt.UTC(), Error: m.Error,
		}
		if eta := m.ETA().Seconds(); eta > 0 {
			row.ETASeconds = &eta
		}
		r.Replays = append(r.Replays, row)
	}
	parked, err := parking.Keys(ctx, s.readPool, "", maxParked)
	if err != nil {
		return err
	}
	for _, k := range parked {
		r.Parked = append(r.Parked, status.Parked{Projection: k.Projection, Key: k.Key, Position: k.Position, Type: k.Type,
			Events: k.Events, Error: k.Error, ParkedAt: k.ParkedAt.UTC()})
	}
	return nil
}

// processes counts the live processes of the write side.
func (s *statusSources) processes(ctx context.Context, r *status.Report) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	live, err := presence.Count(ctx, s.writePool)
	if err != nil {
		return err
	}
	r.Processes = &status.Processes{CommandAPIs: live.Others, Workers: live.Workers, Silent: live.Silent}
	return nil
}

// money lists what waits for an operator.
func (s *statusSources) money(ctx context.Context, r *status.Report) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	waiting, err := attention.List(ctx, s.writePool, nil, maxMoney)
	for _, w := range waiting {
		r.Money = append(r.Money, status.Money{Payment: w.PaymentID, Refund: w.RefundID, Cause: string(w.Cause), Code: w.Code, Since: w.Since})
	}
	return err
}

// gates reads each product's gate without changing it.
func (s *statusSources) gates(ctx context.Context, r *status.Report) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	if s.gate == nil {
		opts := s.redis.opts
		opts.Lanes, opts.LanesMax = 1, gateConcurrency
		gate, err := redis.Open(ctx, s.redis.urls, s.gateStore, opts)
		if err != nil {
			return err
		}
		s.gate = gate
		s.onClose(func(context.Context) error { return gate.Close() })
	}
	products, err := s.gateStore.Products(ctx)
	if err != nil {
		return err
	}
	found := make([]*status.Gate, len(products))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(gateConcurrency)
	for i, product := range products {
		group.Go(func() (err error) {
			found[i], err = readGate(ctx, s.gate, s.gateStore, product)
			return err
		})
	}
	err = group.Wait()
	for _, g := range found {
		if g != nil {
			r.Gates = append(r.Gates, *g)
		}
	}
	return err
}

// readGate returns nil if the product is gone.
func readGate(ctx context.Context, gate *redis.Gate, store *gatestore.Store, product uuid.UUID) (*status.Gate, error) {
	state, err := gate.State(ctx, product)
	if err != nil {
		return nil, err
	}
	counts, there, err := store.Counts(ctx, product)
	if err != nil || !there {
		return nil, err
	}
	after, err := gate.State(ctx, product)
	if err != nil {
		return nil, err
	}
	g := &status.Gate{Product: product, State: "open", Epoch: counts.Epoch, Units: counts.Units, Claims: counts.Held}
	switch {
	case !after.Exists:
		g.State = "none"
		return g, nil
	case !after.Alive:
		g.State = "lost"
		return g, nil
	}
	g.Free, g.Held, g.Pending = after.Free, after.Held, after.Pending
	g.Difference = gatestore.Difference(state, counts, after)
	return g, nil
}
