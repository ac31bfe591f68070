package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/internal/status"
	"github.com/dopaminestore/dopamine/projections/parking"
)

const (
	// requestTimeout is how long retry and skip wait for a projector to serve them, requestPoll the
	// interval of polling.
	requestTimeout = 10 * time.Second
	requestPoll    = 200 * time.Millisecond
	// maxShown is the maximum number of events of a key, and of requests for it, that are shown.
	maxShown = 100
)

func parkedCommand() *cli.Command {
	sides := func(more ...cli.Flag) []cli.Flag {
		return append(settings([]*config.Setting{config.DatabaseURL}, readSide, []*config.Setting{config.Data}), more...)
	}
	asJSON := &cli.BoolFlag{Name: "json", Usage: "print JSON"}
	by := &cli.StringFlag{Name: "by", Usage: "who orders it, for the record (default: the user of the machine)"}
	all := &cli.BoolFlag{Name: "all", Usage: "every parked row, of one projection if it is named"}
	const key = "<projection> <key>"
	return &cli.Command{
		Name:  "parked",
		Usage: "show, retry or skip events that could not be applied",
		Commands: []*cli.Command{
			{Name: "list", Usage: "list blocked rows and their errors", ArgsUsage: "[projection]", Flags: sides(asJSON), Before: config.FromData, Action: listParked},
			{Name: "show", Usage: "show the parked events of a row, decoded, and the requests for it", ArgsUsage: key, Flags: sides(asJSON), Before: config.FromData, Action: showParked},
			{Name: "retry", Usage: "retry the parked events of a row, in order; with --all those of every row", ArgsUsage: "<projection> <key> | --all [projection]", Flags: sides(by, all), Before: config.FromData, Action: retryParked},
			{Name: "skip", Usage: "skip the first parked event of a row, in replays too, and retry those behind it", ArgsUsage: key, Flags: sides(by), Before: config.FromData, Action: requestParked(parking.Skip)},
		},
	}
}

// openParked opens the read side, and the write side if it is given.
func openParked(ctx context.Context, cmd *cli.Command) (*parts, error) {
	r := config.From(cmd)
	if r.String(config.ReadDatabaseURL) == "" {
		r.Require(config.DatabaseURL)
	}
	write, read := r.DatabaseURL(), r.ReadDatabaseURL()
	if err := r.Err(); err != nil {
		return nil, err
	}
	if err := db.CheckRead(ctx, read); err != nil {
		return nil, err
	}
	p := &parts{name: cmd.Name, log: slog.New(slog.NewTextHandler(cmd.Root().ErrWriter, nil))}
	few := config.Pool{Max: 2}
	if err := p.openRead(ctx, read, few); err != nil {
		return nil, err
	}
	if write != "" {
		if err := p.openWrite(ctx, write, few); err != nil {
			p.close()
			return nil, err
		}
	}
	return p, nil
}

// rowArgs returns the projection and the row key in the command's arguments.
func rowArgs(cmd *cli.Command) (projection string, key uuid.UUID, err error) {
	if cmd.Args().Len() != 2 {
		return "", uuid.Nil, config.Usage(fmt.Sprintf("parked %s takes two arguments: a projection (%s) and a key, from `parked list`", cmd.Name, projectionNames()))
	}
	projection = cmd.Args().Get(0)
	if err := knownProjection(projection); err != nil {
		return "", uuid.Nil, err
	}
	if key, err = uuid.Parse(cmd.Args().Get(1)); err != nil {
		return "", uuid.Nil, config.Usage(fmt.Sprintf("%q is not a key: give a UUID from `parked list`", cmd.Args().Get(1)))
	}
	return projection, key, nil
}

func knownProjection(name string) error {
	for _, p := range everyProjection() {
		if p.Name() == name {
			return nil
		}
	}
	return config.Usage(fmt.Sprintf("unknown projection %q: give one of %s", name, projectionNames()))
}

// optionalProjection returns the only argument of a command, a projection, "" if there is none.
func optionalProjection(cmd *cli.Command, command string) (string, error) {
	if cmd.Args().Len() > 1 {
		return "", config.Usage(command + " takes at most one argument, a projection: " + projectionNames())
	}
	name := cmd.Args().First()
	if name == "" {
		return "", nil
	}
	return name, knownProjection(name)
}

// parkedRow is a blocked row, as JSON.
type parkedRow struct {
	Projection string         `json:"projection"`
	Key        uuid.UUID      `json:"key"`
	Position   int64          `json:"position"`
	Type       string         `json:"type"`
	Product    *uuid.UUID     `json:"product"`
	Events     int64          `json:"events"`
	Error      string         `json:"error"`
	Attempts   int            `json:"attempts"`
	ParkedAt   time.Time      `json:"parkedAt"`
	Requested  parking.Action `json:"ordered,omitempty"`
}

func listParked(ctx context.Context, cmd *cli.Command) error {
	only, err := optionalProjection(cmd, "parked list")
	if err != nil {
		return err
	}
	p, err := openParked(ctx, cmd)
	if err != nil {
		return err
	}
	defer p.close()
	keys, err := parking.Keys(ctx, p.readPool, only, maxParked)
	if err != nil {
		return err
	}
	out := cmd.Root().Writer
	if cmd.Bool("json") {
		rows := []parkedRow{}
		for _, k := range keys {
			rows = append(rows, parkedRow(k))
		}
		return printJSON(out, rows)
	}
	if len(keys) == 0 {
		_, err := fmt.Fprintln(out, "nothing is parked")
		return err
	}
	var rows [][]any
	for _, k := range keys {
		rows = append(rows, []any{k.Projection, k.Key, status.Number(strconv.FormatInt(k.Events, 10)),
			fmt.Sprintf("%s at %d, %s: %s", k.Type, k.Position, k.ParkedAt.UTC().Format(time.DateTime), k.Error)})
	}
	_, err = fmt.Fprintln(out, status.Grid(widthOf(out), []string{"projection", "key", "events", "first"}, rows))
	return err
}

// parkedEvent is a parked event, as JSON.
type parkedEvent struct {
	Position   int64             `json:"position"`
	Type       string            `json:"type"`
	EventID    *uuid.UUID        `json:"eventId"`
	Product    *uuid.UUID        `json:"product"`
	Stream     *uuid.UUID        `json:"stream"`
	RecordedAt *time.Time        `json:"recordedAt"`
	Actor      string            `json:"actor,omitempty"`
	Event      json.RawMessage   `json:"event"` // null if it cannot be decoded
	Undecoded  string            `json:"undecoded,omitempty"`
	Topic      string            `json:"topic"`
	Partition  int32             `json:"partition"`
	Offset     *int64            `json:"offset"`
	Headers    map[string]string `json:"headers"`
	Error      string            `json:"error"`
	Behind     bool              `json:"behind"`
	Attempts   int               `json:"attempts"`
	ParkedAt   time.Time         `json:"parkedAt"`
}

// parkedRequest is a request, as JSON.
type parkedRequest struct {
	Action   parking.Action `json:"action"`
	Position int64          `json:"position"`
	By       string         `json:"by"`
	At       time.Time      `json:"at"`
	DoneAt   *time.Time     `json:"doneAt"`
	Outcome  string         `json:"outcome,omitempty"`
}

func showParked(ctx context.Context, cmd *cli.Command) error {
	projection, key, err := rowArgs(cmd)
	if err != nil {
		return err
	}
	p, err := openParked(ctx, cmd)
	if err != nil {
		return err
	}
	defer p.close()
	orders, err := parking.Requests(ctx, p.readPool, projection, key, maxShown)
	if err != nil {
		return err
	}
	events, err := parking.Events(ctx, p.readPool, projection, key, maxShown)
	if err != nil && (!errors.Is(err, parking.ErrNotParked) || len(orders) == 0) {
		return err
	}
	var shown struct {
		Events []parkedEvent   `json:"events"`
		Orders []parkedRequest `json:"orders"`
	}
	shown.Events, shown.Orders = []parkedEvent{}, []parkedRequest{}
	for _, e := range events {
		shown.Events = append(shown.Events, p.decodeParked(ctx, e))
	}
	for _, o := range orders {
		shown.Orders = append(shown.Orders, parkedRequest{o.Action, o.Position, o.By, o.At.UTC(), o.DoneAt, o.Outcome})
	}
	out := cmd.Root().Writer
	if cmd.Bool("json") {
		return printJSON(out, shown)
	}
	if len(shown.Events) == 0 {
		fmt.Fprintln(out, "no parked events remain")
	}
	for _, e := range shown.Events {
		printParked(out, e)
	}
	for _, o := range shown.Orders {
		fmt.Fprintf(out, "%s of position %d, ordered %s by %s: ", o.Action, o.Position, o.At.Format(time.DateTime), o.By)
		if o.DoneAt == nil {
			fmt.Fprintln(out, "waits for a projector")
		} else {
			fmt.Fprintf(out, "%s (%s)\n", o.Outcome, o.DoneAt.UTC().Format(time.DateTime))
		}
	}
	return nil
}

// decodeParked decodes the event, from the store if that can be reached, otherwise from the record
// in Kafka.
func (p *parts) decodeParked(ctx context.Context, e parking.Event) parkedEvent {
	shown := parkedEvent{
		Position: e.Position, Type: e.EventType, EventID: e.EventID, Product: e.Product, Stream: e.Stream, Topic: e.Topic, Partition: e.Partition,
		Offset: e.Offset, Headers: e.Headers, Error: e.Error, Behind: e.Behind, Attempts: e.Attempts, ParkedAt: e.ParkedAt.UTC(),
	}
	if p.writePool != nil && e.Position > 0 {
		recorded, err := eventstore.NewReader(p.writePool).At(ctx, e.Position)
		if err == nil {
			shown.Event, shown.RecordedAt, shown.Actor = recorded.Payload, &recorded.RecordedAt, recorded.Meta.Actor
			return shown
		}
		shown.Undecoded = err.Error()
	}
	headers, err := avsc.ParseHeaders(func(name string) string { return e.Headers[name] })
	if err == nil {
		env, decodeErr := avsc.Unmarshal(e.Record, headers)
		if err = decodeErr; err == nil {
			if shown.Event, err = json.Marshal(env.Event); err == nil {
				shown.RecordedAt, shown.Actor, shown.Undecoded = &env.RecordedAt, env.Actor, ""
				return shown
			}
		}
	}
	shown.Undecoded = strings.TrimPrefix(shown.Undecoded+"; "+err.Error(), "; ")
	return shown
}

func printParked(out io.Writer, e parkedEvent) {
	fmt.Fprintf(out, "%s at position %d", e.Type, e.Position)
	if e.RecordedAt != nil {
		fmt.Fprintf(out, ", recorded %s by %s", e.RecordedAt.UTC().Format(time.RFC3339Nano), e.Actor)
	}
	fmt.Fprintf(out, "\n  parked %s after %d tries: %s\n", e.ParkedAt.Format(time.DateTime), e.Attempts, e.Error)
	for name, id := range map[string]*uuid.UUID{"event": e.EventID, "product": e.Product, "stream": e.Stream} {
		if id != nil {
			fmt.Fprintf(out, "  %s %s\n", name, id)
		}
	}
	if e.Event == nil {
		fmt.Fprintf(out, "  cannot be decoded: %s\n\n", e.Undecoded)
		return
	}
	var fields map[string]any
	if json.Unmarshal(e.Event, &fields) == nil {
		pretty, err := json.MarshalIndent(fields, "  ", "  ")
		if err == nil {
			fmt.Fprintf(out, "  %s\n\n", pretty)
			return
		}
	}
	fmt.Fprintf(out, "  %s\n\n", e.Event)
}

// retryParked requests a retry of one row or of every row.
func retryParked(ctx context.Context, cmd *cli.Command) error {
	if !cmd.Bool("all") {
		return requestParked(parking.Retry)(ctx, cmd)
	}
	projection, err := optionalProjection(cmd, "parked retry --all")
	if err != nil {
		return err
	}
	p, err := openParked(ctx, cmd)
	if err != nil {
		return err
	}
	defer p.close()
	keys, err := parking.RetryAll(ctx, p.readPool, projection, actor(cmd))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.Root().Writer, "retry of %d rows requested; the projectors serve it, `dopamine parked list` shows the remaining rows\n", keys)
	return err
}

// requestParked makes a request and waits a while until it is served.
func requestParked(action parking.Action) cli.ActionFunc {
	return func(ctx context.Context, cmd *cli.Command) error {
		projection, key, err := rowArgs(cmd)
		if err != nil {
			return err
		}
		p, err := openParked(ctx, cmd)
		if err != nil {
			return err
		}
		defer p.close()
		if err := parking.Request(ctx, p.readPool, projection, key, action, actor(cmd)); err != nil {
			return err
		}
		out := cmd.Root().Writer
		waiting, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		done, err := parking.Await(waiting, p.readPool, projection, key, requestPoll)
		switch {
		case err == nil:
			_, err = fmt.Fprintln(out, done.Outcome)
			return err
		case waiting.Err() != nil:
			_, err = fmt.Fprintln(out, "requested; a projector serves it as soon as one runs")
			return err
		}
		return err
	}
}

// actor returns the operator that is recorded with a request.
func actor(cmd *cli.Command) string {
	if by := strings.TrimSpace(cmd.String("by")); by != "" {
		return by
	}
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}

func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
