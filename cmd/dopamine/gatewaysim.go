package main

import (
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/internal/gatewaysim"
)

// simulatorAddr is where the simulator listens unless told otherwise.
const simulatorAddr = "127.0.0.1:8090"

// How the simulator behaves unless told otherwise: a bad day.
const (
	simulatedSuccess   = 0.9
	simulatedLatency   = 200 * time.Millisecond
	simulatedLost      = 0.1
	simulatedRepeated  = 0.2
	simulatedReordered = 0.2
)

func gatewaySimCommand() *cli.Command {
	share := func(name, usage string, value float64) cli.Flag {
		return &cli.FloatFlag{Name: name, Usage: usage + ", 0 to 1", Value: value}
	}
	return &cli.Command{
		Name:  "gateway-sim",
		Usage: "a payment gateway to try things with: it loses, repeats and reorders what it tells",
		Flags: append(settings([]*config.Setting{config.WebhookSecrets, config.Data}, observed),
			&cli.StringFlag{Name: "addr", Usage: "address to listen on", Value: simulatorAddr},
			share("success-rate", "share of payments that succeed", simulatedSuccess),
			share("refused", "share of payments that are refused at once", 0),
			&cli.DurationFlag{Name: "latency", Usage: "time from a payment's start to its outcome", Value: simulatedLatency},
			share("lost", "share of callbacks that are never sent", simulatedLost),
			share("repeated", "share of callbacks that are sent again", simulatedRepeated),
			share("reordered", "share of callbacks that others overtake", simulatedReordered)),
		Before: config.FromData,
		Action: role(func(_ context.Context, p *parts, r *config.Reader) ([]service, error) {
			r.Require(config.WebhookSecrets)
			cmd := r.Command()
			opts := gatewaysim.Options{
				Addr: cmd.String("addr"), WebhookSecrets: r.WebhookSecrets(),
				SuccessRate: cmd.Float("success-rate"), Refused: cmd.Float("refused"), Latency: cmd.Duration("latency"),
				Lost: cmd.Float("lost"), Repeated: cmd.Float("repeated"), Reordered: cmd.Float("reordered"), Logger: p.log,
			}
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

func simService(p *parts, sim *gatewaysim.Server) service {
	return service{name: "gateway simulator", ready: sim.Ready(), run: func(ctx context.Context) error {
		if err := sim.Listen(); err != nil {
			return fmt.Errorf("%w; name another address", err)
		}
		p.log.Info("listening", "api", "gateway simulator", "addr", sim.Addr().String())
		return sim.Run(ctx)
	}}
}
