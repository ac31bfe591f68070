package eventstore

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// attempt is one transaction: the results of its first round trip, and the decisions
// for the second.
type attempt struct {
	items    []*item
	groups   []*group
	streams  [][16]byte // that the items append to
	ids      [][16]byte // of the items' events
	deferred []*item    // not in items: repeats of one of them, for the next batch
	outcomes []outcome  // of items, by index
	accepted []int      // indexes of items
	events   int        // of the accepted

	head     int64     // the last position before this transaction
	at       time.Time // of this transaction; zero until the append lock was had
	existing map[uuid.UUID]found
	versions map[uuid.UUID]int

	incarnation int64
	replicated  bool    // commits wait for synchronous standbys
	ahead       float64 // seconds by which at is ahead of the clock
}

// repeats reports whether an append of the attempt was in the log before. Its
// answer must wait for the standbys: the commit may not have, if the server was
// restarted or its wait was cancelled.
func (a *attempt) repeats() bool {
	return slices.ContainsFunc(a.outcomes, func(o outcome) bool { return o.Repeated })
}

// found is an event that existed already.
type found struct {
	position      int64
	stream        uuid.UUID
	typ           string
	schemaVersion int
	payload       []byte
	recordedAt    time.Time
}

// group is the items of one guard.
type group struct {
	guard   Guard
	data    []any
	owners  []int // index of the append each item belongs to
	refused []error
}

// newAttempt collects the parameters of the items. An item with an event id of an
// earlier one is deferred: it repeats an event that is not yet in the log.
func newAttempt(batch []*item) *attempt {
	a := &attempt{existing: map[uuid.UUID]found{}, versions: map[uuid.UUID]int{}}
	ids := map[uuid.UUID]bool{}
	byGuard := map[Guard]*group{}
	for _, it := range batch {
		if it.overlaps(ids) {
			a.deferred = append(a.deferred, it)
			continue
		}
		index := len(a.items)
		a.items = append(a.items, it)
		for _, stream := range it.Streams {
			if _, known := a.versions[stream.Stream]; !known {
				a.versions[stream.Stream] = 0
				a.streams = append(a.streams, stream.Stream)
			}
			for _, event := range stream.Events {
				ids[event.ID] = true
				a.ids = append(a.ids, event.ID)
			}
		}
		for _, guarded := range it.Guards {
			g := byGuard[guarded.Guard]
			if g == nil {
				g = &group{guard: guarded.Guard}
				byGuard[guarded.Guard] = g
				a.groups = append(a.groups, g)
			}
			g.data = append(g.data, guarded.Data)
			g.owners = append(g.owners, index)
		}
	}
	a.outcomes = make([]outcome, len(a.items))
	return a
}

func (it *item) overlaps(ids map[uuid.UUID]bool) bool {
	for _, stream := range it.Streams {
		for _, event := range stream.Events {
			if ids[event.ID] {
				return true
			}
		}
	}
	return false
}

// queueReads queues the first round trip: the lock, the time, existing events,
// and the guards' checks.
func (a *attempt) queueReads(b *pgx.Batch, rowLock time.Duration, withoutLock bool) {
	if !withoutLock {
		b.Queue(lockSQL)
	}
	b.Queue(headSQL, strconv.FormatInt(rowLock.Milliseconds(), 10)).QueryRow(func(row pgx.Row) error {
		return row.Scan(&a.head, &a.at, &a.incarnation, &a.replicated, &a.ahead, nil, nil)
	})
	if len(a.ids) > 0 {
		b.Queue(existingSQL, a.ids).Query(a.scanExisting)
		b.Queue(versionsSQL, a.streams).Query(a.scanVersions)
	}
	for _, g := range a.groups {
		g.refused = make([]error, len(g.data))
		g.guard.Check(b, g.data, g.refused)
	}
}

func (a *attempt) scanExisting(rows pgx.Rows) error {
	for rows.Next() {
		var id [16]byte
		var f found
		err := rows.Scan(&id, &f.position, (*[16]byte)(&f.stream), &f.typ, &f.schemaVersion, &f.payload, &f.recordedAt)
		if err != nil {
			return err
		}
		a.existing[id] = f
	}
	return rows.Err()
}

func (a *attempt) scanVersions(rows pgx.Rows) error {
	var stream [16]byte
	var version int
	for rows.Next() {
		if err := rows.Scan(&stream, &version); err != nil {
			return err
		}
		a.versions[stream] = version
	}
	return rows.Err()
}

// decide decides each item in order, as if each had been appended separately after the ones
// before it.
func (a *attempt) decide() {
	a.at = a.at.UTC()
	refusals := make([]error, len(a.items))
	for _, g := range a.groups {
		for i, owner := range g.owners {
			if err := g.refused[i]; err != nil && (refusals[owner] == nil || errors.Is(refusals[owner], ErrDefer)) {
				refusals[owner] = err
			}
		}
	}
	for i, it := range a.items {
		out := &a.outcomes[i]
		if result, repeated, err := a.repeat(it); repeated || err != nil {
			*out = outcome{Result: result, err: err}
		} else if errors.Is(refusals[i], ErrDefer) && i > 0 { // the first item is decided, so every item is decided eventually
			out.deferred = true
		} else if refusals[i] != nil {
			out.err = refusals[i]
		} else if err := a.advance(it); err != nil {
			out.err = err
		} else {
			a.accept(i)
		}
	}
}

// repeat reports whether the item's events are in the log already, and returns their result.
func (a *attempt) repeat(it *item) (Result, bool, error) {
	if len(a.existing) == 0 || it.events == 0 {
		return Result{}, false, nil
	}
	positions := make([]int64, 0, it.events)
	var last time.Time
	for _, stream := range it.Streams {
		for _, event := range stream.Events {
			f, there := a.existing[event.ID]
			if !there {
				continue
			}
			if f.stream != stream.Stream || f.typ != event.Type || f.schemaVersion != event.SchemaVersion ||
				!bytes.Equal(f.payload, event.Payload) {
				return Result{}, false, fmt.Errorf("%w: event %s at position %d", ErrIDReused, event.ID, f.position)
			}
			positions = append(positions, f.position)
			last = f.recordedAt.UTC()
		}
	}
	switch len(positions) {
	case 0:
		return Result{}, false, nil
	case it.events:
		return Result{Position: positions[len(positions)-1], Positions: positions, RecordedAt: last, Repeated: true}, true, nil
	}
	return Result{}, false, fmt.Errorf("%w: %d of an append's %d events are in the log", ErrIDReused, len(positions), it.events)
}

// advance increments the streams' versions, or none of them if one conflicts.
func (a *attempt) advance(it *item) error {
	for i, stream := range it.Streams {
		actual := a.versions[stream.Stream]
		if stream.Expected != Any && int(stream.Expected) != actual {
			for _, earlier := range it.Streams[:i] {
				a.versions[earlier.Stream] -= len(earlier.Events)
			}
			return &ConflictError{Stream: stream.Stream, Expected: stream.Expected, Actual: actual}
		}
		a.versions[stream.Stream] = actual + len(stream.Events)
	}
	return nil
}

// accept assigns the next positions to the item.
func (a *attempt) accept(i int) {
	it := a.items[i]
	result := Result{RecordedAt: a.at}
	if it.events > 0 {
		result.Positions = make([]int64, it.events)
		for n := range result.Positions {
			a.events++
			result.Positions[n] = a.head + int64(a.events)
		}
		result.Position = a.head + int64(a.events)
	}
	a.outcomes[i].Result = result
	a.accepted = append(a.accepted, i)
}

// queueWrites queues the second round trip: the guards' writes, the events, the notification
// and the commit, whose command tag is stored in tag.
func (a *attempt) queueWrites(b *pgx.Batch, tag *string) {
	accepted := make([]bool, len(a.items))
	for _, i := range a.accepted {
		accepted[i] = true
	}
	for _, g := range a.groups {
		var items []Applied
		for n, owner := range g.owners {
			if accepted[owner] {
				items = append(items, Applied{Data: g.data[n], Positions: a.outcomes[owner].Positions})
			}
		}
		if len(items) > 0 {
			g.guard.Apply(b, a.at, items)
		}
	}
	if a.events > 0 {
		sql, args := a.insertion()
		b.Queue(sql, args...)
		b.Queue(notifySQL, fmt.Sprint(a.head+int64(a.events)))
	}
	if a.events == 0 && a.replicated {
		b.Queue(awaitStandbysSQL)
	}
	b.Queue("commit").Exec(func(ct pgconn.CommandTag) error {
		*tag = ct.String()
		return nil
	})
}
