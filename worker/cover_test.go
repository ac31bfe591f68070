package worker

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/gatestore"
	"github.com/dopaminestore/dopamine/redis"
)

// A lease is covered only by a read that the gate's clock puts LeaseTime after an
// earlier read of the same gate, with the lease already seen in Postgres.
func TestCover_RequiresExpiredLease(t *testing.T) {
	first, second := redis.LeaseID{Beat: 1, At: time.Unix(100, 0)}, redis.LeaseID{Beat: 2, At: time.Unix(100, 0)}
	g := &watchedGate{}
	for _, step := range []struct {
		name   string
		lease  redis.LeaseID
		now    time.Duration
		leased bool
		born   int64
		more   bool
		want   redis.LeaseID
	}{
		{name: "seen first", lease: first, now: 10 * time.Second, leased: true},
		{name: "it may still decide", lease: first, now: 11 * time.Second, leased: true},
		{name: "its lease has run out, another node's may be on its way", lease: first, now: 13*time.Second - 1},
		{name: "lines are left to be read", lease: first, now: 13 * time.Second, more: true},
		{name: "covered", lease: first, now: 13 * time.Second, want: first},
		{name: "the next lease, at the same time of a clock that was stepped back", lease: second, now: 14 * time.Second, leased: true, want: redis.LeaseID{}},
		{name: "too early for it", lease: second, now: 16 * time.Second},
		{name: "the gate's clock was stepped back", lease: second, now: 5 * time.Second},
		{name: "covered, too", lease: second, now: 17 * time.Second, want: second},
		{name: "another gate", lease: second, now: 30 * time.Second, born: 1},
	} {
		log := &redis.LogPiece{Exists: true, Alive: true, FirstEpoch: step.born, Now: step.now, Leased: step.leased, More: step.more}
		got := g.cover(gatestore.Lease{ID: step.lease}, log)
		require.True(t, step.want.Equal(got), "%s: %+v", step.name, got)
	}
}
