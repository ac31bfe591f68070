package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"
)

// Parameters and targets of the rush measurement.
const (
	rushStock    = 100
	rushBuyers   = 100_000
	fewLines     = 1000
	manyLines    = 10_000
	openRush     = 8.0 // seconds that a rush at a fixed rate takes
	p99Aim       = 100 // ms
	errorAim     = 0.1 // % of the requests
	sampleEvery  = 100 * time.Millisecond
	visibleShare = 0.5 // share of the connections' capacity while visibility is measured
)

// shares of the maximum rate of the connections. The rush at a fixed rate uses the first whose p99
// is short enough. A closed loop measures the wait of ten thousand queued buyers, an open one the
// wait of a single click.
var shares = []float64{0.8, 0.6, 0.45, 0.3}

// outcome is the part of `rush --json` that is used.
type outcome struct {
	Granted           int             `json:"granted"`
	Errors            int             `json:"errors"`
	Buyers            int             `json:"buyers"`
	Inversions        int             `json:"inversions"`
	Rules             map[string]bool `json:"rules"`
	RequestsPerSecond float64         `json:"requestsPerSecond"`
	LatencyMs         struct{ P50, P99, P999 float64 }
}

func (o outcome) errorShare() float64 { return 100 * float64(o.Errors) / float64(o.Buyers) }

// rush runs a rush in a separate process. If rate is 0, it is as fast as the connections allow.
func (s *system) rush(ctx context.Context, buyers, connections int, rate float64) (outcome, error) {
	var o outcome
	cmd := exec.CommandContext(ctx, s.binary, "rush", "--json", "--command-url", s.command, "--query-url", s.query,
		"--buyers", strconv.Itoa(buyers), "--stock", strconv.Itoa(rushStock), "--connections", strconv.Itoa(connections),
		"--rate", strconv.FormatFloat(rate, 'f', 0, 64))
	cmd.Env, cmd.Dir, cmd.Stderr = s.env, s.dir, os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return o, fmt.Errorf("rush: %w\n%s", err, text)
	}
	return o, json.Unmarshal(text, &o)
}

func rushSection(ctx context.Context, out *report) error {
	s, err := startSystem(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	few, err := s.rush(ctx, rushBuyers, fewLines, 0)
	if err != nil {
		return err
	}
	out.addRush("rush, 1,000 connections, as fast as they can", few, aim{})
	stop := s.watchMemory()
	many, err := s.rush(ctx, rushBuyers, manyLines, 0)
	memory := stop()
	if err != nil {
		return err
	}
	out.addRush("rush, 10,000 connections, as fast as they can", many, aim{})
	if err := s.openRush(ctx, many.RequestsPerSecond, out); err != nil {
		return err
	}
	for i, p := range s.roles {
		out.add(row{what: "memory at 10,000 connections, " + p.name, figure: memory[i], unit: "MiB"})
	}
	return s.visible(ctx, few.RequestsPerSecond*visibleShare, out)
}

// openRush plays at a fixed rate with 10,000 connections.
func (s *system) openRush(ctx context.Context, carried float64, out *report) error {
	for i, share := range shares {
		rate := carried * share
		o, err := s.rush(ctx, int(rate*openRush), manyLines, rate)
		if err != nil {
			return err
		}
		if i == len(shares)-1 || o.LatencyMs.P99 <= p99Aim && o.errorShare() <= errorAim {
			out.addRush(fmt.Sprintf("rush, 10,000 connections, %.0f clicks/s", rate), o, atMost(p99Aim, "ms"))
			return nil
		}
		out.addRush(fmt.Sprintf("rush, 10,000 connections, %.0f clicks/s", rate), o, aim{})
	}
	return nil
}

func (r *report) addRush(what string, o outcome, p99 aim) {
	r.add(
		row{what: what, figure: o.RequestsPerSecond, unit: "answers/s"},
		row{what: "  p50", figure: o.LatencyMs.P50, unit: "ms"},
		row{what: "  p99", figure: o.LatencyMs.P99, unit: "ms", aim: p99},
		row{what: "  p99.9", figure: o.LatencyMs.P999, unit: "ms"},
		row{what: "  errors", figure: o.errorShare(), unit: "%", aim: atMost(errorAim, "%")},
	)
}

// watchMemory samples the roles' memory until stop is called, which returns the maximum of each, in
// MiB.
func (s *system) watchMemory() (stop func() []float64) {
	most := make([]float64, len(s.roles))
	end := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		ticks := time.NewTicker(sampleEvery)
		defer ticks.Stop()
		for {
			for i, p := range s.roles {
				mib, err := p.resident()
				if err != nil {
					fmt.Fprintln(os.Stderr, "bench:", errors.Join(fmt.Errorf("memory of %s", p.name), err))
				}
				most[i] = max(most[i], mib)
			}
			select {
			case <-ticks.C:
			case <-end:
				return
			}
		}
	})
	return func() []float64 {
		close(end)
		done.Wait()
		return most
	}
}
