package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Parameters of the measurement of live traffic during a replay.
const (
	trafficEvents = 300_000 // in the log that is replayed
	trafficRate   = 200     // acquires a second, and as many reads
	trafficWindow = 6 * time.Second
	trafficRounds = 4
	trafficLines  = 64 // connections
)

// replayRates are the replay's rate limits; 0 is none.
var replayRates = []int{0, 20_000, 5_000}

// traffic is the result for one kind of replay.
type traffic struct {
	name           string
	rate           int // of the replay; below 0: no replay
	acquire, reads []float64
	events         int64 // that the replay has read
}

// trafficSection sends acquires and reads at a fixed rate, alternately without a replay and during
// replays of several rates.
func trafficSection(ctx context.Context, out *report) error {
	s, err := startSystem(ctx, func(ctx context.Context, s *system) error { return s.history(ctx, trafficEvents) })
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.projected(ctx, trafficEvents); err != nil {
		return err
	}
	product, err := s.product(ctx, visibleStock)
	if err != nil {
		return err
	}
	turns := []*traffic{{name: "no replay", rate: -1}}
	for _, rate := range replayRates {
		name := "replay all"
		if rate > 0 {
			name += fmt.Sprintf(" --rate %d", rate)
		}
		turns = append(turns, &traffic{name: name, rate: rate})
	}
	if err := s.turn(ctx, product, &traffic{rate: -1}); err != nil { // warm up
		return err
	}
	for range trafficRounds {
		for _, t := range turns {
			if err := s.turn(ctx, product, t); err != nil {
				return fmt.Errorf("during %s: %w", t.name, err)
			}
		}
	}
	calm := turns[0]
	for _, t := range turns[1:] {
		out.add(row{what: t.name + ", during live traffic", figure: float64(t.events) / (trafficRounds * trafficWindow).Seconds(), unit: "events/s"})
		for _, p := range []float64{0.5, 0.99} {
			out.add(
				row{what: fmt.Sprintf("  acquire p%.0f", 100*p), figure: percentile(t.acquire, p), limit: percentile(calm.acquire, p), unit: "ms", limitIs: "without a replay"},
				row{what: fmt.Sprintf("  read p%.0f", 100*p), figure: percentile(t.reads, p), limit: percentile(calm.reads, p), unit: "ms", limitIs: "without a replay"})
		}
	}
	return nil
}

// history fills the event store as years of drops leave it: a thousand slots are
// acquired, then they expire, then the next thousand.
func (s *system) history(ctx context.Context, n int) error {
	conn, err := pgx.Connect(ctx, s.db)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // it is only read from
	const columns = `INSERT INTO events (position, id, stream, version, key, type, schema_version, payload, traceparent, correlation_id, causation_id, actor, recorded_at) `
	product := uuid.New()
	if _, err := conn.Exec(ctx, columns+`
		VALUES (1, gen_random_uuid(), $1, 1, $1, 'ProductCreated', 1,
		        json_build_object('name', 'Lamp', 'description', 'A lamp', 'price', json_build_object('amount', '10', 'currency', 'KRW'), 'stock', 1000,
		                          'saleDate', '2026-01-01T00:00:00Z'),
		        '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01', 'history', 'history', 'system', date_trunc('milliseconds', now() - interval '1 day'))`, product); err != nil {
		return fmt.Errorf("make a history: %w", err)
	}
	if _, err := conn.Exec(ctx, columns+`
		SELECT i + 2, gen_random_uuid(), md5('slot' || k)::uuid, CASE WHEN acquires THEN 1 ELSE 2 END, $1,
		       CASE WHEN acquires THEN 'SlotAcquired' ELSE 'SlotExpired' END, 1,
		       CASE WHEN acquires
		            THEN json_build_object('userId', md5('user' || k)::uuid, 'unit', 1 + k % 1000, 'arrivalSequence', k + 1, 'ttl', 1800000, 'warning', 300000)
		            ELSE json_build_object('userId', md5('user' || k)::uuid, 'unit', 1 + k % 1000, 'arrivalSequence', k + 1, 'deadline', '2026-01-01T10:00:00Z', 'reclaimStatus', 'AUTO_EXPIRED')
		       END,
		       '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01', gen_random_uuid(), gen_random_uuid(), md5('user' || k)::uuid,
		       (SELECT max(recorded_at) FROM events) + i * interval '1 millisecond'
		FROM (SELECT i, i / 2000 * 1000 + i % 1000 AS k, i % 2000 < 1000 AS acquires FROM generate_series(0, $2::int - 2) i) a ORDER BY i`, product, n); err != nil {
		return fmt.Errorf("make a history: %w", err)
	}
	_, err = conn.Exec(ctx, `VACUUM (ANALYZE) events`)
	return err
}

// projected waits until every projection has reached a position.
func (s *system) projected(ctx context.Context, position int64) error {
	const within, pause, projections = 2 * time.Minute, 200 * time.Millisecond, 4
	conn, err := pgx.Connect(ctx, s.db)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // it is only read from
	for deadline := time.Now().Add(within); ; {
		var n int
		if err := conn.QueryRow(ctx, `SELECT count(DISTINCT projection) FROM projection_checkpoints WHERE position >= $1`, position).Scan(&n); err != nil {
			return err
		}
		if n == projections {
			_, err := conn.Exec(ctx, `VACUUM (ANALYZE)`)
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d projections are at %d after %s", n, projections, position, within)
		}
		time.Sleep(pause)
	}
}

// turn is one window of traffic.
func (s *system) turn(ctx context.Context, product uuid.UUID, t *traffic) error {
	stop, events := func() error { return nil }, func() (int64, error) { return 0, nil }
	if t.rate >= 0 {
		stop, events = s.replaying(t.rate)
	}
	err := s.visit(ctx, product, t)
	read, eventsErr := events()
	t.events += read
	return errors.Join(err, stop(), eventsErr)
}

// visit sends acquires and reads for a while, each when it is due, whether or not earlier ones have
// been answered.
func (s *system) visit(ctx context.Context, product uuid.UUID, t *traffic) error {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: trafficLines, MaxConnsPerHost: trafficLines}}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var errs []error
	var all sync.WaitGroup
	one := func(due time.Time, method, url, token, body string, status int, took *[]float64) {
		err := ask(ctx, client, method, url, token, body, status)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			errs = append(errs, err)
			return
		}
		*took = append(*took, float64(time.Since(due).Microseconds())*milli)
	}
	body := fmt.Sprintf(`{"productId":%q}`, product)
	began := time.Now()
	const every = time.Second / trafficRate
	for i := range int(trafficWindow / every) {
		due := began.Add(time.Duration(i) * every)
		time.Sleep(time.Until(due))
		token, err := s.token(uuid.New(), "buyer")
		if err != nil {
			return err
		}
		read := "/v1/slots/my-slots"
		if i%2 == 0 {
			read = "/v1/products/" + product.String()
		}
		all.Go(func() { one(due, http.MethodPost, s.command+acquirePath, token, body, http.StatusCreated, &t.acquire) })
		all.Go(func() { one(due, http.MethodGet, s.query+read, token, "", http.StatusOK, &t.reads) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func ask(ctx context.Context, client *http.Client, method, url, token, body string, status int) error {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != status {
		err = fmt.Errorf("%s %s: status %d", method, url, resp.StatusCode)
	}
	return err
}

// replaying replays everything repeatedly until stop is called; events returns how many were read.
func (s *system) replaying(rate int) (stop func() error, events func() (int64, error)) {
	began := time.Now()
	var stopped atomic.Bool
	var mu sync.Mutex
	var running *exec.Cmd
	done := make(chan error, 1)
	go func() {
		for !stopped.Load() {
			cmd := exec.Command(s.binary, "replay", "all", "--drop-old", "--rate", strconv.Itoa(rate))
			cmd.Env, cmd.Dir = s.env, s.dir
			var said strings.Builder
			cmd.Stderr = &said
			mu.Lock()
			running = cmd
			err := cmd.Start()
			mu.Unlock()
			if err == nil {
				err = cmd.Wait()
			}
			if err != nil && !stopped.Load() {
				done <- fmt.Errorf("replay: %w\n%s", err, said.String())
				return
			}
		}
		done <- nil
	}()
	stop = func() error {
		stopped.Store(true)
		mu.Lock()
		if running != nil && running.Process != nil {
			_ = running.Process.Signal(os.Interrupt) // it may have ended
		}
		mu.Unlock()
		select {
		case err := <-done:
			return err
		case <-time.After(readyTimeout):
			_ = running.Process.Signal(syscall.SIGKILL)
			return errors.New("the replay did not stop")
		}
	}
	events = func() (n int64, err error) {
		conn, err := pgx.Connect(context.Background(), s.db)
		if err != nil {
			return 0, err
		}
		defer conn.Close(context.Background()) //nolint:errcheck // it is only read from
		err = conn.QueryRow(context.Background(), `
			SELECT coalesce(sum(events), 0)::bigint FROM projection_replays WHERE projection = 'slot_audit_log' AND started_at >= $1`, began).Scan(&n)
		return n, err
	}
	return stop, events
}
