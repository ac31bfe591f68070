package main

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shopspring/decimal"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/status"
	"github.com/dopaminestore/dopamine/tools/dbtest"
)

// appendTo appends events of a product and returns the last position.
func appendTo(t *testing.T, d dbtest.DB, product uuid.UUID, stream uuid.UUID, events ...domain.Event) int64 {
	t.Helper()
	store, err := eventstore.Open(context.Background(), d.Pool, eventstore.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close(context.Background())) }()
	a := eventstore.Append{Key: product, Streams: []eventstore.StreamAppend{{Stream: stream, Expected: eventstore.Any}}}
	for _, e := range events {
		typ, version, payload, err := avsc.Encode(e)
		require.NoError(t, err)
		a.Streams[0].Events = append(a.Streams[0].Events, eventstore.NewEvent{ID: uuid.New(), Type: typ, SchemaVersion: version, Payload: payload,
			Meta: eventstore.Meta{Actor: "someone"}})
	}
	res, err := store.Append(context.Background(), a)
	require.NoError(t, err)
	return res.Position
}

func lamp(t *testing.T) domain.ProductCreated {
	price, err := domain.NewMoney(decimal.NewFromInt(259000), "KRW")
	require.NoError(t, err)
	return domain.ProductCreated{Name: "Lamp", Description: "A lamp", Price: price, Stock: 5, SaleDate: time.Now().UTC().Truncate(time.Millisecond)}
}

// replay (contract 6 and 8).
func TestReplay_Command(t *testing.T) {
	d := dbtest.Both(t)
	product := uuid.New()
	appendTo(t, d, product, product, lamp(t))
	exit, out, errs := dopamine(t, "replay", "--database-url", d.URL, "all")
	require.Equal(t, 0, exit, errs)
	require.Contains(t, out, "products: generation 2 is live, at position 1, from 1 events")
	require.Contains(t, errs, "products: reading, 0 of 1 events", "plain lines without a terminal")
	require.Equal(t, "Lamp", dbtest.One[string](t, d.Pool, "SELECT name FROM products WHERE id = $1", product))

	exit, _, errs = dopamine(t, "replay", "--database-url", d.URL, "nothing")
	require.Equal(t, 2, exit)
	require.Contains(t, errs, "purchase_slots")

	// An event that no projection can apply stops a replay, and status shows it.
	slot := uuid.New()
	at := appendTo(t, d, product, slot, domain.SlotExpired{UserID: uuid.New(), Unit: 1, ArrivalSequence: 1, Deadline: time.Now().UTC().Truncate(time.Millisecond), ReclaimStatus: domain.AutoExpired})
	exit, _, errs = dopamine(t, "replay", "--database-url", d.URL, "purchase_slots")
	require.Equal(t, 1, exit)
	require.Contains(t, errs, fmt.Sprintf("event %d (SlotExpired)", at))
	_, out, _ = dopamine(t, "status", "--json", "--database-url", d.URL)
	var r status.Report
	require.NoError(t, json.Unmarshal([]byte(out), &r), out)
	require.Len(t, r.Replays, 1)
	require.Equal(t, "failed", r.Replays[0].Phase)
	_, out, _ = dopamine(t, "status", "--database-url", d.URL)
	require.Contains(t, out, "failed")
}

// parked (contract 6 and 8).
func TestParked_Command(t *testing.T) {
	d := dbtest.Both(t)
	product, slot, user := uuid.New(), uuid.New(), uuid.New()
	appendTo(t, d, product, product, lamp(t))
	at := appendTo(t, d, product, slot, domain.SlotExpired{UserID: user, Unit: 1, ArrivalSequence: 1, Deadline: time.Now().UTC().Truncate(time.Millisecond), ReclaimStatus: domain.AutoExpired})
	t.Run("list reports that nothing is parked", func(t *testing.T) {
		exit, out, errs := dopamine(t, "parked", "list", "--database-url", d.URL)
		require.Equal(t, 0, exit, errs)
		require.Contains(t, out, "nothing is parked")
	})
	dbtest.Exec(t, d.Pool, `
		INSERT INTO parked_events (projection, generation, row_key, position, topic, partition, event_type, product_id, stream_id, error, behind)
		VALUES ('purchase_slots', 1, $1, $2, 't', 0, 'SlotExpired', $3, $1, 'it has no row', false)`, slot, at, product)
	t.Run("list shows the row key and the error", func(t *testing.T) {
		_, out, _ := dopamine(t, "parked", "list", "--database-url", d.URL)
		require.Contains(t, out, slot.String())
		require.Contains(t, out, "it has no row")
	})
	t.Run("show prints the decoded event", func(t *testing.T) {
		exit, out, errs := dopamine(t, "parked", "show", "--json", "--database-url", d.URL, "purchase_slots", slot.String())
		require.Equal(t, 0, exit, errs)
		var shown struct {
			Events []struct {
				Position int64
				Actor    string
				Event    domain.SlotExpired
				Error    string
			}
		}
		require.NoError(t, json.Unmarshal([]byte(out), &shown), out)
		require.Equal(t, at, shown.Events[0].Position)
		require.Equal(t, user, shown.Events[0].Event.UserID, "decoded for a person")
		require.Equal(t, "someone", shown.Events[0].Actor)
	})
	t.Run("skip waits for its outcome, which show reports", func(t *testing.T) {
		go func() { // stands in for a projector
			for range 100 {
				tag, err := d.Pool.Exec(context.Background(), `UPDATE parked_orders SET done_at = now(), outcome = 'skipped' WHERE done_at IS NULL`)
				if err != nil || tag.RowsAffected() > 0 {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}()
		exit, out, errs := dopamine(t, "parked", "skip", "--by", "alice", "--database-url", d.URL, "purchase_slots", slot.String())
		require.Equal(t, 0, exit, errs)
		require.Contains(t, out, "skipped")
		_, out, _ = dopamine(t, "parked", "show", "--database-url", d.URL, "purchase_slots", slot.String())
		require.Contains(t, out, "by alice: skipped")
		require.Contains(t, out, `"reclaimStatus": "AUTO_EXPIRED"`)
	})
	t.Run("retry refuses a key without parked events and one that is no id", func(t *testing.T) {
		exit, _, errs := dopamine(t, "parked", "retry", "--database-url", d.URL, "purchase_slots", uuid.NewString())
		require.Equal(t, 1, exit)
		require.Contains(t, errs, "no event of this key is parked")
		exit, _, _ = dopamine(t, "parked", "retry", "--database-url", d.URL, "purchase_slots", "x")
		require.Equal(t, 2, exit)
	})
}
