package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/dopaminestore/dopamine/internal/kafka"
)

// readModelSQL are the comparisons of R8; each counts rows that differ.
var readModelSQL = map[string]string{
	"audit rows that are not the store's events": `
		SELECT count(*) FROM (SELECT * FROM events WHERE type LIKE 'Slot%' OR type LIKE 'Payment%' OR type LIKE 'Refund%') e
			FULL JOIN slot_audit_log a
			ON a.event_id = e.id AND a.position = e.position AND a.type = e.type AND a.slot_id = e.stream
				AND a.product_id = e.key AND a.recorded_at = e.recorded_at AND a.actor = e.actor
		WHERE a.event_id IS NULL OR e.id IS NULL`,
	"slots that are not the fold of the store": `
		WITH ends AS (
			SELECT DISTINCT ON (stream) stream,
				CASE type WHEN 'SlotExpired' THEN 'EXPIRED' WHEN 'PaymentCompleted' THEN 'COMPLETED' ELSE 'RETURNED' END AS status
			FROM events WHERE type IN ('SlotExpired', 'PaymentCompleted', 'SlotReturned') ORDER BY stream, position DESC),
		fold AS (
			SELECT a.stream AS id, a.key AS product_id, (a.payload->>'userId')::uuid AS user_id, (a.payload->>'unit')::int AS unit,
				(a.payload->>'arrivalSequence')::bigint AS number, a.recorded_at AS acquired, coalesce(e.status, 'ACTIVE') AS status
			FROM events a LEFT JOIN ends e USING (stream) WHERE a.type = 'SlotAcquired')
		SELECT count(*) FROM fold FULL JOIN purchase_slots s
			ON s.id = fold.id AND s.product_id = fold.product_id AND s.user_id = fold.user_id AND s.unit = fold.unit
				AND s.arrival_sequence = fold.number AND s.acquisition_timestamp = fold.acquired AND s.status = fold.status
		WHERE s.id IS NULL OR fold.id IS NULL`,
	"claims that are not the store's live slots": `
		WITH live AS (
			SELECT stream AS slot, (payload->>'unit')::int AS unit FROM events a WHERE type = 'SlotAcquired'
				AND NOT EXISTS (SELECT FROM events e WHERE e.stream = a.stream AND e.type IN ('SlotExpired', 'SlotReturned')))
		SELECT count(*) FROM live FULL JOIN slot_claims c ON c.slot_id = live.slot AND c.unit = live.unit
		WHERE c.slot_id IS NULL OR live.slot IS NULL`,
	"products whose stock is not what is free": `
		SELECT count(*) FROM products p WHERE stock <> total_stock - (SELECT count(*) FROM slot_claims c WHERE c.product_id = p.id)`,
	"purchases that are not the store's payments": `
		SELECT count(*) FROM (SELECT (payload->>'paymentId')::uuid AS id FROM events WHERE type = 'PaymentInitiated') e
			FULL JOIN purchases p USING (id) WHERE e.id IS NULL OR p.id IS NULL`,
}

// checkReadModels is R8 as the rows show it. Slots go on expiring while it reads,
// so it tries until everything is of one moment.
func checkReadModels(ctx context.Context, f *fleet, v *verdict) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for what, sql := range readModelSQL {
		var n int
		err := poll(ctx, 200*time.Millisecond, what, func() error {
			if err := f.db.QueryRow(ctx, sql).Scan(&n); err != nil {
				return err
			}
			if n > 0 {
				return fmt.Errorf("%d rows", n)
			}
			return nil
		})
		switch {
		case n > 0:
			v.broke("R8", "%s: %d", what, n)
		case err != nil:
			return err
		}
	}
	return nil
}

// checkTopic is R8 as another consumer sees it: the topic has every event of the
// store, once or repeated with the same id, and each record names its predecessor.
//
// What the store had at settled must be in the topic. Slots go on expiring while it
// is read, so that it may have later events as well.
func checkTopic(ctx context.Context, f *fleet, settled []event, v *verdict) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	records, partitions, err := readTopic(ctx, f.brokers, f.topic)
	if err != nil {
		return fmt.Errorf("read the topic: %w", err)
	}
	all, err := readEvents(ctx, f)
	if err != nil {
		return err
	}
	before := make([]int64, partitions) // the last position of each partition, in the store's order
	want := map[int64]struct {
		event
		partition int32
		previous  int64
	}{}
	for _, e := range all {
		p := kafka.Partition(e.key, partitions)
		w := want[e.position]
		w.event, w.partition, w.previous = e, p, before[p]
		want[e.position] = w
		before[p] = e.position
	}
	seen := map[int64]bool{}
	wrong := 0
	for _, r := range records {
		h := map[string]string{}
		for _, header := range r.Headers {
			h[header.Key] = string(header.Value)
		}
		position, err := strconv.ParseInt(h["position"], 10, 64)
		w, known := want[position]
		problem := ""
		switch {
		case f.foreign != nil && f.foreign(h):
			continue // of an earlier incarnation, or a marker
		case err != nil:
			problem = "has no position"
		case !known && position > int64(len(all)):
			problem = "is beyond the store"
		case h["event-id"] != w.id.String():
			problem = "has another event id than the store"
		case r.Partition != w.partition:
			problem = "is in another partition than its key's"
		case h["previous-position"] != strconv.FormatInt(w.previous, 10):
			problem = fmt.Sprintf("names %s as its predecessor, not %d", h["previous-position"], w.previous)
		case len(r.Value) == 0:
			problem = "has no value"
		case string(r.Key) != w.key.String():
			problem = "has another key than its product"
		}
		if problem != "" {
			if wrong++; wrong <= 3 {
				v.broke("R8", "record %d/%d (position %s) %s", r.Partition, r.Offset, h["position"], problem)
			}
			continue
		}
		seen[position] = true
	}
	missing := 0
	for _, e := range settled {
		if !seen[e.position] {
			missing++
		}
	}
	if missing > 0 && !f.trimmed {
		v.broke("R8", "%d of %d events are not in the topic", missing, len(settled))
	}
	return nil
}

func readTopic(ctx context.Context, brokers []string, topic string) ([]*kgo.Record, int32, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return nil, 0, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, 0, err
	}
	starts, err := admin.ListStartOffsets(ctx, topic)
	if err != nil {
		return nil, 0, err
	}
	left := map[int32]int64{}
	partitions := int32(0)
	ends.Each(func(o kadm.ListedOffset) {
		partitions++
		if s, _ := starts.Lookup(topic, o.Partition); o.Offset > s.Offset {
			left[o.Partition] = o.Offset
		}
	})
	var records []*kgo.Record
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil, 0, errors.Join(ctx.Err(), fetches.Err())
		}
		fetches.EachRecord(func(r *kgo.Record) {
			records = append(records, r)
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	return records, partitions, nil
}

// checkReplay is R8: a replay produces the rows of the live projection.
func checkReplay(ctx context.Context, f *fleet, v *verdict) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, err := f.call(ctx, "replay", "all", "--verify"); err != nil {
		v.broke("R8", "a replay does not produce the live rows: %s", err)
	}
}
