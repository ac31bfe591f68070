package httpapi

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/problem"
)

const (
	limitShards = 64
	// burstOf is how many seconds' worth of requests may come at once.
	burstOf = 2
	// limitPeriod is how long a bucket takes to fill, after which it says nothing more.
	limitPeriod = burstOf * time.Second
)

// limiter is a token bucket for each buyer, kept as one number: the time at which
// the bucket will be full again (the generic cell rate algorithm, ITU-T I.371).
//
// Memory is bounded by traffic: a bucket untouched for limitPeriod is full, which is
// what an unknown buyer has, so each shard keeps two generations of buyers, each
// limitPeriod long, and drops the older one.
type limiter struct {
	interval time.Duration // between two requests at the allowed rate
	now      func() time.Time
	begin    time.Time
	seed     maphash.Seed
	shards   [limitShards]limitShard
}

type limitShard struct {
	mu      sync.Mutex
	turned  time.Duration // when the generations last changed
	current map[uuid.UUID]time.Duration
	before  map[uuid.UUID]time.Duration
	_       [16]byte // keeps neighbours' locks off one cache line
}

// newLimiter makes a limiter of that many requests a second, in bursts of twice as
// many; nil, which lets everything through, for 0.
func newLimiter(perSecond int, now func() time.Time) *limiter {
	if perSecond <= 0 {
		return nil
	}
	l := &limiter{interval: time.Second / time.Duration(perSecond), now: now, begin: now(), seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].current = map[uuid.UUID]time.Duration{}
		l.shards[i].before = map[uuid.UUID]time.Duration{}
	}
	return l
}

var errRate = problem.New(problem.TooManyRequests, "too many requests of one buyer; wait and go on more slowly")

// take counts a request of the buyer, or refuses it without counting it.
func (l *limiter) take(buyer uuid.UUID) error {
	if l == nil {
		return nil
	}
	now := l.now().Sub(l.begin)
	s := &l.shards[maphash.Bytes(l.seed, buyer[:])%limitShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn(now)
	full, ok := s.current[buyer]
	if !ok {
		full = s.before[buyer]
	}
	full = max(full, now) + l.interval
	if over := full - now - limitPeriod; over > 0 {
		return errRate.WithRetryAfter(over)
	}
	s.current[buyer] = full
	return nil
}

// turn begins a new generation where the current one is old enough.
func (s *limitShard) turn(now time.Duration) {
	switch age := now - s.turned; {
	case age < limitPeriod:
		return
	case age >= 2*limitPeriod:
		s.current = map[uuid.UUID]time.Duration{}
		s.before = map[uuid.UUID]time.Duration{}
	default:
		s.before, s.current = s.current, map[uuid.UUID]time.Duration{}
	}
	s.turned = now
}
