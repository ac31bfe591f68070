package projector_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/projector"
	"github.com/dopaminestore/dopamine/relay"
	"github.com/dopaminestore/dopamine/tools/storetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestProjector_BuildsAllReadModels(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Kafka(t))
	s.Start()
	product := s.Create(3)
	slot, user, at := s.Acquire(product, 1, 1)
	s.awaitReached(product, at)
	require.EqualValues(t, 2, s.Count("SELECT stock FROM products WHERE id = $1", product))

	other, _, _ := s.Acquire(product, 2, 2)
	payment := uuid.New()
	s.Record(product, slot, domain.PaymentInitiated{UserID: user, PaymentID: payment, Price: storetest.KRW(t, 259000), Method: domain.Card})
	s.Record(product, slot, domain.PaymentCompleted{UserID: user, PaymentID: payment, GatewayPaymentID: "gw-1", Price: storetest.KRW(t, 259000), Method: domain.Card})
	s.Record(product, other, domain.SlotExpired{Unit: 2, ArrivalSequence: 2, Deadline: time.Now().UTC().Truncate(time.Millisecond), ReclaimStatus: domain.AutoExpired})
	s.Record(product, product, domain.GrantWithdrawn{ArrivalSequence: 3, Unit: 3, SlotID: uuid.New()})
	at = s.Record(product, product, domain.ProductDetailsChanged{Name: "Lantern", Description: "A lantern"})
	s.awaitReached(product, at)

	ctx := context.Background()
	t.Run("the product", func(t *testing.T) {
		s := &system{s.In(t)}
		var stock int
		var name, price string
		var created, updated time.Time
		require.NoError(t, s.Pool.QueryRow(ctx, "SELECT stock, name, price::text, created_at, updated_at FROM products WHERE id = $1", product).Scan(&stock, &name, &price, &created, &updated))
		require.Equal(t, 2, stock)
		require.Equal(t, "Lantern", name)
		require.Equal(t, "259000.0000", price)
		changed, err := s.Reader.At(ctx, at)
		require.NoError(t, err)
		require.WithinDuration(t, changed.RecordedAt, updated, 0)
	})
	t.Run("its slots", func(t *testing.T) {
		s := &system{s.In(t)}
		var status, productName string
		var ended *time.Time
		require.NoError(t, s.Pool.QueryRow(ctx, "SELECT status, product_name, ended_at FROM purchase_slots WHERE id = $1", slot).Scan(&status, &productName, &ended))
		require.Equal(t, "COMPLETED", status)
		require.Equal(t, "Lantern", productName, "the current name")
		require.NotNil(t, ended)
	})
	t.Run("its purchases", func(t *testing.T) {
		s := &system{s.In(t)}
		require.EqualValues(t, 1, s.Count("SELECT count(*) FROM purchases WHERE id = $1 AND payment_status = 'SUCCESS' AND payment_id = 'gw-1' AND purchase_slot_id = $2", payment, slot))
	})
	t.Run("the audit", func(t *testing.T) {
		s := &system{s.In(t)}
		rows, err := s.Pool.Query(ctx, "SELECT type, coalesce(old_status, '-') || '>' || new_status, trace_id, metadata FROM slot_audit_log WHERE slot_id = $1 ORDER BY position", slot)
		require.NoError(t, err)
		var trail [][2]string
		for rows.Next() {
			var typ, change, trace string
			var metadata []byte
			require.NoError(t, rows.Scan(&typ, &change, &trace, &metadata))
			trail = append(trail, [2]string{typ, change})
			require.Equal(t, "4bf92f3577b34da6a3ce929d0e0e4736", trace)
			var m map[string]any
			require.NoError(t, json.Unmarshal(metadata, &m))
			if typ == "SlotAcquired" {
				require.EqualValues(t, 1, m["arrivalSequence"])
				require.EqualValues(t, 1, m["unit"])
			} else {
				require.Equal(t, payment.String(), m["paymentId"])
			}
		}
		require.NoError(t, rows.Err())
		require.Equal(t, [][2]string{{"SlotAcquired", "->ACTIVE"}, {"PaymentInitiated", "ACTIVE>ACTIVE"}, {"PaymentCompleted", "ACTIVE>COMPLETED"}}, trail)
		require.Zero(t, s.Count("SELECT count(*) FROM slot_audit_log WHERE type = 'GrantWithdrawn'"))
	})
	t.Run("a deleted product leaves its slots readable", func(t *testing.T) {
		s := &system{s.In(t)}
		at = s.Record(product, product, domain.ProductDeleted{})
		s.awaitReached(product, at)
		require.Zero(t, s.Count("SELECT count(*) FROM products WHERE id = $1", product))
		require.EqualValues(t, 2, s.Count("SELECT count(*) FROM purchase_slots WHERE product_name = 'Lantern'"), "slots stay readable")
	})
	t.Run("the status", func(t *testing.T) {
		s := &system{s.In(t)}
		place, err := relay.ReadCheckpoint(ctx, s.Pool)
		require.NoError(t, err)
		states, err := projections.ReadStatus(ctx, s.Pool, projections.Head{Position: at, Published: place.Position, Last: place.Last})
		require.NoError(t, err)
		require.Len(t, states, 4)
		for _, st := range states {
			require.Equal(t, at, st.Position, st.Projection)
			require.Zero(t, st.Lag)
			require.Equal(t, []projections.Generation{{Number: 1, State: "live"}}, st.Generations)
		}
	})
}

func TestProjector_ResumesAtItsCheckpoint(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Kafka(t))
	s.StartRelay()
	_, stop := s.StartProjector()
	product := s.Create(100)
	for i := range 20 {
		s.Acquire(product, i+1, int64(i+1))
	}
	_, _, at := s.Acquire(product, 21, 21)
	s.awaitReached(product, at)
	require.NoError(t, stop())
	for i := 21; i < 40; i++ {
		_, _, at = s.Acquire(product, i+1, int64(i+1))
	}
	s.StartProjector()
	s.StartProjector() // two projectors share the partitions
	s.awaitReached(product, at)
	require.EqualValues(t, 60, s.Count("SELECT stock FROM products WHERE id = $1", product))
	require.EqualValues(t, 40, s.Count("SELECT count(*) FROM slot_audit_log"))
	require.Zero(t, s.Count("SELECT count(*) FROM parked_events"))
}

// stoppedSystem returns a system that has applied a slot of the product, and whose relay and
// projector have ended.
func stoppedSystem(t *testing.T) (s *system, product uuid.UUID) {
	s = newSystem(t, testkit.FakeKafka(t))
	stop := s.Start()
	product = s.Create(10)
	_, _, at := s.Acquire(product, 1, 1)
	s.awaitReached(product, at)
	stop()
	return s, product
}

func TestProjector_ReadsARecreatedTopicFromTheStart(t *testing.T) {
	t.Parallel()
	s, product := stoppedSystem(t)

	s.Kafka.Brokers = testkit.FakeKafka(t) // the records of the previous Kafka are lost
	_, _, at := s.Acquire(product, 2, 2)
	s.Start()
	s.awaitReached(product, at)
	require.EqualValues(t, 8, s.Count("SELECT stock FROM products WHERE id = $1", product), "an event published twice counts once")
}

func TestProjector_RefusesWithARemedy(t *testing.T) {
	t.Parallel()
	s, _ := stoppedSystem(t)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	blocked := func(reason string) {
		r, stop := s.StartProjector()
		awaitBlocked(t, r, reason)
		require.NoError(t, stop())
	}
	s.Exec("UPDATE projection_checkpoints SET partitions = 24")
	blocked("replay products")
	s.Exec("UPDATE projection_checkpoints SET partitions = 12")

	s.Exec("UPDATE projection_checkpoints SET event_id = gen_random_uuid() WHERE position > 0")
	blocked("restored to an earlier moment")

	s.Exec("UPDATE projection_source SET store_id = gen_random_uuid()")
	var refused *projections.RefusedError
	require.ErrorAs(t, projector.NewRunner(s.ProjectorConfig()).Run(ctx), &refused)
	require.ErrorContains(t, refused, "built from event store")
}
