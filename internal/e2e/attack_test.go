package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/auth"
)

// attacksVariable makes TestAttacks run. It is a measurement, not a check for every change.
const attacksVariable = "DOPAMINE_ATTACKS"

const (
	attackedBuyers = 1000
	attackClients  = 40
	// attackDuration is the duration of each part.
	attackDuration = 10 * time.Second
)

// TestAttacks measures how long 1,000 buyers wait for a slot, each with one request every ten
// seconds, without an attack and during each of the attacks that the bounds of contract 7 are
// against. It logs the figures and requires only that buyers are served: latencies of a loaded
// machine are not meaningful.
func TestAttacks(t *testing.T) {
	if os.Getenv(attacksVariable) == "" {
		t.Skip("set " + attacksVariable + "=1 to measure")
	}
	s := openSite(t)
	_, o := s.admin.want(http.StatusCreated, http.MethodPost, s.products(), newProduct(10, time.Now().Add(2*time.Second).UTC().Format(time.RFC3339Nano)))
	product := o["id"].(string)
	time.Sleep(3 * time.Second) // the sale begins
	greedy := s.users.new(auth.Buyer)
	// The attackers have connections of their own, so that they take none of the buyers' client.
	s.attackers = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: attackClients}, Timeout: 30 * time.Second}
	defer s.attackers.CloseIdleConnections()
	get := func(url, token string) {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			return
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		if res, err := s.attackers.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
	}
	began := time.Now()
	var table strings.Builder
	alone := time.Duration(1)
	for _, attack := range []struct {
		name string
		run  func(ctx context.Context, client int)
	}{
		{"none", nil},
		{"?at= with ever other moments", func(ctx context.Context, _ int) {
			get(fmt.Sprintf("%s/v1/products/%s?at=%s", s.query, product, time.Now().Add(-time.Since(began)/2).UTC().Format("2006-01-02T15:04:05.000Z")), "")
		}},
		{"fairness and its log", func(context.Context, int) {
			get(s.query+"/v1/products/"+product+"/fairness", "")
			get(s.query+"/v1/products/"+product+"/fairness/log", "")
		}},
		{"lists of products with ever other pages", func(_ context.Context, n int) {
			get(fmt.Sprintf("%s/v1/products?page=%d&size=%d", s.query, time.Now().UnixNano()%1e6, 1+n), "")
		}},
		{"my-slots, as fast as a buyer may", func(context.Context, int) { get(s.query+"/v1/slots/my-slots?limit=1000", greedy.token) }},
		{"connections with half a header", func(ctx context.Context, _ int) {
			for range 20 {
				conn, err := net.Dial("tcp", strings.TrimPrefix(s.command, "http://"))
				if err != nil {
					return
				}
				_, _ = io.WriteString(conn, "POST /v1/slots/acquire HTTP/1.1\r\nHost:")
				context.AfterFunc(ctx, func() { _ = conn.Close() })
			}
			<-ctx.Done()
		}},
		{"bad tokens", func(context.Context, int) { get(s.query+"/v1/products", "a.b.c") }},
		{"product streams, 20 by each client", func(ctx context.Context, _ int) {
			s.holdStreams(ctx, "/v1/products/"+product+"/stream", "")
		}},
		{"my-slots/stream, 20 by each client", func(ctx context.Context, _ int) {
			s.holdStreams(ctx, "/v1/slots/my-slots/stream", greedy.token)
		}},
		{"stats and audit exports without the role", func(context.Context, int) {
			get(s.query+"/v1/stats/stream", greedy.token)
			get(s.query+"/v1/audit?limit=1000", greedy.token)
		}},
		{"lists of the buyer's purchases", func(_ context.Context, n int) {
			get(fmt.Sprintf("%s/v1/purchases?limit=1000&from=2020-01-01T00:00:%02dZ", s.query, n), greedy.token)
		}},
	} {
		ctx, stop := context.WithTimeout(t.Context(), attackDuration)
		var attackers sync.WaitGroup
		if attack.run != nil {
			for n := range attackClients {
				attackers.Go(func() {
					for ctx.Err() == nil {
						attack.run(ctx, n)
					}
				})
			}
		}
		waits, errors := s.acquireAll(ctx, product)
		stop()
		attackers.Wait()
		require.NotEmpty(t, waits)
		slices.Sort(waits)
		p50, p99 := waits[len(waits)/2], waits[len(waits)*99/100]
		if attack.run == nil {
			alone = p99
		}
		fmt.Fprintf(&table, "| %s | %d | %d | %s | %s | %.1f |\n", attack.name, len(waits), errors,
			p50.Round(100*time.Microsecond), p99.Round(100*time.Microsecond), p99.Seconds()/alone.Seconds())
	}
	t.Logf("buyers beside each attack\n\n| attack | requests | errors | p50 | p99 | p99 to that without |\n|---|---|---|---|---|---|\n%s", table.String())
}

// holdStreams opens 20 streams and holds them until the context ends, or sooner if they are
// refused or closed.
func (s *site) holdStreams(ctx context.Context, path, token string) {
	const streams = 20
	var open sync.WaitGroup
	for range streams {
		open.Go(func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.query+path, nil)
			if err != nil {
				return
			}
			if token != "" {
				req.Header.Set("Authorization", "Bearer "+token)
			}
			if res, err := s.attackers.Do(req); err == nil {
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
			}
		})
	}
	open.Wait()
}

// acquireAll makes each buyer send one request, spread over the context's time.
func (s *site) acquireAll(ctx context.Context, product string) (waits []time.Duration, errors int) {
	var mu sync.Mutex
	var buyers sync.WaitGroup
	pace := time.NewTicker(attackDuration / attackedBuyers)
	defer pace.Stop()
	for range attackedBuyers {
		select {
		case <-pace.C:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		buyer := s.users.known(uuid.New(), auth.Buyer)
		buyers.Go(func() {
			began := time.Now()
			req, err := http.NewRequest(http.MethodPost, s.command+"/v1/slots/acquire", strings.NewReader(`{"productId":"`+product+`"}`))
			if err != nil {
				return
			}
			req.Header.Set("Authorization", "Bearer "+buyer.token)
			req.Header.Set("Content-Type", "application/json")
			res, err := s.users.http.Do(req)
			status := 0
			if err == nil {
				status = res.StatusCode
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
			}
			mu.Lock()
			defer mu.Unlock()
			waits = append(waits, time.Since(began))
			if status != http.StatusCreated && status != http.StatusConflict {
				errors++
			}
		})
	}
	buyers.Wait()
	return waits, errors
}
