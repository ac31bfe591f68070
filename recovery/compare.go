package recovery

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/relay"
)

// comparePage is how many records are looked up in the store at a time.
const comparePage = 5000

// Contradictions are what the topic and the read models have and the store does not.
type Contradictions struct {
	SharedPosition int64    // up to it nothing contradicts the store
	Records        int64    // of the topic
	Incarnations   bool     // the topic or the read models know an incarnation that the store does not
	Projections    []string // read models with an event that the store does not have

	// Newest is the highest incarnation that the topic or the read models know.
	Newest int64
	Money  LostMoney
}

// Any reports whether there is anything to recover from.
func (c Contradictions) Any() bool {
	return c.Records > 0 || c.Incarnations || len(c.Projections) > 0
}

// compare reads the whole topic, and the checkpoints of the read models.
func (r *run) compare(ctx context.Context, own eventstore.Identity, histories []eventstore.Incarnation) (Contradictions, error) {
	head, err := r.store.Head(ctx)
	if err != nil {
		return Contradictions{}, err
	}
	c := Contradictions{SharedPosition: head, Newest: own.Incarnation}
	if err := r.compareTopic(ctx, own, histories, &c); err != nil {
		return c, err
	}
	return c, r.compareReadModels(ctx, own, &c)
}

func (r *run) compareTopic(ctx context.Context, own eventstore.Identity, histories []eventstore.Incarnation, c *Contradictions) error {
	if _, err := kafka.DescribeTopic(ctx, r.Kafka, r.Topic); errors.Is(err, kafka.ErrNoTopic) {
		return nil
	} else if err != nil {
		return err
	}
	r.Logger.Info("comparing the topic with the event store", "topic", r.Topic)
	var mu sync.Mutex
	err := kafka.ReadTopic(ctx, r.Kafka, r.Topic, func(ctx context.Context, p int32, records func(func(kafka.Record) bool)) error {
		found := partition{own: own, histories: histories, store: r.store, topic: r.Topic, decoder: r.Decoder,
			lost: map[int64]struct{}{}, money: map[int64]lostEvent{}}
		var err error
		records(func(rec kafka.Record) bool {
			err = found.add(ctx, rec)
			return err == nil
		})
		if err == nil {
			err = found.comparePending(ctx)
		}
		mu.Lock()
		defer mu.Unlock()
		var money LostMoney
		money.add(found.money)
		c.Money.join(money)
		c.Records += int64(len(found.lost))
		for position := range found.lost {
			c.SharedPosition = min(c.SharedPosition, position-1)
		}
		c.Newest = max(c.Newest, found.newest)
		c.Incarnations = c.Incarnations || found.newest > own.Incarnation
		return err
	})
	if err != nil {
		return fmt.Errorf("compare the topic with the event store: %w", err)
	}
	return nil
}

// partition collects the contradictions of one partition.
type partition struct {
	own       eventstore.Identity
	histories []eventstore.Incarnation
	store     *eventstore.Reader
	topic     string
	decoder   *avsc.Decoder

	newest int64 // incarnation
	page   []published
	lost   map[int64]struct{}  // positions of records that the store does not have
	money  map[int64]lostEvent // of these, what LostMoney depends on
}

type published struct {
	position int64
	id       uuid.UUID
	money    *moneyRecord // nil for most
}

// add records a record of the topic.
func (p *partition) add(ctx context.Context, rec kafka.Record) error {
	named := rec.Header(kafka.HeaderStore)
	origin := p.own.OriginOf(named)
	incarnation := int64(0) // of a relay that did not write the identity yet
	switch origin {
	case eventstore.Foreign:
		return &relay.ForeignError{Topic: p.topic, Named: named, Store: p.own.Store}
	case eventstore.Unnamed:
	default:
		i, err := eventstore.ParseIdentity(named)
		if err != nil {
			return err
		}
		incarnation = i.Incarnation
		p.newest = max(p.newest, incarnation)
	}
	h, err := avsc.ParseHeaders(rec.Header)
	if err != nil || h.Position < 1 && h.EventType != kafka.TypeIncarnation {
		return nil // not an event
	}
	if h.EventType == kafka.TypeIncarnation {
		if origin == eventstore.Later {
			return nil
		}
		// A recovery that the store knows has handled the earlier records.
		if err := p.comparePending(ctx); err != nil {
			return err
		}
		for position := range p.lost {
			if position > h.Position {
				delete(p.lost, position)
				delete(p.money, position)
			}
		}
		return nil
	}
	if incarnation > 0 && eventstore.Superseded(p.histories, incarnation, h.Position) {
		return nil
	}
	var money *moneyRecord
	if isMoney(h.EventType) {
		money = &moneyRecord{rec.Key, rec.Value, h}
	}
	if p.page = append(p.page, published{h.Position, h.EventID, money}); len(p.page) == comparePage {
		return p.comparePending(ctx)
	}
	return nil
}

// comparePending compares the collected records with the store.
func (p *partition) comparePending(ctx context.Context) error {
	positions := make([]int64, len(p.page))
	for i, rec := range p.page {
		positions[i] = rec.position
	}
	ids, err := p.store.IDs(ctx, positions)
	if err != nil {
		return err
	}
	for _, rec := range p.page {
		if ids[rec.position] != rec.id {
			p.lost[rec.position] = struct{}{}
			if rec.money != nil {
				p.money[rec.position] = p.decode(ctx, rec.money)
			}
		}
	}
	p.page = p.page[:0]
	return nil
}

// compareReadModels compares the live checkpoints: the read database may be
// another one, which was not restored.
func (r *run) compareReadModels(ctx context.Context, own eventstore.Identity, c *Contradictions) error {
	var incarnation int64
	if err := r.ReadPool.QueryRow(ctx, `SELECT incarnation FROM projection_source`).Scan(&incarnation); err != nil {
		return fmt.Errorf("read the read models' incarnation: %w", err)
	}
	c.Newest = max(c.Newest, incarnation)
	c.Incarnations = c.Incarnations || incarnation != own.Incarnation
	rows, err := r.ReadPool.Query(ctx, `
		SELECT c.projection, c.position, c.event_id FROM projection_checkpoints c JOIN projection_generations g USING (projection, generation)
		WHERE g.state = 'live' AND c.position > 0 ORDER BY c.projection`)
	if err != nil {
		return fmt.Errorf("read the live checkpoints: %w", err)
	}
	type checkpoint struct {
		Projection string
		Position   int64
		EventID    [16]byte
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[checkpoint])
	if err != nil {
		return fmt.Errorf("read the live checkpoints: %w", err)
	}
	positions := make([]int64, len(all))
	for i, at := range all {
		positions[i] = at.Position
	}
	ids, err := r.store.IDs(ctx, positions)
	if err != nil {
		return err
	}
	lowest := int64(math.MaxInt64)
	for _, at := range all {
		if ids[at.Position] == at.EventID {
			continue
		}
		lowest = min(lowest, at.Position-1)
		if n := len(c.Projections); n == 0 || c.Projections[n-1] != at.Projection {
			c.Projections = append(c.Projections, at.Projection)
		}
	}
	c.SharedPosition = min(c.SharedPosition, lowest)
	return nil
}
