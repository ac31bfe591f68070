package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/internal/gatewaysim"
)

// simulatorSide is how the simulator behaves.
var simulatorSide = []*config.Setting{config.SuccessRate, config.RefusedRate, config.Latency, config.LostRate, config.RepeatedRate, config.ReorderedRate}

func gatewaySimCommand() *cli.Command {
	return &cli.Command{
		Name:   "gateway-sim",
		Usage:  "a payment gateway to try things with: it loses, repeats and reorders what it tells",
		Flags:  settings([]*config.Setting{config.SimulatorAddr, config.WebhookSecrets, config.Data}, simulatorSide, observed),
		Before: config.FromData,
		Action: role(func(_ context.Context, p *parts, r *config.Reader) ([]service, error) {
			r.Require(config.WebhookSecrets)
			opts := simulatorOptions(p, r, r.Addr(config.SimulatorAddr))
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

func simulatorOptions(p *parts, r *config.Reader, addr string) gatewaysim.Options {
	s := r.Simulation()
	return gatewaysim.Options{
		Addr: addr, WebhookSecrets: r.WebhookSecrets(), SuccessRate: s.SuccessRate, Refused: s.Refused, Latency: s.Latency,
		Lost: s.Lost, Repeated: s.Repeated, Reordered: s.Reordered, Logger: p.log,
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
