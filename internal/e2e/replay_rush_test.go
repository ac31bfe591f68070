package e2e

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// rushRate is the clicks per second while a replay runs: enough to keep the projectors busy, on two
// cores for everything.
const rushRate = 150

// TestReplayUnderRush rebuilds the read models of a long history while buyers
// buy and readers read, first undisturbed and then with each fault.
func TestReplayUnderRush(t *testing.T) {
	s := startReplaySystem(t)
	for _, part := range []struct {
		name string
		do   func(*replaySystem)
	}{
		{"a rush", (*replaySystem).replaysInARush},
		{"kill -9 of the replay", (*replaySystem).survivesKills},
		{"kill -9 of the projectors in the swap", (*replaySystem).projectorsDieInTheSwap},
		{"projectors stopped across the swap", (*replaySystem).projectorsSleepThroughTheSwap},
		{"a long SELECT across the swap", (*replaySystem).swapsDuringALongSelect},
		{"Postgres killed in mid replay", (*replaySystem).postgresDies},
		{"equal in the end", (*replaySystem).endsEqual},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.do(s.in(t)) }) {
			return
		}
	}
}

// rushing plays rushes, one after the other, until stopped; each has to keep
// the rules.
func (s *replaySystem) rushing() (stop func() (products []string)) {
	const lasts = 3 // seconds that the clicks of one take
	quit, done := make(chan struct{}), make(chan []*process, 1)
	begin := func() *process {
		return s.rush("--buyers", strconv.Itoa(rushRate*lasts), "--stock", strconv.Itoa(rushRate*lasts*2/3), "--rate", strconv.Itoa(rushRate), "--connections", "50")
	}
	first := begin()
	go func() {
		var all []*process
		for p := first; ; p = begin() {
			all = append(all, p)
			<-p.done
			select {
			case <-quit:
				done <- all
				return
			case <-s.t.Context().Done(): // it has failed
				return
			default:
			}
		}
	}()
	return func() (products []string) {
		s.t.Helper()
		close(quit)
		for _, p := range <-done {
			r := report(p)
			require.Equal(s.t, 0, p.status, "%v %s", r.Broken, p.said("stderr"))
			require.Zero(s.t, r.Errors)
			for _, rule := range []string{"R1", "R2", "R3", "R4", "R5", "R6"} {
				require.True(s.t, r.Rules[rule], rule)
			}
			products = append(products, r.Product)
		}
		return products
	}
}

// replaysInARush checks that no client notices, and that the rows are equal.
func (s *replaySystem) replaysInARush() {
	paying := s.rush("--buyers", "200", "--stock", "30", "--rate", "50", "--connections", "20", "--pay", "0.8")
	stop := s.rushing()
	calm := time.NewTimer(min(15*time.Second, 3*time.Second+time.Duration(s.events/100_000)*time.Second))
	undisturbed := s.read(false)
	<-calm.C
	undisturbed.end("without a replay")

	before := s.generations()
	during := s.read(false)
	s.replays("all") // the old generation stays: a projector that missed the swap could go on with it
	during.end("with a replay")
	for view, generation := range s.generations() {
		require.Equal(s.t, before[view]+1, generation, view)
	}
	s.tidy()
	products := stop()
	s.replays("all", "--verify", "--drop-old")
	status := paying.wait(3 * time.Minute)
	r := report(paying)
	require.Equal(s.t, 0, status, "%v %s", r.Broken, paying.said("stderr"))
	s.settled()
	s.kept()
	s.outcome(products[len(products)-1])
	s.outcome(r.Product)
	s.outcome(s.writes.product)
}

// endsEqual compares every row with a replay from the store, and then with one from the topic.
func (s *replaySystem) endsEqual() {
	s.settled()
	for _, p := range append([]*process{s.worker}, s.commands...) { // from here on nothing happens any more
		p.stop()
	}
	s.settled()
	s.replays("all", "--verify", "--drop-old")
	fromStore := s.rows()
	s.replays("all", "--from-kafka", "--verify", "--drop-old")
	require.Equal(s.t, fromStore, s.rows())
	s.tidy()
	s.kept()
	for _, p := range append(append([]*process{s.query}, s.relays...), s.projectors...) {
		p.stop()
	}
}
