package gatestore_test

import (
	"context"
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
	"github.com/dopaminestore/dopamine/tools/dbtest"
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
	require.EqualValues(t, 7, dbtest.One[int64](t, w.Pool, `select to_number from gate_decisions`))
}

// A gate of a lost history ships under an epoch that was another rebuild's, or that no gate of
// the present history had.
func TestShip_StoresNothingOfAnotherRebuild(t *testing.T) {
	w := claimstest.New(t)
	other := uuid.New()
	for name, c := range map[string]struct {
		epoch  int64
		ours   bool // by the gate of the epoch's rebuild
		id     uuid.UUID
		forget bool // a version that does not know the rebuilds' ids ended the epochs
		stored bool
	}{
		"an earlier epoch":                      {epoch: 0, ours: true, stored: true},
		"the present epoch":                     {epoch: 3, ours: true, stored: true},
		"an earlier epoch, another gate":        {epoch: 0, id: other},
		"an earlier epoch, id unknown":          {epoch: 0, stored: true},
		"an earlier epoch, its id unknown":      {epoch: 0, id: other, forget: true, stored: true},
		"the present epoch, another gate":       {epoch: 3, id: other},
		"the present epoch, id unknown":         {epoch: 3, stored: true},
		"an epoch above the product's":          {epoch: 4, id: other},
		"an epoch that a lost history had":      {epoch: 2, id: other},
		"an epoch that was passed over":         {epoch: 1, id: other},
		"the gate's own, by its id, later lost": {epoch: 2, ours: true},
	} {
		t.Run(name, func(t *testing.T) {
			product := w.Product(1)
			ids := map[int64]uuid.UUID{}
			read := func(epoch int64) {
				row, err := w.Gates.Row(t.Context(), product)
				require.NoError(t, err)
				require.Equal(t, epoch, row.Epoch)
				ids[epoch] = row.RebuiltID
			}
			read(0)
			ids[2] = ids[0] // opened in place, in the lost history
			require.True(t, w.Raise(product, 0, 2).Raised)
			read(3)
			if c.forget {
				_, err := w.Pool.Exec(t.Context(), `update gate_epochs set rebuilt_id = null where product_id = $1`, product)
				require.NoError(t, err)
			}
			s := redis.Shipment{Product: product, Rebuild: c.id, FirstEpoch: c.epoch, Epoch: c.epoch, Live: true, At: time.Now()}
			if c.ours {
				s.Rebuild = ids[c.epoch]
			}
			line := refusals(1)
			line.Epoch = c.epoch
			s.Lines = []redis.NumberedLine{line}
			for range 2 {
				require.NoError(t, w.Gates.Ship(t.Context(), []redis.Shipment{s}))
			}
			var lines int
			var shipped, broken bool
			require.NoError(t, w.Pool.QueryRow(t.Context(), `
				select (select count(*) from gate_decisions where product_id = $1), bool_or(shipped_at is not null), bool_or(broken)
				from gate_shipments where product_id = $1`, product).Scan(&lines, &shipped, &broken))
			require.Equal(t, c.stored, lines == 1)
			require.Equal(t, c.stored, shipped)
			require.Equal(t, !c.stored, broken)
		})
	}
}

// A process dies with each of its statements executed and not committed. A raise of
// the epoch, which happens under the append lock, does not wait for one that ships, and
// only briefly for a lease: all appends queue behind it.
func TestRaise_DoesNotWaitForDeadProcess(t *testing.T) {
	w := claimstest.New(t)
	dbtest.Exec(t, w.Pool, `
		create function hang() returns trigger language plpgsql as $$
		begin
		    if current_setting('application_name') = 'dead' then perform pg_sleep(60); end if;
		    return null;
		end $$;
		create constraint trigger hang after insert or update on gate_shipments deferrable initially deferred for each row execute function hang();
		create constraint trigger hang after update on product_gates deferrable initially deferred for each row execute function hang()`)
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
			testkit.EventuallyTrue(t, 5*time.Second, "the statement to hang in its commit", func() bool {
				return dbtest.One[bool](t, w.Pool, `select exists (select from pg_stat_activity
					where application_name = 'dead' and wait_event = 'PgSleep' and datname = current_database())`)
			})

			began := time.Now()
			raised, err := w.Gates.Raise(t.Context(), []redis.RaiseRequest{{Product: product, Found: 0, Above: redis.NoEpoch}})
			require.Less(t, time.Since(began), 2*time.Second, "the append lock is held briefly")
			require.NoError(t, err)
			require.Equal(t, c.raised, raised[0].Raised)
		})
	}
}
