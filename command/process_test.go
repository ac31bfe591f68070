package command

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/command/payments"
	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// beAPI serves until it is killed, and prints its address to standard output.
func beAPI(databaseURL, redisURL, keyFile string) error {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, databaseURL)
	if err != nil {
		return err
	}
	store, err := eventstore.Open(ctx, pool, eventstore.Options{})
	if err != nil {
		return err
	}
	s := newStores(pool)
	gate, err := redis.Open(ctx, []string{redisURL}, s.gateStore, redis.Options{})
	if err != nil {
		return err
	}
	verifier, err := auth.New(ctx, auth.Config{KeyFile: keyFile})
	if err != nil {
		return err
	}
	cfg := Config{
		Addr: "127.0.0.1:0", Pool: pool, Store: store, Reader: eventstore.NewReader(pool), Verifier: verifier,
		Claims: s.claims, GateStore: s.gateStore, Gate: gate,
		AppendQueue: 4096, SlotTTL: 30 * time.Minute, SlotWarning: 5 * time.Minute, Registry: registry(), WebhookSecrets: []string{webhookSecret},
	}
	cfg.Payments, err = payments.New(payments.Config{
		Pool: pool, Store: store, Reader: cfg.Reader, Claims: s.claims, Gate: gate, Gateway: &fakeGateway{},
		SlotTTL: cfg.SlotTTL, Registry: cfg.Registry,
	})
	if err != nil {
		return err
	}
	api, err := New(cfg)
	if err != nil {
		return err
	}
	if err := api.Listen(); err != nil {
		return err
	}
	fmt.Println(api.Addr())
	return api.Run(ctx)
}

// process is a command API in a separate process.
type process struct {
	node // without its components
	cmd  *exec.Cmd
}

func (s *system) process(t testing.TB) process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), processDatabase+"="+s.pool.Config().ConnString(), processRedis+"="+s.redis, processKey+"="+s.KeyFile)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan(), "the process ended before it served")
	base, err := url.Parse("http://" + lines.Text())
	require.NoError(t, err)
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(transport.CloseIdleConnections)
	proxy := httputil.NewSingleHostReverseProxy(base)
	proxy.Transport = transport
	return process{node{client: newClient(t, proxy)}, cmd}
}

func (p process) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Errorf("%s: %v", s, err)
	}
}

// longerThanALease waits until so much time has passed since a moment that no
// lease of that moment is valid.
func longerThanALease(t testing.TB, since time.Time) {
	t.Helper()
	testkit.Eventually(t, 3*redis.LeaseTime, "leases to run out", func() error {
		if took := time.Since(since); took < redis.LeaseTime+time.Second/2 {
			return fmt.Errorf("%s passed", took)
		}
		return nil
	})
}

// A process is stopped between a grant and its append. Meanwhile the sale
// changes, another buyer gets the unit, and its lease runs out. When it resumes,
// the grant is useless, and nothing has waited for it for long.
func TestProcess_StoppedBetweenGrantAndAppend(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Redis(t))
	n, p := s.node(t), s.process(t)
	product := s.product(t, n, 1)
	first := s.user(t, auth.Buyer)
	require.Equal(t, 204, s.release(t, p.node, first, s.acquire(t, p.node, first, product).text("id")).status)

	lock, err := s.pool.Acquire(t.Context())
	require.NoError(t, err)
	defer lock.Release()
	dbtest.Exec(t, lock, `select pg_advisory_lock($1)`, eventstore.AppendLock)
	late, answer := s.user(t, auth.Buyer), make(chan answered, 1)
	go func() {
		a, err := p.send(t.Context(), late, http.MethodPost, "/v1/slots/acquire", map[string]any{"productId": product})
		if err != nil {
			t.Errorf("the stopped process: %v", err)
		}
		answer <- a
	}()
	testkit.Eventually(t, 5*time.Second, "a pending grant", func() error {
		if state, err := n.gate.State(t.Context(), product); err != nil || state.Pending != 1 {
			return fmt.Errorf("%+v %v", state, err)
		}
		return nil
	})
	p.signal(t, syscall.SIGSTOP)
	stopped := time.Now()
	dbtest.Exec(t, lock, `select pg_advisory_unlock($1)`, eventstore.AppendLock)

	// Its backend has the append lock now, until Postgres disconnects it.
	require.Equal(t, 200, s.update(t, n, product, map[string]any{"paused": true}).status)
	require.Equal(t, 200, s.update(t, n, product, map[string]any{"paused": false}).status)
	winner := s.user(t, auth.Buyer)
	won := s.granted(t, n, winner, product)
	longerThanALease(t, stopped)
	select {
	case a := <-answer:
		t.Fatalf("answered while it was stopped: %v", a.body)
	default:
	}
	p.signal(t, syscall.SIGCONT)
	a := <-answer
	require.Contains(t, []string{"sold-out", "unavailable"}, a.slug(), "%v", a.body)
	s.acquireUntil(t, 10*time.Second, p.node, late, product, "sold-out")
	require.Equal(t, winner.id, s.requireLawful(t, product)[uuid.MustParse(won.text("id"))].UserID)
	require.NoError(t, n.gate.Sync(t.Context(), product))
	state, err := n.gate.State(t.Context(), product)
	require.NoError(t, err)
	require.Zero(t, state.Pending)

	require.Equal(t, 204, s.release(t, p.node, winner, won.text("id")).status)
	require.Equal(t, 201, s.acquire(t, p.node, late, product).status, "the unit is not lost")
	s.requireFair(t, n, product)
}

// A process is stopped in the middle of a rush. Meanwhile Redis loses everything,
// another process rebuilds the gate and continues the sale, and slots end. When the
// stopped process resumes with its requests in progress, no unit is sold twice, no
// response is empty, and no unit is lost.
func TestProcess_StoppedInRush(t *testing.T) {
	t.Parallel()
	own := testkit.OwnRedis(t)
	s := newSystem(t, own.URL())
	n, p := s.node(t), s.process(t)
	const stock, crowded = 60, 150
	product := s.product(t, n, stock)
	early, c := s.buyers(t, 20), newTally()
	for i, u := range early {
		c.acquire(t, []node{n, p.node}[i%2], u, product)
	}
	users := s.buyers(t, crowded)
	rushed := make(chan struct{})
	go func() {
		defer close(rushed)
		crowd(len(users), func(i int) {
			if i == crowded/2 {
				p.signal(t, syscall.SIGSTOP)
				return
			}
			c.acquire(t, p.node, users[i], product)
		})
	}()
	testkit.EventuallyEqual(t, 10*time.Second, "the process to be stopped", 'T', func() byte { return stateOf(t, p) })
	stopped := time.Now()
	flush(t, own.URL())
	later := s.buyers(t, 30)
	crowd(len(later), func(i int) { c.acquire(t, n, later[i], product) })
	for _, slot := range s.requireLawful(t, product) {
		if slot.Unit%3 == 0 {
			require.Equal(t, 204, s.release(t, n, s.admin, slot.ID.String()).status)
		}
	}
	longerThanALease(t, stopped)
	p.signal(t, syscall.SIGCONT)
	<-rushed
	t.Logf("%v", c.counts)

	answers := 0
	for _, n := range c.counts {
		answers += n
	}
	require.Equal(t, len(early)+len(users)-1+len(later), answers)
	require.Equal(t, answers, c.counts["201"]+c.counts["sold-out"]+c.counts["unavailable"], "%v", c.counts)
	s.requireDurable(t, product, c)
	require.NoError(t, n.gate.Sync(t.Context(), product))
	state, err := n.gate.State(t.Context(), product)
	require.NoError(t, err)
	require.Len(t, s.requireLawful(t, product), state.Held)
	require.Equal(t, stock, state.Held+state.Free+state.Pending, "no unit is lost")
	for range state.Free {
		require.Equal(t, 201, s.acquire(t, p.node, s.user(t, auth.Buyer), product).status)
	}
	require.Equal(t, "sold-out", s.acquire(t, p.node, s.user(t, auth.Buyer), product).slug())
	s.requireFair(t, n, product)
}

// stateOf returns the kernel's state of the process: T is stopped.
func stateOf(t testing.TB, p process) byte {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	require.NoError(t, err)
	for i, c := range text {
		if c == ')' && i+2 < len(text) {
			return text[i+2]
		}
	}
	return '?'
}
