package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/internal/pgbinary"
	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/projections"
)

// Difference is one column of one row in which the live generation differs from the event store.
type Difference struct {
	Table  string // name without the generation
	Key    uuid.UUID
	Column string // "" where one side lacks the whole row
	Live   string // as JSON; "" where the row is missing
	Store  string // value, likewise
}

const (
	// comparedPage is the number of rows compared at a time.
	comparedPage = 5000
	// stallTimeout is how long the live generation may make no progress before a comparison that
	// waits for it is given up.
	stallTimeout = 15 * time.Second
	// compareInterval is the pause before rows are compared again that one side has not reached
	// yet.
	compareInterval = 100 * time.Millisecond
)

// verify compares all rows without a lock. Rows that were last changed by the same event must be
// equal. The others are compared again until both generations have advanced far enough.
func (t *target) verify(ctx context.Context) error {
	differ := false
	for _, table := range t.Tables() {
		c := comparison{t: t, table: table}
		open, err := c.compareAll(ctx)
		if err != nil {
			return err
		}
		if err := c.compareOpen(ctx, open); err != nil {
			return err
		}
		differ = differ || c.differ
	}
	if differ {
		return ErrDiffers
	}
	return nil
}

// comparison compares one table.
type comparison struct {
	t      *target
	table  projections.KeyedTable
	differ bool
}

// row is the part of a row that is compared first: the hash of all columns shows whether two rows
// of the same event are equal.
type row struct {
	key  uuid.UUID
	last int64
	hash int64
}

// compareAll scans both tables in key order and reports rows that differ. It returns the keys of rows that
// cannot be compared yet.
func (c *comparison) compareAll(ctx context.Context) (open []uuid.UUID, err error) {
	liveGeneration, err := c.t.liveGeneration(ctx)
	if err != nil {
		return nil, err
	}
	live := cursor{c: c, generation: liveGeneration}
	next := cursor{c: c, generation: c.t.generation}
	for {
		a, err := live.peek(ctx)
		if err != nil {
			return nil, err
		}
		b, err := next.peek(ctx)
		if err != nil {
			return nil, err
		}
		var key uuid.UUID
		switch {
		case a == nil && b == nil:
			return open, nil
		case b == nil, a != nil && bytes.Compare(a.key[:], b.key[:]) < 0:
			key = live.take().key
		case a == nil, bytes.Compare(a.key[:], b.key[:]) > 0:
			key = next.take().key
		default:
			key = live.take().key
			next.take()
			if a.last == b.last && a.hash == b.hash {
				continue
			}
		}
		// A row may have changed between the two reads. Therefore unequal rows of one event are
		// compared again too, in one snapshot.
		open = append(open, key)
	}
}

// compareOpen compares the open rows until each is found equal or different.
func (c *comparison) compareOpen(ctx context.Context, open []uuid.UUID) error {
	var reached int64
	moved := time.Now()
	for len(open) > 0 {
		if err := c.t.catchUp(ctx); err != nil {
			return err
		}
		// Live's position is read before its rows: they include at least everything up to it.
		status, err := c.t.liveStatus(ctx)
		if err != nil {
			return err
		}
		if status.Position > reached {
			reached, moved = status.Position, time.Now()
		}
		var still []uuid.UUID
		for keys := range slices.Chunk(open, comparedPage) {
			unsettled, err := c.compare(ctx, keys, status.Position)
			if err != nil {
				return err
			}
			still = append(still, unsettled...)
		}
		if open = still; len(open) == 0 {
			return nil
		}
		if time.Since(moved) > stallTimeout {
			return fmt.Errorf("%d rows of %s cannot be compared: the live generation made no progress after position %d for %s; start relay and projector",
				len(open), c.table.Base, reached, stallTimeout)
		}
		if err := sleep.For(ctx, compareInterval); err != nil {
			return err
		}
	}
	return nil
}

// compare compares rows once. reached is the minimum position of the live generation.
func (c *comparison) compare(ctx context.Context, keys []uuid.UUID, reached int64) (open []uuid.UUID, err error) {
	generation, err := c.t.liveGeneration(ctx)
	if err != nil {
		return nil, err
	}
	live, err := c.rows(ctx, generation, keys)
	if err != nil {
		return nil, err
	}
	// It is read after the rows: they include nothing after it.
	furthest, err := c.t.liveFurthest(ctx)
	if err != nil {
		return nil, err
	}
	next, err := c.rows(ctx, c.t.generation, keys)
	if err != nil {
		return nil, err
	}
	position := c.t.position
	for _, key := range keys {
		a, b := live[key], next[key]
		var differs bool
		switch {
		case a == nil && b == nil:
			continue
		case a != nil && b != nil && a.last == b.last:
			if !c.differing(a.columns, b.columns) {
				continue
			}
			differs = true
		case a != nil && b != nil && a.last < b.last:
			differs = reached >= b.last
		case a != nil && b != nil:
			differs = position >= a.last
		case a != nil:
			differs = reached >= position && position >= a.last
		default:
			differs = reached >= b.last && furthest <= position
		}
		if !differs {
			open = append(open, key)
			continue
		}
		c.differ = true
		c.report(key, a, b)
	}
	return open, nil
}

// differing reports whether two rows of the same event are unequal.
func (c *comparison) differing(live, next map[string]json.RawMessage) bool {
	if len(live) != len(next) {
		return true
	}
	for column, value := range next {
		if !c.same(column, live[column], value) {
			return true
		}
	}
	return false
}

// same reports whether the values of a column agree: a live row of before the column existed has none.
func (c *comparison) same(column string, live, next json.RawMessage) bool {
	return bytes.Equal(live, next) || string(live) == "null" && slices.Contains(c.table.Later, column)
}

func (c *comparison) report(key uuid.UUID, live, next *fullRow) {
	if c.t.r.OnDifference == nil {
		return
	}
	d := Difference{Table: c.table.Base, Key: key}
	if live == nil || next == nil {
		if live != nil {
			d.Live = live.text
		}
		if next != nil {
			d.Store = next.text
		}
		c.t.r.OnDifference(d)
		return
	}
	for _, column := range slices.Sorted(maps.Keys(next.columns)) {
		if a, b := live.columns[column], next.columns[column]; !c.same(column, a, b) {
			d.Column, d.Live, d.Store = column, string(a), string(b)
			c.t.r.OnDifference(d)
		}
	}
}

// fullRow is a row with all its columns as JSON.
type fullRow struct {
	last    int64
	text    string
	columns map[string]json.RawMessage
}

func (c *comparison) rows(ctx context.Context, generation int, keys []uuid.UUID) (map[uuid.UUID]*fullRow, error) {
	ids := make(pgbinary.IDs, len(keys))
	for i, k := range keys {
		ids[i] = pgbinary.ID(k)
	}
	rows, err := c.t.r.ReadPool.Query(ctx, fmt.Sprintf(`SELECT %s, last_position, to_jsonb(t)::text FROM %s t WHERE %[1]s = ANY($1)`,
		c.table.Key, projections.Table(c.table.Base, generation)), ids)
	if err != nil {
		return nil, fmt.Errorf("read rows of %s: %w", c.table.Base, err)
	}
	found := make(map[uuid.UUID]*fullRow, len(keys))
	var key uuid.UUID
	var last int64
	var text string
	_, err = pgx.ForEachRow(rows, []any{&key, &last, &text}, func() error {
		r := &fullRow{last: last, text: text}
		found[key] = r
		return json.Unmarshal([]byte(text), &r.columns)
	})
	if err != nil {
		return nil, fmt.Errorf("read rows of %s: %w", c.table.Base, err)
	}
	return found, nil
}

// cursor reads a generation's table in key order, a page at a time.
type cursor struct {
	c          *comparison
	generation int
	page       []row
	after      uuid.UUID
	begun, end bool
}

// peek returns the next row, nil at the end.
func (k *cursor) peek(ctx context.Context) (*row, error) {
	if len(k.page) == 0 && !k.end {
		sql := fmt.Sprintf(`SELECT %s, last_position, hashtextextended(t::text, 0) FROM %s t`, k.c.table.Key, projections.Table(k.c.table.Base, k.generation))
		var args []any
		if k.begun {
			sql += fmt.Sprintf(` WHERE %s > $1`, k.c.table.Key)
			args = append(args, k.after)
		}
		rows, err := k.c.t.r.ReadPool.Query(ctx, sql+fmt.Sprintf(` ORDER BY %s LIMIT %d`, k.c.table.Key, comparedPage), args...)
		if err != nil {
			return nil, fmt.Errorf("read %s in order: %w", k.c.table.Base, err)
		}
		k.page, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (one row, err error) {
			return one, r.Scan(&one.key, &one.last, &one.hash)
		})
		if err != nil {
			return nil, fmt.Errorf("read %s in order: %w", k.c.table.Base, err)
		}
		k.begun, k.end = true, len(k.page) < comparedPage
		if len(k.page) > 0 {
			k.after = k.page[len(k.page)-1].key
		}
	}
	if len(k.page) == 0 {
		return nil, nil
	}
	return &k.page[0], nil
}

func (k *cursor) take() row {
	r := k.page[0]
	k.page = k.page[1:]
	return r
}

func (t *target) liveGeneration(ctx context.Context) (generation int, err error) {
	err = t.r.ReadPool.QueryRow(ctx, `SELECT generation FROM projection_generations WHERE projection = $1 AND state = 'live'`, t.Name()).Scan(&generation)
	if err != nil {
		return 0, fmt.Errorf("read the live generation of %s: %w", t.Name(), err)
	}
	return generation, nil
}

// liveFurthest returns the position of the most advanced live partition.
func (t *target) liveFurthest(ctx context.Context) (position int64, err error) {
	err = t.r.ReadPool.QueryRow(ctx, `
		SELECT coalesce(max(c.position), 0) FROM projection_checkpoints c JOIN projection_generations g USING (projection, generation)
		WHERE c.projection = $1 AND g.state = 'live'`, t.Name()).Scan(&position)
	if err != nil {
		return 0, fmt.Errorf("read the live checkpoints: %w", err)
	}
	return position, nil
}

// liveStatus returns the progress of the whole live generation.
func (t *target) liveStatus(ctx context.Context) (projections.Status, error) {
	head, err := t.r.Published(ctx)
	if err != nil {
		return projections.Status{}, err
	}
	all, err := projections.ReadStatus(ctx, t.r.ReadPool, head)
	if err != nil {
		return projections.Status{}, err
	}
	for _, s := range all {
		if s.Projection == t.Name() {
			return s, nil
		}
	}
	return projections.Status{}, fmt.Errorf("projection %s is not known", t.Name())
}
