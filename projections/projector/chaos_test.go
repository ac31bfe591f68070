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
	"github.com/dopaminestore/dopamine/projections/projector"
	"github.com/dopaminestore/dopamine/relay"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// rush appends events until stop is closed: grants of a few products, half of which expire.
func (s *system) rush(stop <-chan struct{}) (products []uuid.UUID, last map[uuid.UUID]int64) {
	last = map[uuid.UUID]int64{}
	for range 4 {
		products = append(products, s.Create(1_000_000))
	}
	for n := int64(1); ; n++ {
		select {
		case <-stop:
			return products, last
		default:
		}
		p := products[rand.IntN(len(products))]
		slot, user, at := s.Acquire(p, int(n), n)
		last[p] = at
		if n%2 == 0 {
			last[p] = s.Record(p, slot, domain.SlotExpired{UserID: user, Unit: int(n), ArrivalSequence: n, ReclaimStatus: domain.AutoExpired, Deadline: time.UnixMilli(1_800_000_000_000).UTC()})
		}
	}
}

// startRush runs a rush. end waits until its events are applied, and requires that the rows equal
// those of a plain fold, and that there were more than 100 events.
func (s *system) startRush() (end func()) {
	stop, done := make(chan struct{}), make(chan struct{})
	var products []uuid.UUID
	var last map[uuid.UUID]int64
	go func() { defer close(done); products, last = s.rush(stop) }()
	return func() {
		s.TB.Helper()
		close(stop)
		<-done
		for _, p := range products {
			if last[p] > 0 {
				s.awaitReached(p, last[p])
			}
		}
		s.createGeneration(9)
		s.foldInto(9, 0)
		require.Equal(s.TB, s.Rows(9), s.Rows(1))
		require.Greater(s.TB, s.audited(), int64(100))
		require.Zero(s.TB, s.Count("SELECT count(*) FROM parked_events"))
	}
}

// R8 (contract 2).
func TestProjector_AppliesEachEventOnceAcrossKills(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Kafka(t))
	config := s.Pool.Config()
	config.ConnConfig.RuntimeParams["application_name"] = "worker"
	workers, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(workers.Close)
	startRelay := func() func() error {
		_, stop := s.StartRelay(func(c *relay.Config) { c.Pool = workers })
		return stop
	}
	startProjector := func() func() error {
		_, stop := s.StartProjector(func(c *projector.Config) { c.ReadPool = workers })
		return stop
	}
	relays := []func() error{startRelay(), startRelay()}
	projectors := []func() error{startProjector(), startProjector()}
	end := s.startRush()
	seen := s.audited()
	for round := range 6 {
		// Each round continues once something new has been applied.
		testkit.EventuallyTrue(t, 60*time.Second, "progress", func() bool { return s.audited() >= seen+20 })
		seen = s.audited()
		switch round % 3 {
		case 0:
			require.NoError(t, projectors[0]())
			projectors[0] = startProjector()
		case 1:
			require.NoError(t, relays[0]())
			relays[0] = startRelay()
		case 2: // all connections of relays and projectors, with leadership and transactions
			s.Exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'worker'")
		}
	}
	end()
}

// R8 (contract 2).
func TestProjector_MissesNothingWhenABrokerIsKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("starts and kills a separate broker")
	}
	t.Parallel()
	broker := testkit.OwnKafka(t)
	s := newSystem(t, broker.Brokers())
	s.Start()
	end := s.startRush()
	testkit.EventuallyTrue(t, 60*time.Second, "a beginning", func() bool { return s.Count("SELECT count(*) FROM slot_audit_log") >= 50 })
	broker.Kill9()
	require.NoError(t, broker.Restart(context.Background()))
	end()
}
