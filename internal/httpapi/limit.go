package httpapi

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/dopaminestore/dopamine/internal/problem"
)

const (
	limitShards = 64
	// burstOf is the size of a burst, in seconds' worth of requests.
	burstOf = 2
	// limitPeriod is how long a bucket takes to fill; after that it holds no information.
	limitPeriod = burstOf * time.Second
)

// limitKey identifies the client: a buyer's id, or a client's address in its 16-byte form.
type limitKey = [16]byte

// limiter is a token bucket for each key, kept as one number: the time at which the bucket will be
// full again (the generic cell rate algorithm, ITU-T I.371).
//
// Memory is bounded by traffic: a bucket that was not used for limitPeriod is full, like that of an
// unknown key. Therefore each shard keeps two generations of keys, each limitPeriod long, and drops
// the older one.
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
	current map[limitKey]time.Duration
	before  map[limitKey]time.Duration
	_       [16]byte // keeps neighbours' locks off one cache line
}

// newLimiter returns a limiter of perSecond requests per second, in bursts of twice as many. For 0
// it returns nil, which allows every request.
func newLimiter(perSecond int, now func() time.Time) *limiter {
	if perSecond <= 0 {
		return nil
	}
	l := &limiter{interval: time.Second / time.Duration(perSecond), now: now, begin: now(), seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].current = map[limitKey]time.Duration{}
		l.shards[i].before = map[limitKey]time.Duration{}
	}
	return l
}

var (
	errBuyerRate     = problem.New(problem.TooManyRequests, "too many requests from one buyer; retry more slowly")
	errAnonymousRate = problem.New(problem.TooManyRequests, "too many requests without a token from one address; retry more slowly")
)

// take counts a request of the key, or refuses it with refusal, without counting it.
func (l *limiter) take(key limitKey, refusal *problem.Error) error {
	if l == nil {
		return nil
	}
	now := l.now().Sub(l.begin)
	s := &l.shards[maphash.Bytes(l.seed, key[:])%limitShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn(now)
	full, ok := s.current[key]
	if !ok {
		full = s.before[key]
	}
	full = max(full, now) + l.interval
	if over := full - now - limitPeriod; over > 0 {
		return refusal.WithRetryAfter(over)
	}
	s.current[key] = full
	return nil
}

// turn starts a new generation if the current one is old enough.
func (s *limitShard) turn(now time.Duration) {
	switch age := now - s.turned; {
	case age < limitPeriod:
		return
	case age >= 2*limitPeriod:
		s.current = map[limitKey]time.Duration{}
		s.before = map[limitKey]time.Duration{}
	default:
		s.before, s.current = s.current, map[limitKey]time.Duration{}
	}
	s.turned = now
}
