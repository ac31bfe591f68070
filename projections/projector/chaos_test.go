package projector_test

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// rush appends events until stop is closed: grants of a few products, half of which expire.
func (s *system) rush(stop <-chan struct{}) (products []uuid.UUID, last map[uuid.UUID]int64) {
	last = map[uuid.UUID]int64{}
	for range 4 {
		products = append(products, s.create(1_000_000))
	}
	for n := int64(1); ; n++ {
		select {
		case <-stop:
			return products, last
		default:
		}
		p := products[rand.IntN(len(products))]
		slot, user, at := s.acquire(p, int(n), n)
		last[p] = at
		if n%2 == 0 {
			last[p] = s.append(p, slot, domain.SlotExpired{UserID: user, Unit: int(n), ArrivalSequence: n, ReclaimStatus: domain.AutoExpired, Deadline: time.UnixMilli(1_800_000_000_000).UTC()})
		}
	}
}

// requirePlainFold checks that the rows equal those of a plain fold, and that there were at least
// that many events.
func (s *system) requirePlainFold(least int64) {
	s.t.Helper()
	for _, name := range s.names() {
		s.exec("SELECT projection_create_generation($1, 9)", name)
	}
	s.foldInto(9, 0)
	require.Equal(s.t, s.rows(9), s.rows(1))
	require.Greater(s.t, s.count("SELECT count(*) FROM slot_audit_log"), least)
	require.Zero(s.t, s.count("SELECT count(*) FROM parked_events"))
}

// R8 (contract 2).
func TestProjector_AppliesEachEventOnceAcrossKills(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Kafka(t))
	config := s.pool.Config()
	config.ConnConfig.RuntimeParams["application_name"] = "worker"
	var err error
	s.workers, err = pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(s.workers.Close)
	relays := []func() error{s.relay(), s.relay()}
	projectors := []func() error{s.projector(), s.projector()}
	stop := make(chan struct{})
	done := make(chan struct{})
	var products []uuid.UUID
	var last map[uuid.UUID]int64
	go func() { defer close(done); products, last = s.rush(stop) }()
	seen := s.count("SELECT count(*) FROM slot_audit_log")
	for round := range 6 {
		// Each round continues once something new has been applied.
		testkit.Eventually(t, 60*time.Second, "progress", func() error {
			n := s.count("SELECT count(*) FROM slot_audit_log")
			if n < seen+20 {
				return context.DeadlineExceeded
			}
			seen = n
			return nil
		})
		switch round % 3 {
		case 0:
			require.NoError(t, projectors[0]())
			projectors[0] = s.projector()
		case 1:
			require.NoError(t, relays[0]())
			relays[0] = s.relay()
		case 2: // all connections of relays and projectors, with leadership and transactions
			s.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'worker'")
		}
	}
	close(stop)
	<-done
	for _, p := range products {
		if last[p] > 0 {
			s.awaitReached(p, last[p])
		}
	}
	s.requirePlainFold(100)
}

// R8 (contract 2).
func TestProjector_MissesNothingWhenABrokerIsKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("starts and kills a separate broker")
	}
	t.Parallel()
	broker := testkit.OwnKafka(t)
	s := newSystem(t, broker.Brokers())
	s.relay()
	s.projector()
	stop, done := make(chan struct{}), make(chan struct{})
	var products []uuid.UUID
	var last map[uuid.UUID]int64
	go func() { defer close(done); products, last = s.rush(stop) }()
	testkit.EventuallyTrue(t, 60*time.Second, "a beginning", func() bool { return s.count("SELECT count(*) FROM slot_audit_log") >= 50 })
	broker.Kill9()
	require.NoError(t, broker.Restart(context.Background()))
	close(stop)
	<-done
	for _, p := range products {
		if last[p] > 0 {
			s.awaitReached(p, last[p])
		}
	}
	s.requirePlainFold(100)
}
