package gatestore_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/command/gatestore"
	"github.com/dopaminestore/dopamine/domain/fairness"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/claimstest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func refusals(to int64) redis.NumberedLine {
	return redis.NumberedLine{Number: 1, Line: fairness.Line{
		Type: fairness.Refused, From: 1, To: to, Refused: fairness.Counts{SoldOut: to}}}
}

func TestShip_StoredRunOnlyGrows(t *testing.T) {
	w := claimstest.New(t)
	product := w.Product(1)
	for _, to := range []int64{3, 7, 5} {
		require.NoError(t, w.Gates.Ship(t.Context(), []redis.Shipment{{Product: product, Lines: []redis.NumberedLine{refusals(to)}}}))
	}
	var to int64
	require.NoError(t, w.Pool.QueryRow(t.Context(), `select to_number from gate_decisions`).Scan(&to))
	require.EqualValues(t, 7, to)
}

// A process dies with each of its statements executed and not committed. A raise of
// the epoch, which happens under the append lock, does not wait for one that ships, and
// only briefly for a lease: all appends queue behind it.
func TestRaise_DoesNotWaitForDeadProcess(t *testing.T) {
	w := claimstest.New(t)
	_, err := w.Pool.Exec(t.Context(), `
		create function hang() returns trigger language plpgsql as $$
		begin
		    if current_setting('application_name') = 'dead' then perform pg_sleep(60); end if;
		    return null;
		end $$;
		create constraint trigger hang after insert or update on gate_shipments deferrable initially deferred for each row execute function hang();
		create constraint trigger hang after update on product_gates deferrable initially deferred for each row execute function hang()`)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		statement func(ctx context.Context, s *gatestore.Store, product uuid.UUID) error
		raised    bool // nevertheless
	}{
		"ship": {func(ctx context.Context, s *gatestore.Store, product uuid.UUID) error {
			return s.Ship(ctx, []redis.Shipment{{Product: product, Lines: []redis.NumberedLine{refusals(1)}, Live: true, At: time.Now()}})
		}, true},
		"lease": {func(ctx context.Context, s *gatestore.Store, product uuid.UUID) error {
			_, err := s.Leases(ctx, []redis.LeaseRequest{{Product: product, Epoch: 0, Instance: "x", Renew: true}})
			return err
		}, false},
		"heartbeat": {func(ctx context.Context, s *gatestore.Store, product uuid.UUID) error {
			_, err := s.Alive(ctx, []redis.AliveRequest{{Product: product, Epoch: 0}})
			return err
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			product := w.Product(1)
			cfg := w.Pool.Config()
			cfg.ConnConfig.RuntimeParams["application_name"] = "dead"
			dead, err := pgxpool.NewWithConfig(t.Context(), cfg)
			require.NoError(t, err)
			defer dead.Close()
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- c.statement(ctx, gatestore.NewStore(dead, avsc.Decode), product) }()
			defer func() { cancel(); require.Error(t, <-ended) }()
			testkit.Eventually(t, 5*time.Second, "the statement to hang in its commit", func() error {
				var hangs bool
				err := w.Pool.QueryRow(t.Context(), `select exists (select from pg_stat_activity
					where application_name = 'dead' and wait_event = 'PgSleep' and datname = current_database())`).Scan(&hangs)
				if err == nil && !hangs {
					err = errors.New("not yet")
				}
				return err
			})

			began := time.Now()
			raised, err := w.Gates.Raise(t.Context(), []redis.RaiseRequest{{Product: product, Found: 0, Above: redis.NoEpoch}})
			require.Less(t, time.Since(began), 2*time.Second, "the append lock is held briefly")
			require.NoError(t, err)
			require.Equal(t, c.raised, raised[0].Raised)
		})
	}
}
