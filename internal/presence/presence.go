// Package presence keeps the list of live processes in Postgres. With it workers divide the
// products among themselves, and a grant whose API node has died is withdrawn without waiting for
// an append that cannot happen.
//
// Each process has a row with a counter that it increments every half second. Observers measure
// with their own monotonic clock for how long a counter has not changed, and count only reads that
// succeeded: no two clocks are compared, and an outage of Postgres makes no process appear dead. A
// process that was paused for longer than DeadAfter counts as dead until its next beat. So this
// list may only influence speed and the division of work, never correctness.
package presence

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dopaminestore/dopamine/internal/sleep"
)

const (
	// beatInterval is the interval at which a process increments its counter.
	beatInterval = 500 * time.Millisecond
	// DeadAfter is how long a live process's counter may stay unchanged.
	DeadAfter = 2 * time.Second
	// minReads is how many reads must have found the counter unchanged.
	minReads = 3
	// forgetAfter is the time after which the row of a dead process is removed.
	forgetAfter = 10 * time.Minute
	// maxGone is the maximum number of remembered processes without a row.
	maxGone = 10_000

	beatTimeout = 2 * time.Second
)

// Process is another process, or this one, as the list has it.
type Process struct {
	ID          int64
	Works       bool
	Unreachable []string // the Redis masters that it cannot reach
}

// Presence is this process's entry in the list, and its knowledge of the others. Created by Join;
// safe for concurrent use.
type Presence struct {
	pool   *pgxpool.Pool
	works  bool
	log    *slog.Logger
	cancel context.CancelFunc
	ended  chan struct{}
	joined chan struct{} // closed with the first successful beat

	mu          sync.Mutex
	id          int64 // 0: not in the list
	unreachable []string
	reads       int // successful ones
	seen        map[int64]*sight
	gone        map[int64]absence // processes that were queried and have no row
	lastDeath   time.Time
	changed     chan struct{} // closed and replaced when the live workers change
	workers     []Process     // live, by id
}

// sight is the last observation of a process.
type sight struct {
	Process
	beats int64
	since time.Time // of the last change
	reads int       // up to the last change
	dead  bool
}

type absence struct {
	since time.Time
	reads int
}

// Join puts this process into the list and keeps it there until Close. It does not
// wait for Postgres: Joined is closed once it is there.
func Join(ctx context.Context, pool *pgxpool.Pool, works bool, logger *slog.Logger) *Presence {
	if logger == nil {
		logger = slog.Default()
	}
	p := &Presence{
		pool: pool, works: works, log: logger.With("component", "presence"), ended: make(chan struct{}), joined: make(chan struct{}),
		seen: map[int64]*sight{}, gone: map[int64]absence{}, changed: make(chan struct{}),
	}
	ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go p.keepBeating(ctx)
	return p
}

// Joined is closed when this process is in the list and has read it.
func (p *Presence) Joined() <-chan struct{} { return p.joined }

// Close takes the process out of the list: nothing that it began is on its way.
// Close is idempotent.
func (p *Presence) Close(ctx context.Context) error {
	p.cancel()
	<-p.ended
	p.mu.Lock()
	id := p.id
	p.id = 0
	p.mu.Unlock()
	if id == 0 {
		return nil
	}
	if _, err := p.pool.Exec(ctx, `delete from processes where id = $1`, id); err != nil {
		return fmt.Errorf("leave the list of processes: %w", err)
	}
	return nil
}

// ID returns this process's id in the list, which is never reused; 0 if it has none.
func (p *Presence) ID() int64 {
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.id
}

// SetUnreachable publishes which Redis masters this process cannot reach, with the
// next beat.
func (p *Presence) SetUnreachable(masters []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unreachable = slices.Clone(masters)
}

// Workers are the live ones by id, and a channel that is closed when they change.
func (p *Presence) Workers() ([]Process, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.workers, p.changed
}

// LastDeath returns when a process was last found dead or gone; the zero time if never.
func (p *Presence) LastDeath() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lastDeath
}

// Dead reports whether a process is known to be dead. One that was never in the list, or left it,
// counts as dead after the list has been read a few times.
func (p *Presence) Dead(id int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s, listed := p.seen[id]; listed {
		return s.dead
	}
	if id == p.id {
		return false
	}
	first, asked := p.gone[id]
	if !asked {
		if len(p.gone) >= maxGone {
			clear(p.gone)
		}
		p.gone[id] = absence{time.Now(), p.reads}
		return false
	}
	return p.reads >= first.reads+minReads
}

func (p *Presence) keepBeating(ctx context.Context) {
	defer close(p.ended)
	joined, failing := false, false
	for range sleep.Every(ctx, beatInterval) {
		err := p.beat(ctx)
		switch {
		case err == nil && !joined:
			joined = true
			close(p.joined)
		case err != nil && !failing && ctx.Err() == nil:
			p.log.WarnContext(ctx, "heartbeat failed, retrying", "error", err)
		}
		failing = err != nil
	}
}

const (
	beatSQL = `update processes set beats = beats + 1, unreachable = $2 where id = $1`
	joinSQL = `insert into processes (works, unreachable) values ($1, $2) returning id`
	listSQL = `select id, beats, works, unreachable from processes`
)

// beat increments this process's counter, inserts its row if necessary, and reads the others'.
func (p *Presence) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	p.mu.Lock()
	id, unreachable := p.id, slices.Clone(p.unreachable)
	p.mu.Unlock()
	if unreachable == nil {
		unreachable = []string{}
	}
	if id != 0 {
		tag, err := p.pool.Exec(ctx, beatSQL, id, unreachable)
		if err != nil {
			return fmt.Errorf("count up: %w", err)
		}
		if tag.RowsAffected() == 0 { // forgotten as dead
			id = 0
		}
	}
	if id == 0 {
		if err := p.pool.QueryRow(ctx, joinSQL, p.works, unreachable).Scan(&id); err != nil {
			return fmt.Errorf("join the list: %w", err)
		}
		p.mu.Lock()
		p.id = id
		p.mu.Unlock()
	}
	rows, err := p.pool.Query(ctx, listSQL)
	if err != nil {
		return fmt.Errorf("read the list: %w", err)
	}
	type listed struct {
		Process
		beats int64
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l listed, err error) {
		err = row.Scan(&l.ID, &l.beats, &l.Works, &l.Unreachable)
		return l, err
	})
	if err != nil {
		return fmt.Errorf("read the list: %w", err)
	}
	now := time.Now()
	p.mu.Lock()
	p.reads++
	found := make(map[int64]bool, len(all))
	for _, l := range all {
		found[l.ID] = true
		delete(p.gone, l.ID)
		s := p.seen[l.ID]
		if s == nil || s.beats != l.beats {
			p.seen[l.ID] = &sight{Process: l.Process, beats: l.beats, since: now, reads: p.reads}
			continue
		}
		if !s.dead && l.ID != id && now.Sub(s.since) >= DeadAfter && p.reads-s.reads >= minReads {
			s.dead, p.lastDeath = true, now
			p.log.InfoContext(ctx, "process found dead", "process", l.ID, "worker", l.Works)
		}
	}
	var forgotten []int64
	for other, s := range p.seen {
		switch {
		case !found[other]:
			delete(p.seen, other)
			if !s.dead {
				p.lastDeath = now
			}
		case s.dead && now.Sub(s.since) > forgetAfter:
			forgotten = append(forgotten, other)
		}
	}
	p.setWorkers()
	p.mu.Unlock()
	if len(forgotten) > 0 {
		if _, err := p.pool.Exec(ctx, `delete from processes where id = any($1)`, forgotten); err != nil {
			return fmt.Errorf("forget dead processes: %w", err)
		}
	}
	return nil
}

// setWorkers is called with the lock held.
func (p *Presence) setWorkers() {
	var live []Process
	for _, s := range p.seen {
		if s.Works && !s.dead {
			live = append(live, s.Process)
		}
	}
	slices.SortFunc(live, func(a, b Process) int { return int(a.ID - b.ID) })
	same := slices.EqualFunc(live, p.workers, func(a, b Process) bool {
		return a.ID == b.ID && slices.Equal(a.Unreachable, b.Unreachable)
	})
	if !same {
		p.workers = live
		close(p.changed)
		p.changed = make(chan struct{})
	}
}

// Owner returns the worker that is responsible for a product whose gate is on a master: the one
// with the highest hash among those that reach it (rendezvous hashing, so that a worker that joins
// or leaves moves no product between the others). It returns false if no worker reaches it.
func Owner(workers []Process, product uuid.UUID, master string) (int64, bool) {
	var owner int64
	var highest uint64
	found := false
	for _, w := range workers {
		if slices.Contains(w.Unreachable, master) {
			continue
		}
		if h := weight(product, w.ID); !found || h > highest {
			owner, highest, found = w.ID, h, true
		}
	}
	return owner, found
}

// weight mixes a product and a worker (the finaliser of splitmix64).
func weight(product uuid.UUID, worker int64) uint64 {
	h := uint64(worker) * 0x9e3779b97f4a7c15
	for i := 0; i < len(product); i += 8 {
		var word uint64
		for _, b := range product[i : i+8] {
			word = word<<8 | uint64(b)
		}
		h = mix(h ^ word)
	}
	return h
}

func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
