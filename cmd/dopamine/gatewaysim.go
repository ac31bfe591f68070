package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/tools/gatewaysim"
)

func gatewaySimCommand() *cli.Command {
	return &cli.Command{
		Name:  "gateway-sim",
		Usage: "run a simulated payment gateway, which can lose, repeat and reorder callbacks, charge twice and more",
		Flags: settings([]*config.Setting{config.SimulatorAddr, config.WebhookSecrets, config.GatewayKey, config.Data},
			config.SimulationSettings, observed),
		Before: config.FromDataIfThere,
		Action: untilStopped(func(_ context.Context, p *parts, r *config.Reader) ([]service, error) {
			r.Require(config.WebhookSecrets)
			opts := simulatorOptions(p, r, r.Addr(config.SimulatorAddr), filepath.Join(r.String(config.Data), "gateway-sim", "books.jsonl"))
			if err := r.Err(); err != nil {
				return nil, err
			}
			sim, err := gatewaysim.New(opts)
			if err != nil {
				return nil, config.Usage(err.Error())
			}
			return []service{simService(p, sim)}, nil
		}),
	}
}

// simulatorOptions reads the simulator's settings. books is the journal's file.
func simulatorOptions(p *parts, r *config.Reader, addr, books string) gatewaysim.Options {
	s := r.Simulation()
	return gatewaysim.Options{
		Addr: addr, WebhookSecrets: r.WebhookSecrets(), Key: r.GatewayKey(), Books: books, Seed: s.Seed, Logger: p.log,
		Behavior: gatewaysim.Behavior{
			SuccessRate: s.SuccessRate, Refused: s.Refused, ActionRate: s.ActionRate, Latency: s.Latency,
			Lost: s.Lost, Repeated: s.Repeated, Reordered: s.Reordered,
			SlowRate: s.SlowRate, SlowLatency: s.SlowLatency, LostResponses: s.LostResponses, RepeatRejected: s.RepeatRejected,
			LowerCase: s.LowerCase, Duplicated: s.Duplicated, Disputed: s.Disputed, DisputesLost: s.DisputesLost,
			RefundsPending: s.RefundsPending, RefundsFailed: s.RefundsFailed, CancelRefused: s.CancelRefused,
		}.Misbehaving(s.Misbehave),
	}
}

func simService(p *parts, sim *gatewaysim.Server) service {
	return service{name: "gateway simulator", ready: sim.Ready(), run: func(ctx context.Context) error {
		if err := sim.Listen(); err != nil {
			return fmt.Errorf("%w; name another address", err)
		}
		p.log.Info("listening", "api", "gateway simulator", "addr", sim.Addr().String())
		return sim.Run(ctx)
	}}
}
