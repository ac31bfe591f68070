package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/tools/rush"
)

// tokenLife is far longer than any rush.
const tokenLife = 12 * time.Hour

// rushFlags are the flags by which a rush is described.
func rushFlags() []cli.Flag {
	return []cli.Flag{
		&cli.IntFlag{Name: "buyers", Usage: "how many buyers click", Value: rush.DefaultBuyers},
		&cli.IntFlag{Name: "stock", Usage: "how many units are on sale", Value: rush.DefaultStock},
		&cli.IntFlag{Name: "connections", Usage: "open connections that the buyers share", Value: rush.DefaultConnections},
		&cli.FloatFlag{Name: "rate", Usage: "clicks per second (0: as fast as the connections allow)"},
		&cli.FloatFlag{Name: "pay", Usage: "share of the granted buyers who pay, as in 0.8; the others let their slots expire, and the rush continues until every slot has ended"},
		&cli.BoolFlag{Name: "json", Usage: "print the outcome as JSON"},
	}
}

func rushCommand() *cli.Command {
	return &cli.Command{
		Name:  "rush",
		Usage: "play the ten o'clock rush against a running system and read back whether the rules held",
		Flags: append(settings(signing, []*config.Setting{config.CommandURL, config.QueryURL, config.CommandAddr, config.QueryAddr, config.GatewayURL}),
			rushFlags()...),
		Before: config.FromData,
		Action: func(ctx context.Context, cmd *cli.Command) error {
			r := config.From(cmd)
			cfg := rushConfig(cmd, r)
			cfg.Tokens = tokensOf(signerOf(r))
			cfg.CommandURLs, cfg.QueryURL, cfg.GatewayURL = r.CommandURLs(), r.QueryURL(), r.GatewayURL()
			if err := r.Err(); err != nil {
				return err
			}
			return playRush(ctx, cmd, cfg)
		},
	}
}

func rushConfig(cmd *cli.Command, r *config.Reader) rush.Config {
	cfg := rush.Config{
		Buyers: cmd.Int("buyers"), Stock: cmd.Int("stock"), Connections: cmd.Int("connections"), Rate: cmd.Float("rate"),
		Pay: cmd.Float("pay"), Payments: cmd.IsSet("pay"),
		Log: slog.New(slog.NewTextHandler(cmd.Root().ErrWriter, nil)),
	}
	if err := cfg.Check(); err != nil {
		r.RefuseFlag(err.Flag, err.Message)
	}
	return cfg
}

func tokensOf(signer *auth.Signer) rush.Tokens {
	return func(sub uuid.UUID, role string) (string, error) {
		return signer.Sign(sub, auth.RoleNamed(role), tokenLife)
	}
}

// playRush plays and prints; a rule that did not hold is exit status 1.
func playRush(ctx context.Context, cmd *cli.Command, cfg rush.Config) error {
	out, errOut := cmd.Root().Writer, cmd.Root().ErrWriter
	cfg.Progress = progressOn(errOut)
	report, err := rush.Run(ctx, cfg)
	if report != nil {
		if perr := printRush(out, report, cmd.Bool("json")); err == nil {
			err = perr
		}
	}
	if err != nil {
		return err
	}
	if !report.Held() {
		return quietError{}
	}
	return nil
}

func printRush(w io.Writer, report *rush.Report, asJSON bool) error {
	if !asJSON {
		report.Print(w)
		return nil
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(report)
}

// progressOn shows a bar to a person and plain lines to a file.
func progressOn(w io.Writer) rush.Progress {
	if isTerminal(w) {
		return rush.Bar(w)
	}
	return rush.Lines(w)
}
