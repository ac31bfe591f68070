package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/command/origin"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/db"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/attention"
	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/internal/telemetry"
	"github.com/dopaminestore/dopamine/redis"
)

// moneyPage is the number of items read at a time.
const moneyPage = 1000

// moneyActions are the flags of `money resolve`.
var moneyActions = []struct {
	flag, usage string
	action      domain.ResolveAction
}{
	{"refunded-elsewhere", "the money was returned by other means", domain.RefundedElsewhere},
	{"nothing-taken", "the buyer was never charged", domain.NothingTaken},
	{"accept", "close it without a change", domain.AcceptItem},
	{"retry", "post the refund again, or query the gateway again", domain.RetryItem},
}

func moneyCommand() *cli.Command {
	side := func(more ...cli.Flag) []cli.Flag {
		return append(settings([]*config.Setting{config.DatabaseURL, config.Data}), more...)
	}
	resolve := []cli.Flag{&cli.StringFlag{Name: "note", Usage: "code for the record, such as a ticket: A to Z, 0 to 9 and _, at most 64"}}
	for _, a := range moneyActions {
		resolve = append(resolve, &cli.BoolFlag{Name: a.flag, Usage: a.usage})
	}
	return &cli.Command{
		Name:  "money",
		Usage: "list and resolve payments and refunds that wait for an operator",
		Commands: []*cli.Command{
			{Name: "list", Usage: "list them, oldest first", Flags: side(&cli.BoolFlag{Name: "json", Usage: "print JSON"}), Before: config.FromData, Action: listMoney},
			{Name: "resolve", Usage: "record a decision about a payment, for every item that it fits", ArgsUsage: "<payment id>",
				Flags: side(resolve...), Before: config.FromData, Action: resolveMoney},
		},
	}
}

// openMoney opens the write side.
func openMoney(ctx context.Context, cmd *cli.Command) (*parts, error) {
	r := config.From(cmd)
	r.Require(config.DatabaseURL)
	url := r.DatabaseURL()
	if err := r.Err(); err != nil {
		return nil, err
	}
	if err := db.CheckWrite(ctx, url); err != nil {
		return nil, err
	}
	p := &parts{name: cmd.Name, log: slog.New(slog.NewTextHandler(cmd.Root().ErrWriter, nil)), registry: prometheus.NewRegistry()}
	if err := p.openWrite(ctx, url, config.Pool{Max: 2}); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// moneyItem is one line of `money list`, in the form of GET /v1/operations/money.
type moneyItem struct {
	PaymentID uuid.UUID  `json:"paymentId"`
	RefundID  *uuid.UUID `json:"refundId"`
	Cause     string     `json:"cause"`
	Code      *string    `json:"code"`
	Since     time.Time  `json:"since"`
}

func listMoney(ctx context.Context, cmd *cli.Command) error {
	if cmd.Args().Present() {
		return config.Usage("money list takes no arguments")
	}
	p, err := openMoney(ctx, cmd)
	if err != nil {
		return err
	}
	defer p.close()
	items := []moneyItem{}
	for after := (*attention.Key)(nil); ; {
		page, err := attention.List(ctx, p.writePool, after, moneyPage)
		if err != nil {
			return err
		}
		for _, a := range page {
			item := moneyItem{PaymentID: a.PaymentID, RefundID: a.RefundID, Cause: string(a.Cause), Since: a.Since}
			if a.Code != "" {
				item.Code = &a.Code
			}
			items = append(items, item)
			key := a.Key()
			after = &key
		}
		if len(page) < moneyPage {
			break
		}
	}
	out := cmd.Root().Writer
	if cmd.Bool("json") {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(map[string]any{"items": items})
	}
	if len(items) == 0 {
		_, err := fmt.Fprintln(out, "nothing waits for an operator")
		return err
	}
	t := table.NewWriter()
	t.SetOutputMirror(out)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"payment", "cause", "code", "refund", "since"})
	for _, i := range items {
		row := table.Row{i.PaymentID, i.Cause, "", "", i.Since.Format(time.RFC3339)}
		if i.Code != nil {
			row[2] = *i.Code
		}
		if i.RefundID != nil {
			row[3] = *i.RefundID
		}
		t.AppendRow(row)
	}
	t.Render()
	return nil
}

// resolution parses the decision from the command's flags.
func resolution(cmd *cli.Command) (payments.Resolve, error) {
	if cmd.Args().Len() != 1 {
		return payments.Resolve{}, config.Usage("money resolve takes one payment id, as `money list` shows it")
	}
	id, err := uuid.Parse(cmd.Args().First())
	if err != nil {
		return payments.Resolve{}, config.Usage(fmt.Sprintf("%q is not a payment id: give a UUID from `money list`", cmd.Args().First()))
	}
	c := payments.Resolve{Payment: id}
	given := 0
	for _, a := range moneyActions {
		if cmd.Bool(a.flag) {
			c.Action = a.action
			given++
		}
	}
	if given != 1 {
		return c, config.Usage("give one of --refunded-elsewhere, --nothing-taken, --accept and --retry")
	}
	note, ok := domain.Code(cmd.String("note"))
	if !ok {
		return c, config.Usage("--note must be a code: A to Z, 0 to 9 and _, 1 to 64 characters")
	}
	c.Note = note
	return c, nil
}

func resolveMoney(ctx context.Context, cmd *cli.Command) error {
	c, err := resolution(cmd)
	if err != nil {
		return err
	}
	p, err := openMoney(ctx, cmd)
	if err != nil {
		return err
	}
	defer p.close()
	if err := p.openStore(ctx, 0); err != nil {
		return err
	}
	service, err := payments.New(payments.Config{
		Pool: p.writePool, Store: p.store, Reader: eventstore.NewReader(p.writePool), Claims: p.claims,
		Gate: elsewhere{}, Gateway: elsewhere{}, SlotTTL: time.Minute, Registry: p.registry, Logger: p.log,
	})
	if err != nil {
		return err
	}
	p.onClose(service.Close)
	before, err := itemsOf(ctx, p, c.Payment)
	if err != nil {
		return err
	}
	ctx, span := telemetry.StartRoot(ctx, "ResolvePayment")
	defer span.End()
	_, err = service.Resolve(ctx, c, &origin.Origin{Actor: payments.ActorOperator})
	switch {
	case errors.Is(err, payments.ErrNoPayment):
		return fmt.Errorf("payment %s does not exist", c.Payment)
	case errors.Is(err, domain.ErrNothingToResolve) && len(before) == 0:
		return fmt.Errorf("nothing of payment %s waits for an operator", c.Payment)
	case errors.Is(err, domain.ErrNothingToResolve):
		return fmt.Errorf("nothing of payment %s can be resolved so; it waits for: %v", c.Payment, before)
	case err != nil:
		return err
	}
	left, err := itemsOf(ctx, p, c.Payment)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.Root().Writer, "payment %s: recorded; %d of %d items are left\n", c.Payment, len(left), len(before))
	return err
}

// itemsOf returns the causes for which a payment waits.
func itemsOf(ctx context.Context, p *parts, payment uuid.UUID) ([]string, error) {
	causes := []string{}
	for after := (*attention.Key)(nil); ; {
		page, err := attention.List(ctx, p.writePool, after, moneyPage)
		if err != nil {
			return nil, err
		}
		for _, a := range page {
			if a.PaymentID == payment {
				causes = append(causes, string(a.Cause))
			}
			key := a.Key()
			after = &key
		}
		if len(page) < moneyPage {
			return slices.Clip(causes), nil
		}
	}
}

// elsewhere stands in for the gate and the gateway in a command that needs neither: the worker does
// what they are needed for, and a resolution notifies it through the ledger.
type elsewhere struct{}

var errElsewhere = errors.New("left to the worker")

func (elsewhere) Decide(context.Context, redis.Request) (redis.Decision, error) {
	return redis.Decision{}, errElsewhere
}
func (elsewhere) GiveBack(context.Context, redis.Decision) error       { return errElsewhere }
func (elsewhere) Sync(context.Context, uuid.UUID) error                { return nil } // the worker syncs the gate
func (elsewhere) Rebuild(context.Context, uuid.UUID, int64) error      { return errElsewhere }
func (elsewhere) EncodePayment(gateway.PaymentRequest) ([]byte, error) { return nil, errElsewhere }
func (elsewhere) Pay(context.Context, uuid.UUID, []byte) (gateway.Payment, error) {
	return gateway.Payment{}, gateway.ErrNotSent
}
func (elsewhere) FindPayment(context.Context, gateway.PaymentQuery) (gateway.Payment, error) {
	return gateway.Payment{}, gateway.ErrNotSent
}
func (elsewhere) CancelPayment(context.Context, gateway.PaymentQuery) (gateway.Payment, error) {
	return gateway.Payment{}, gateway.ErrNotSent
}
func (elsewhere) Refund(context.Context, gateway.RefundRequest) (gateway.Refund, error) {
	return gateway.Refund{}, gateway.ErrNotSent
}
func (elsewhere) FindRefund(context.Context, gateway.RefundRequest) (gateway.Refund, error) {
	return gateway.Refund{}, gateway.ErrNotSent
}
