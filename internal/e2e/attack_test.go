package e2e

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
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

// addressLimits are the limits per client address. A proxy at 127.0.0.1 names the buyers, so
// 127.0.0.9, the address that attackers connect from, is no proxy and has one limit.
var addressLimits = []string{"--trusted-proxies", "127.0.0.1", "--anonymous-rate", "20", "--max-connections-per-address", "100"}

// attackersAddress is used if the limits per address are on.
var attackersAddress = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}

// TestAttacks measures how long 1,000 buyers wait for a slot, each with one request every ten
// seconds, without an attack and during each of the attacks that the bounds of contract 7 are
// against, first without limits per address and then with them. It logs the figures and requires
// only that buyers are served: latencies of a loaded machine are not meaningful.
func TestAttacks(t *testing.T) {
	if os.Getenv(attacksVariable) == "" {
		t.Skip("set " + attacksVariable + "=1 to measure")
	}
	t.Run("no limits per address", func(t *testing.T) {
		openSite(t).attacked(&net.Dialer{})
	})
	t.Run("limits per address", func(t *testing.T) {
		openSite(t, addressLimits...).attacked(&net.Dialer{LocalAddr: attackersAddress})
	})
}

// attacked runs each attack and logs how long buyers waited. The attackers' connections come from
// the dialer.
func (s *site) attacked(dialer *net.Dialer) {
	t := s.t
	_, o := s.admin.want(http.StatusCreated, http.MethodPost, s.products(), newProduct(10, time.Now().Add(2*time.Second).UTC().Format(time.RFC3339Nano)))
	product := o["id"].(string)
	time.Sleep(3 * time.Second) // the sale begins
	greedy := s.users.new(auth.Buyer)
	answers := statusCounts{}
	// The attackers have connections of their own, so that they take none of the buyers' client.
	s.attackers = &http.Client{Transport: answers.in(&http.Transport{MaxIdleConnsPerHost: attackClients, DialContext: dialer.DialContext}), Timeout: 30 * time.Second}
	defer s.attackers.CloseIdleConnections()
	get := func(url, token string) { s.attack(context.Background(), url, token) }
	// hold opens connections to the command API that send only the text.
	hold := func(ctx context.Context, connections int, text string) {
		for range connections {
			conn, err := dialer.DialContext(ctx, "tcp", strings.TrimPrefix(s.command, "http://"))
			if err != nil {
				continue
			}
			_, _ = io.WriteString(conn, text)
			context.AfterFunc(ctx, func() { _ = conn.Close() })
		}
		<-ctx.Done()
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
		{"acquire without a token", func(context.Context, int) {
			req, err := http.NewRequest(http.MethodPost, s.command+"/v1/slots/acquire", strings.NewReader(`{"productId":"`+product+`"}`))
			if err != nil {
				return
			}
			if res, err := s.attackers.Do(req); err == nil {
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
			}
		}},
		{"my-slots, as fast as a buyer may", func(context.Context, int) {
			get(s.query+"/v1/slots/my-slots?limit=1000", greedy.token)
		}},
		{"800 connections with half a header", func(ctx context.Context, _ int) {
			hold(ctx, 20, "POST /v1/slots/acquire HTTP/1.1\r\nHost:")
		}},
		{"4,000 connections that stay silent", func(ctx context.Context, _ int) { hold(ctx, 100, "") }},
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
		answers.reset()
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
		fmt.Fprintf(&table, "| %s | %s | %d | %d | %s | %s | %.1f |\n", attack.name, answers.String(), len(waits), errors,
			p50.Round(100*time.Microsecond), p99.Round(100*time.Microsecond), p99.Seconds()/alone.Seconds())
	}
	t.Logf("buyers during each attack\n\n| attack | responses to the attackers | requests | errors | p50 | p99 | p99 to that without |\n|---|---|---|---|---|---|---|\n%s", table.String())
}

// statusCounts counts responses by status; 0 is for requests without a response.
type statusCounts struct {
	mu     *sync.Mutex
	counts map[int]int
}

// in counts what the transport returns.
func (c *statusCounts) in(transport *http.Transport) http.RoundTripper {
	c.mu, c.counts = &sync.Mutex{}, map[int]int{}
	return countingTransport{Transport: transport, counts: c}
}

func (c *statusCounts) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.counts)
}

func (c *statusCounts) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var parts []string
	for _, status := range slices.Sorted(maps.Keys(c.counts)) {
		name := strconv.Itoa(status)
		if status == 0 {
			name = "none"
		}
		parts = append(parts, fmt.Sprintf("%s: %d", name, c.counts[status]))
	}
	return strings.Join(parts, ", ")
}

type countingTransport struct {
	*http.Transport
	counts *statusCounts
}

func (c countingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := c.Transport.RoundTrip(r)
	c.counts.mu.Lock()
	defer c.counts.mu.Unlock()
	if err != nil {
		c.counts.counts[0]++
	} else {
		c.counts.counts[res.StatusCode]++
	}
	return res, err
}

// attack sends a request and reads what it gets.
func (s *site) attack(ctx context.Context, url, token string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
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

// holdStreams opens 20 streams and holds them until the context ends, or sooner if they are
// refused or closed.
func (s *site) holdStreams(ctx context.Context, path, token string) {
	const streams = 20
	var open sync.WaitGroup
	for range streams {
		open.Go(func() { s.attack(ctx, s.query+path, token) })
	}
	open.Wait()
}

// acquireAll makes each buyer send one request, spread over the context's time.
func (s *site) acquireAll(ctx context.Context, product string) (waits []time.Duration, errors int) {
	var mu sync.Mutex
	var buyers sync.WaitGroup
	pace := time.NewTicker(attackDuration / attackedBuyers)
	defer pace.Stop()
	for n := range attackedBuyers {
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
			req.Header.Set("X-Forwarded-For", fmt.Sprintf("198.18.%d.%d", n/250, 1+n%250))
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
