package main

import (
	"context"

	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/command/deadlines"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/worker"
)

func workerCommand() *cli.Command {
	return &cli.Command{
		Name:  "worker",
		Usage: "run background jobs: slot expiry, warnings, gate sync, payment reconciliation, refunds",
		Flags: settings(writeSide, redisSide, paymentSide, []*config.Setting{config.MetricsAddr}, observed),
		Action: untilStopped(func(ctx context.Context, p *parts, r *config.Reader) ([]service, error) {
			r.Require(config.DatabaseURL, config.RedisURL)
			requireGateway(r)
			if err := openCommandSide(ctx, p, r); err != nil {
				return nil, err
			}
			if err := p.openDirect(ctx, r); err != nil {
				return nil, err
			}
			p.openNotifier(ctx)
			checks := append(clockChecks(p.registry, p.probe, p.probe, p.gate), databaseCheck(p.probe), gateCheck(p.gate))
			ops := opsService(p, r, checks...)
			return append(ops, workerService(p)), nil
		}),
	}
}

func workerService(p *parts) service {
	w := worker.New(worker.Config{
		Gate: p.gate, GateStore: p.gateStore, Deadlines: deadlines.NewStore(p.writePool),
		Store: p.store, Reader: eventstore.NewReader(p.writePool), Notifier: p.notifier, Payments: p.payments,
		Presence: p.presence, Registerer: p.registry, Logger: p.log,
	})
	return service{name: "worker", run: w.Run}
}
