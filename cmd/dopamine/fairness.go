package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/domain/fairness"
	"github.com/dopaminestore/dopamine/internal/config"
)

func fairnessCommand() *cli.Command {
	return &cli.Command{
		Name:  "fairness",
		Usage: "prove from a decision log that grants followed arrival",
		Commands: []*cli.Command{{
			Name:      "verify",
			Usage:     "fold a decision log and report where it is inconsistent",
			ArgsUsage: "<product id|file|->",
			Flags:     settings([]*config.Setting{config.QueryAddr, config.QueryURL, config.Data}),
			Before:    config.FromData,
			Action:    verifyFairness,
		}},
	}
}

func verifyFairness(ctx context.Context, cmd *cli.Command) error {
	if cmd.Args().Len() != 1 {
		return config.Usage("fairness verify takes one thing to verify: a product's id, a file with its decision log, or - for standard input")
	}
	log, err := openLog(ctx, cmd, cmd.Args().First())
	if err != nil {
		return err
	}
	defer log.Close()
	out := cmd.Root().Writer
	broken := 0
	report, err := fairness.Verify(log, func(wrong error) {
		broken++
		fmt.Fprintln(out, wrong)
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d decided in %d epochs: %d granted, %d refused; %d returned; %d inversions\n",
		report.Decided, report.Epochs, report.Granted, report.Refused.Total(), report.Returned, report.Inversions)
	if broken > 0 || report.Inversions > 0 {
		fmt.Fprintf(out, "the log breaks in %d places\n", broken)
		return quietError{}
	}
	_, err = fmt.Fprintln(out, "the log folds")
	return err
}

func openLog(ctx context.Context, cmd *cli.Command, what string) (io.ReadCloser, error) {
	if what == "-" {
		return io.NopCloser(cmd.Root().Reader), nil
	}
	id, err := uuid.Parse(what)
	if err != nil {
		f, err := os.Open(what)
		if err != nil {
			return nil, config.Usage(fmt.Sprintf("%q is neither a product's id nor a file that can be read: %v", what, err))
		}
		return f, nil
	}
	r := config.From(cmd)
	base := r.QueryURL()
	if err := r.Err(); err != nil {
		return nil, err
	}
	const within = time.Minute
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v1/products/"+id.String()+"/fairness/log", nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Timeout: within}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("read the decision log: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // best effort: the status is sufficient
		return nil, fmt.Errorf("read the decision log of %s: status %d: %s", id, resp.StatusCode, text)
	}
	return resp.Body, nil
}
