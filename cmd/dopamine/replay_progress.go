package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/dopaminestore/dopamine/projections/replay"
)

// lineInterval is the interval at which a replay prints a line if there is no terminal.
const lineInterval = 2 * time.Second

// replayProgress shows replays: a bar for each at a terminal, otherwise plain lines. Output written
// to it appears between them.
type replayProgress struct {
	out  io.Writer
	bars *mpb.Progress // nil: lines

	updating sync.Mutex // held by update while it calls a bar
	bar      map[string]*mpb.Bar
	printed  map[string]time.Time

	mu  sync.Mutex // not held while calling a bar: bars call last
	now map[string]replay.Replay
}

func newReplayProgress(out io.Writer) *replayProgress {
	s := &replayProgress{out: out, now: map[string]replay.Replay{}, bar: map[string]*mpb.Bar{}, printed: map[string]time.Time{}}
	if isTerminal(out) {
		s.bars = mpb.New(mpb.WithOutput(out), mpb.WithAutoRefresh())
	}
	return s
}

// Write passes log lines through.
func (s *replayProgress) Write(b []byte) (int, error) {
	if s.bars != nil {
		return s.bars.Write(b)
	}
	return s.out.Write(b)
}

func (s *replayProgress) update(r replay.Replay) {
	s.updating.Lock()
	defer s.updating.Unlock()
	s.mu.Lock()
	before := s.now[r.Projection]
	s.now[r.Projection] = r
	s.mu.Unlock()
	if s.bars == nil {
		if r.Phase != before.Phase || time.Since(s.printed[r.Projection]) >= lineInterval {
			s.printed[r.Projection] = time.Now()
			fmt.Fprintf(s.out, "%s: %s, %d of %d events (%.0f/s%s)\n", r.Projection, r.Phase, r.Position, r.Target, r.Rate, eta(r))
		}
		return
	}
	bar := s.bar[r.Projection]
	if bar == nil || before.ID != r.ID {
		if bar != nil {
			bar.Abort(false)
		}
		bar = s.newBar(r)
		s.bar[r.Projection] = bar
	}
	bar.SetTotal(max(r.Target, r.Position, 1), false)
	bar.SetCurrent(r.Position)
}

func (s *replayProgress) newBar(r replay.Replay) *mpb.Bar {
	name := r.Projection
	say := func(f func(replay.Replay) string) decor.Decorator {
		return decor.Any(func(decor.Statistics) string { return f(s.last(name)) }, decor.WCSyncSpace)
	}
	return s.bars.AddBar(max(r.Target, 1),
		mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR), say(func(r replay.Replay) string { return r.Phase })),
		mpb.AppendDecorators(
			say(func(r replay.Replay) string { return fmt.Sprintf("%d / %d", r.Position, max(r.Target, r.Position)) }),
			say(func(r replay.Replay) string { return fmt.Sprintf("%.0f/s", r.Rate) }),
			say(eta)))
}

func eta(r replay.Replay) string {
	if left := r.ETA(); left > 0 {
		return " ETA " + left.Round(time.Second).String()
	}
	return ""
}

// last returns the latest progress of a projection.
func (s *replayProgress) last(projection string) replay.Replay {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now[projection]
}

// end leaves the bars in their last state.
func (s *replayProgress) end() {
	if s.bars == nil {
		return
	}
	s.updating.Lock()
	bars := slices.Collect(maps.Values(s.bar))
	s.updating.Unlock()
	for _, bar := range bars {
		bar.EnableTriggerComplete()
		bar.Abort(false)
	}
	s.bars.Wait()
}
