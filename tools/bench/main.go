package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// section is a part of the run that can be selected by name.
type section struct {
	name  string
	about string
	run   func(context.Context, *report) error
}

func sections() []section {
	all := []section{
		{"acquire", "sold-out responses compared with a bare Echo handler", acquireSection},
		{"rush", "latency, visibility and memory in a rush", rushSection},
		{"streams", "10,000 open product streams compared with a bare loop of writes", streamsSection},
		{"traffic", "live traffic with and without a replay", trafficSection},
	}
	for _, s := range suites {
		all = append(all, section{s.name, s.about, s.run})
	}
	return all
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	args := os.Args[1:]
	if len(args) == 3 && args[0] == "bare" {
		exitOn(serveBare(ctx, args[1], args[2]))
		return
	}
	if len(args) == 3 && args[0] == "bare-streams" {
		exitOn(serveBareStreams(ctx, args[1], args[2]))
		return
	}
	wanted, err := choose(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	out := &report{}
	var failed []error
	for _, s := range wanted {
		began := time.Now()
		fmt.Fprintf(os.Stderr, "%s: %s …\n", s.name, s.about)
		if err := s.run(ctx, out); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", s.name, err))
		}
		fmt.Fprintf(os.Stderr, "%s: %.0f s\n", s.name, time.Since(began).Seconds())
		if ctx.Err() != nil {
			break
		}
	}
	out.print(os.Stdout)
	exitOn(errors.Join(failed...))
}

// choose returns the selected sections, all if none is named.
func choose(names []string) ([]section, error) {
	all := sections()
	if len(names) == 0 {
		return all, nil
	}
	var wanted []section
	for _, name := range names {
		i := slices.IndexFunc(all, func(s section) bool { return s.name == name })
		if i < 0 {
			var b strings.Builder
			fmt.Fprintf(&b, "unknown section %q; available:\n", name)
			for _, s := range all {
				fmt.Fprintf(&b, "  %-12s %s\n", s.name, s.about)
			}
			return nil, errors.New(b.String())
		}
		wanted = append(wanted, all[i])
	}
	return wanted, nil
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
