package replay

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/projections"
)

// pagesAhead is how many pages are read ahead of decoding, and decoded ahead of folding: enough to
// keep every stage busy, few enough to bound memory.
const pagesAhead = 2

// page is a section of the log, in order.
type page struct {
	recorded []eventstore.Recorded
	head     int64
	decoded  chan struct{} // closed when events and bad are set
	events   []domain.Envelope
	bad      map[int]error // the reasons why events cannot be decoded, by index
}

func (p *page) decode() {
	defer close(p.decoded)
	p.events = make([]domain.Envelope, len(p.recorded))
	for i, rec := range p.recorded {
		env, err := avsc.Decode(rec)
		if err != nil {
			if p.bad == nil {
				p.bad = map[int]error{}
			}
			p.bad[i] = err
			continue
		}
		p.events[i] = env
	}
}

// fill reads the log up to its head and writes its rows into the targets' tables.
func (r *runner) fill(ctx context.Context, targets []*target) error {
	group, ctx := errgroup.WithContext(ctx)
	pages := make(chan *page, pagesAhead)
	group.Go(func() error { defer close(pages); return r.read(ctx, pages) })
	feeds := make([]chan *page, len(targets))
	for i, t := range targets {
		feeds[i] = make(chan *page, pagesAhead)
		group.Go(func() error {
			if err := t.foldPages(ctx, feeds[i]); err != nil {
				return fmt.Errorf("replay of %s: %w", t.Name(), err)
			}
			return nil
		})
	}
	group.Go(func() error {
		for _, f := range feeds {
			defer close(f)
		}
		for p := range pages {
			select {
			case <-p.decoded:
			case <-ctx.Done():
				return ctx.Err()
			}
			for _, f := range feeds {
				select {
				case f <- p:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		return nil
	})
	return group.Wait()
}

// read reads pages up to the log's end; pages are decoded in parallel.
func (r *runner) read(ctx context.Context, pages chan<- *page) error {
	if r.Topic != nil {
		return r.readTopic(ctx, pages)
	}
	var decoding sync.WaitGroup
	defer decoding.Wait()
	free := make(chan struct{}, runtime.GOMAXPROCS(0))
	var after int64
	for {
		p := &page{decoded: make(chan struct{})}
		var err error
		if p.head, err = r.Store.Head(ctx); err != nil {
			return err
		}
		if p.recorded, err = r.Store.ReadAll(ctx, after, r.page()); err != nil {
			return err
		}
		if len(p.recorded) == 0 {
			return nil
		}
		if err := r.limit.WaitN(ctx, len(p.recorded)); err != nil {
			return err
		}
		after = p.recorded[len(p.recorded)-1].Position
		free <- struct{}{}
		decoding.Go(func() {
			defer guard.Log("decode events")
			p.decode()
			<-free
		})
		select {
		case pages <- p:
		case <-ctx.Done():
			return ctx.Err()
		}
		if len(p.recorded) < r.page() {
			return nil
		}
	}
}

// foldPages folds pages, while the rows that leave memory are written in the background.
func (t *target) foldPages(ctx context.Context, pages <-chan *page) (err error) {
	w := newWriter(ctx, t)
	defer func() {
		if closeErr := w.close(); err == nil {
			err = closeErr
		}
	}()
	bulk := t.NewBulk(t.generation, max(1, t.r.Window/2))
	for p := range pages {
		events, err := t.relevant(ctx, p)
		if err != nil {
			return err
		}
		if needed := bulk.Needs(events); len(needed) > 0 {
			if err := t.readBack(ctx, w, bulk, needed); err != nil {
				return err
			}
		}
		if err := apply(bulk, events); err != nil {
			return err
		}
		if err := w.write(bulk.Spill(false)); err != nil {
			return err
		}
		t.position = p.recorded[len(p.recorded)-1].Position
		t.passed(len(p.recorded), t.position, p.head)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return w.write(bulk.Spill(true))
}

// relevant returns the events of a page that concern the projection and were not skipped. If one cannot
// be decoded and was not skipped, it returns an error.
func (t *target) relevant(ctx context.Context, p *page) ([]domain.Envelope, error) {
	skipped, err := t.skips(ctx, p.recorded)
	if err != nil {
		return nil, err
	}
	events := make([]domain.Envelope, 0, len(p.events))
	for i, e := range p.events {
		rec := &p.recorded[i]
		if skipped[rec.Position] {
			continue
		}
		if err := p.bad[i]; err != nil {
			if _, concerns := t.RawKey(rec.Type, rec.Key, rec.Stream); concerns || isUnknown(err) {
				return nil, fmt.Errorf("event %d (%s): %w", rec.Position, rec.Type, err)
			}
			continue
		}
		if _, concerns := t.Key(e); concerns {
			events = append(events, e)
		}
	}
	return events, nil
}

// readBack reads rows that have left memory, after they have been written to the tables.
func (t *target) readBack(ctx context.Context, w *writer, bulk projections.Bulk, needed []domain.Envelope) error {
	if err := w.drain(); err != nil {
		return err
	}
	if !t.keys {
		for _, table := range t.Tables() {
			if _, err := t.r.ReadPool.Exec(ctx, `SELECT projection_create_key($1, $2)`, table.Base, t.generation); err != nil {
				return fmt.Errorf("create the key of %s: %w", table.Base, err)
			}
		}
		t.keys = true
	}
	b := &pgx.Batch{}
	bulk.Load(b, needed)
	if b.Len() > 0 {
		if err := t.r.ReadPool.SendBatch(ctx, b).Close(); err != nil {
			return fmt.Errorf("read rows back: %w", err)
		}
	}
	bulk.Loaded()
	return nil
}

// skips reads which of the events were skipped, and remembers the result.
func (t *target) skips(ctx context.Context, events []eventstore.Recorded) (map[int64]bool, error) {
	if len(events) == 0 {
		return nil, nil
	}
	// A skip belongs to an event, not to a position: after a restore another event may have the
	// position. The id is null only for skips of records that are not events.
	ids, positions := make([][16]byte, len(events)), make([]int64, len(events))
	for i, e := range events {
		ids[i], positions[i] = e.ID, e.Position
	}
	rows, err := t.r.ReadPool.Query(ctx, `
		SELECT s.position FROM skipped_events s JOIN unnest($2::bigint[], $3::uuid[]) AS e(position, id) USING (position)
		WHERE s.projection = $1 AND s.event_id = e.id`, t.Name(), positions, ids)
	if err != nil {
		return nil, fmt.Errorf("read what was skipped: %w", err)
	}
	skipped, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("read what was skipped: %w", err)
	}
	found := make(map[int64]bool, len(skipped))
	for _, p := range skipped {
		found[p], t.honoured[p] = true, true
	}
	return found, nil
}
