package worker

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dopaminestore/dopamine/avsc"
	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/command/deadlines"
	"github.com/dopaminestore/dopamine/command/gatestore"
	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/gateway"
	"github.com/dopaminestore/dopamine/internal/sleep"
	"github.com/dopaminestore/dopamine/redis"
)

// If these name its services, the test binary runs as a worker's process.
const (
	processDatabase = "DOPAMINE_TEST_WORKER_DATABASE"
	processRedis    = "DOPAMINE_TEST_WORKER_REDIS"
	processGateway  = "DOPAMINE_TEST_WORKER_GATEWAY" // empty: it leaves payments to others
)

func TestMain(m *testing.M) {
	if url := os.Getenv(processDatabase); url != "" {
		if err := beWorker(url, os.Getenv(processRedis), os.Getenv(processGateway)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// beWorker works until it is killed.
func beWorker(databaseURL, redisURL, gatewayURL string) error {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, databaseURL)
	if err != nil {
		return err
	}
	store, err := eventstore.Open(ctx, pool, eventstore.Options{})
	if err != nil {
		return err
	}
	gateStore := gatestore.NewStore(pool, avsc.Decode)
	gate, err := redis.Open(ctx, []string{redisURL}, gateStore, redis.Options{})
	if err != nil {
		return err
	}
	cfg := Config{
		Gate: gate, GateStore: gateStore, Deadlines: deadlines.NewStore(pool),
		Store: store, Reader: eventstore.NewReader(pool), Notifier: eventstore.Listen(ctx, pool),
	}
	if gatewayURL != "" {
		client, err := gateway.New(gateway.Options{URL: gatewayURL})
		if err != nil {
			return err
		}
		cfg.Payments, err = payments.New(payments.Config{
			Pool: pool, Store: store, Reader: cfg.Reader, Claims: claims.NewStore(pool), Gate: gate, Gateway: client,
			CallbackURL: "http://127.0.0.1:1/", PaymentTimeout: payingTimeout, SlotTTL: payingLife, Registry: prometheus.NewRegistry(),
		})
		if err != nil {
			return err
		}
	}
	return New(cfg).Run(ctx)
}

// spawn starts a worker in a process, which works until kill.
func (w *world) spawn(gatewayURL string) (kill func()) {
	w.TB.Helper()
	process := exec.CommandContext(w.TB.Context(), os.Args[0])
	process.Env = append(os.Environ(), processDatabase+"="+w.Pool.Config().ConnString(), processRedis+"="+w.redis, processGateway+"="+gatewayURL)
	process.Stderr = os.Stderr
	require.NoError(w.TB, process.Start())
	return func() {
		require.NoError(w.TB, process.Process.Kill())
		_ = process.Wait() // it was killed
	}
}

// Workers are repeatedly killed with SIGKILL while slots end: between an
// append and the sync of the gate, inside an append, anywhere.
func TestWorkers_KilledRepeatedlyLoseNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const slots = 6000
	product := w.holders(slots, func(i int) life {
		return life{ttl: 500*time.Millisecond + time.Duration(i)*time.Millisecond/2, warning: 400 * time.Millisecond}
	})
	lives, most := 0, 40
	for ended := 0; ended < slots; lives++ {
		require.Less(t, lives, most, "%d of %d slots have ended", ended, slots)
		kill := w.spawn("")
		// Wait until it has done something, and a bit longer, for a different time in each life.
		before := ended
		for deadline := time.Now().Add(15 * time.Second); ended == before && time.Now().Before(deadline); {
			require.NoError(t, sleep.For(t.Context(), time.Duration(20+7*lives)*time.Millisecond))
			ended = w.count(product, "SlotExpired")
		}
		kill()
		ended = w.count(product, "SlotExpired")
	}
	require.Greater(t, lives, 2, "it was killed too late to show anything")
	t.Logf("%d lives", lives)

	// The last one may have died before it synced the gate: the next one does.
	w.work()
	w.awaitGate(10*time.Second, product, slots, 0, 0)
	require.Equal(t, slots, w.count(product, "SlotExpired"))
	for _, s := range w.slots(product) {
		require.Equal(t, domain.ExpiredSlot, s.Status)
		require.LessOrEqual(t, s.Version, 3)
	}
	difference, err := w.Gates.Compare(t.Context(), w.gate, product)
	require.NoError(t, err)
	require.Empty(t, difference)
}
