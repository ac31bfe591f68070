package topology

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"golang.org/x/sync/semaphore"
)

// callTimeout bounds each call. A lost answer is asked for once more, so a
// caller waits at most about twice as long.
const callTimeout = 900 * time.Millisecond

// Server is one Redis server with the connections to it: a few stay open, more are opened while
// they are needed.
type Server struct {
	Addr    string // host:port
	client  *goredis.Client
	keep    int
	permits chan struct{}       // one for each connection that may be in use, except for builds
	Builds  *semaphore.Weighted // one for each gate that is being built there, in order of arrival
	view    atomic.Int64        // the configuration epoch by which this is a master, 0 if there is none
	seen    func(script string, requests int, took time.Duration, err error)

	silent     atomic.Bool  // the last call was not answered
	unanswered atomic.Int64 // calls in a row
	trying     atomic.Bool  // a call is probing a silent server
	nextTry    atomic.Int64 // when it may be tried again, ns since 1970

	mu      sync.Mutex
	current string          // the instance seen last
	former  map[string]bool // instances seen before; false: one that came back, so they are not successors
	idle    []*Conn
	used    int
	retired bool // the server is no longer a master
}

func newServer(opt *goredis.Options, keep, most, builds int, seen func(string, int, time.Duration, error)) *Server {
	disableRetries(opt, most+builds)
	return &Server{client: goredis.NewClient(opt), keep: keep, permits: make(chan struct{}, most), Builds: semaphore.NewWeighted(int64(builds)), seen: seen}
}

// disableRetries configures a client that neither retries nor reconnects on its own.
func disableRetries(opt *goredis.Options, most int) {
	opt.MaxRetries = -1 // a call is never repeated, whether it was answered or not
	opt.DialerRetries = 1
	opt.DialTimeout, opt.ReadTimeout, opt.WriteTimeout = callTimeout, callTimeout, callTimeout
	opt.ContextTimeoutEnabled = true
	opt.PoolSize, opt.MinIdleConns, opt.PoolTimeout = most, 0, callTimeout
	opt.ConnMaxIdleTime, opt.ConnMaxLifetime = -1, -1
	opt.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	opt.DisableIdentity = true
}

const (
	// maxUnanswered is after how many calls in a row without an answer a server counts as
	// silent: then one call in silentInterval tries it, and all others fail at once. So a
	// server that hangs delays hardly any requests except those that detected it.
	maxUnanswered  = 4
	silentInterval = time.Second
)

// ErrSilent: nothing was sent, because the server has not answered recently.
var ErrSilent = errors.New("redis: the server does not answer")

// buildKey is the key of a context made by ForBuild.
type buildKey struct{}

// ForBuild returns a context for the calls of one of a server's Builds, which makes one call
// at a time: they do not wait for a connection behind requests, of which there may be a rush.
func ForBuild(ctx context.Context) context.Context { return context.WithValue(ctx, buildKey{}, true) }

// with calls do with a connection whose process is known.
func (l *Server) with(ctx context.Context, do func(*Conn) error) error {
	if ctx.Value(buildKey{}) == nil {
		select {
		case l.permits <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("wait for a connection: %w", ctx.Err())
		}
		defer func() { <-l.permits }()
	}
	if l.unanswered.Load() >= maxUnanswered {
		if time.Now().UnixNano() < l.nextTry.Load() || !l.trying.CompareAndSwap(false, true) {
			return ErrSilent
		}
		defer func() {
			l.nextTry.Store(time.Now().Add(silentInterval).UnixNano())
			l.trying.Store(false)
		}()
	}
	err := l.lend(ctx, do)
	switch {
	case !timedOut(err):
		l.unanswered.Store(0)
	case !expired(ctx): // otherwise the caller may have had too little time
		l.unanswered.Add(1)
	}
	return err
}

// expired reports whether the context has ended. A connection's own timer may be the first
// to notice a deadline, so the clock is compared too.
func expired(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline.Add(-deadlineTolerance))
}

// deadlineTolerance is more than the difference between two timers of one deadline.
const deadlineTolerance = 20 * time.Millisecond

func (l *Server) lend(ctx context.Context, do func(*Conn) error) error {
	ln, err := l.take(ctx)
	if err != nil {
		return err
	}
	defer l.put(ln)
	return do(ln)
}

// timedOut reports whether a call ended because no answer came in time.
func timedOut(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// recordInstance records an instance that answered at this address.
func (l *Server) recordInstance(instance string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if instance == l.current {
		return
	}
	if l.former == nil {
		l.former = map[string]bool{}
	}
	if _, back := l.former[instance]; back {
		l.former[instance] = false // both answer here, in turn
	}
	if _, there := l.former[l.current]; !there && l.current != "" {
		l.former[l.current] = true
	}
	l.current = instance
}

// Superseded reports whether the instance was seen at this address and then replaced by
// another one for good.
func (l *Server) Superseded(instance string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.former[instance]
}

// errRetired: the server has just ceased to be the master; nothing was sent.
var errRetired = errors.New("redis: another server is the master now")

// take returns an idle connection or a new one. An idle one may have been disconnected in the
// meantime: then a new one replaces it, because nothing was sent yet.
func (l *Server) take(ctx context.Context) (*Conn, error) {
	l.mu.Lock()
	if l.retired {
		l.mu.Unlock()
		return nil, errRetired
	}
	l.used++
	var ln *Conn
	if n := len(l.idle); n > 0 {
		ln, l.idle = l.idle[n-1], l.idle[:n-1]
	}
	l.mu.Unlock()
	if ln != nil {
		if time.Since(ln.identifiedAt) <= identityInterval || ln.Identify(ctx) == nil {
			return ln, nil
		}
		_ = ln.Redis.Close()
	}
	ln = &Conn{Redis: l.client.Conn(), Server: l, seen: l.seen}
	if err := ln.Identify(ctx); err != nil {
		ln.broken = true
		l.put(ln)
		return nil, err
	}
	return ln, nil
}

func (l *Server) put(ln *Conn) {
	l.mu.Lock()
	if ln.broken { // the others may be disconnected too: check before use
		for _, other := range l.idle {
			other.identifiedAt = time.Time{}
		}
	}
	keep := !ln.broken && !l.retired && len(l.idle) < l.keep
	if keep {
		l.idle = append(l.idle, ln)
	}
	l.used--
	last := l.retired && l.used == 0
	l.mu.Unlock()
	if !keep {
		_ = ln.Redis.Close()
	}
	if last {
		_ = l.client.Close()
	}
}

// retire closes the connections, each after its call was answered.
func (l *Server) retire() {
	l.mu.Lock()
	idle, last := l.idle, l.used == 0
	l.idle, l.retired = nil, true
	l.mu.Unlock()
	for _, ln := range idle {
		_ = ln.Redis.Close()
	}
	if last {
		_ = l.client.Close()
	}
}

func (l *Server) close() error {
	l.mu.Lock()
	idle := l.idle
	l.idle = nil
	l.mu.Unlock()
	var errs []error
	for _, ln := range idle {
		errs = append(errs, ln.Redis.Close())
	}
	return errors.Join(append(errs, l.client.Close())...)
}

// errEvicts: a server may evict keys of a gate.
var errEvicts = errors.New("must be noeviction, because a full Redis would evict gates")

// checkNoEviction returns an error if a Redis may evict keys of a gate. If the server does
// not allow the query, it is accepted: the counts would reveal an eviction.
func (l *Server) checkNoEviction(ctx context.Context) error {
	got, err := l.client.ConfigGet(ctx, "maxmemory-policy").Result()
	var refused goredis.Error
	if errors.As(err, &refused) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("redis: ask for maxmemory-policy: %w", err)
	}
	if policy, ok := got["maxmemory-policy"]; ok && policy != "noeviction" {
		return fmt.Errorf("redis: maxmemory-policy is %q: %w", policy, errEvicts)
	}
	return nil
}

// View returns the configuration epoch by which this is a master, plus 1; 0 if there is none.
func (l *Server) View() int64 { return l.view.Load() }

// Silent reports whether the last call was not answered.
func (l *Server) Silent() bool { return l.silent.Load() }

// recordResult records whether the server answered a call.
func (l *Server) recordResult(err error) {
	var refused goredis.Error
	switch {
	case err == nil, errors.As(err, &refused):
		if l.silent.Load() {
			l.silent.Store(false)
		}
	case errors.Is(err, ErrMoved), errors.Is(err, errRetired), errors.Is(err, context.Canceled): // not evidence about the server
	default:
		l.silent.Store(true)
	}
}
