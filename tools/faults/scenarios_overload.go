package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/tools/faults/proxy"
)

const (
	// memoryLimit is by how much a command API may grow under overload.
	memoryLimit = 400 << 20
	// refusalLimit is how long a request may take to be refused: 5 s in the line for an
	// entry, and some more on a busy machine.
	refusalLimit = 8 * time.Second
)

// unaffected: requests that are served continue to be served.
func unaffected(*run, string) bool { return false }

var overloadScenarios = []*scenario{
	{name: "overload-burst", about: "3,000 requests in progress at a time, far more than the system can take", play: func(r *run) error {
		return r.underLoad(func(ctx context.Context) { r.burst(ctx, 3000, 0) })
	}},
	{name: "overload-connections", about: "10,000 connections, each with a request every 10 s or sooner", play: func(r *run) error {
		r.duration = max(r.duration, 12*time.Second)
		return r.underLoad(func(ctx context.Context) { r.burst(ctx, 10_000, 10*time.Second) })
	}},
	{name: "overload-queue-full", about: "1,000 requests in progress, an append queue of 16 entries, answers of Postgres take 50 ms",
		env: map[string][]string{"command-api": {"DOPAMINE_APPEND_QUEUE=16"}}, play: func(r *run) error {
			return r.burstWhileSlow(1000, 50*time.Millisecond)
		}},
	{name: "overload-pool-exhausted", about: "1,000 requests in progress, one connection to Postgres and one to Redis",
		env:  map[string][]string{"command-api": {"DOPAMINE_DATABASE_POOL=1", "DOPAMINE_DATABASE_POOL_MAX=1", "DOPAMINE_REDIS_POOL=1", "DOPAMINE_REDIS_POOL_MAX=1"}},
		play: func(r *run) error { return r.burstWhileSlow(1000, 5*time.Millisecond) }},
	{name: "overload-slow-redis", about: "every response of Redis takes 0.3 s", play: func(r *run) error {
		return r.slow(func(l *links) *proxy.Proxy { return l.redis }, 300*time.Millisecond)
	}},
	{name: "overload-slow-postgres", about: "every response of Postgres takes 0.1 s", play: func(r *run) error {
		return r.slow(func(l *links) *proxy.Proxy { return l.postgres }, 100*time.Millisecond)
	}},
	{name: "overload-slow-clients", about: "2,000 clients that send a request byte by byte", affected: unaffected, play: func(r *run) error {
		return r.underLoad(func(ctx context.Context) { r.dripping(ctx, 2000) })
	}},
}

// underLoad runs a load for the run's duration and watches the memory of the
// command APIs.
func (r *run) underLoad(load func(ctx context.Context)) error {
	before := r.memory()
	ctx, cancel := context.WithTimeout(r.ctx, r.duration)
	defer cancel()
	done := make(chan struct{})
	go func() { defer close(done); load(ctx) }()
	most := before
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(250 * time.Millisecond):
		}
		most = max(most, r.memory())
	}
	r.overload = &overload{MemoryBefore: before >> 20, MemoryPeak: most >> 20}
	if most-before > memoryLimit {
		r.verdict.broke("R9", "a command API grew from %d to %d MB", before>>20, most>>20)
	}
	return nil
}

// overload is what a run under load measured.
type overload struct {
	Refused      *latency `json:"refused,omitempty"`    // time to a 429 or 503
	MemoryBefore int64    `json:"memoryBeforeMegabyte"` // of the largest command API
	MemoryPeak   int64    `json:"memoryPeakMegabyte"`
	MemoryAfter  int64    `json:"memoryAfterMegabyte"` // once everything has settled
}

// isRefusal reports whether a response turns a request away for want of resources.
func isRefusal(status int) bool {
	return status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests
}

// memory is the resident size of the largest command API, in bytes.
func (r *run) memory() (most int64) {
	for _, p := range r.fleet.of("command-api") {
		p.mu.Lock()
		pid := p.cmd.Process.Pid
		p.mu.Unlock()
		b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
		for line := range strings.Lines(string(b)) {
			if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				kb, _ := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
				most = max(most, kb<<10)
			}
		}
	}
	return most
}

func (r *run) slow(of func(*links) *proxy.Proxy, delay time.Duration) error {
	all := r.fleet.proxies(of)
	err := r.underLoad(func(ctx context.Context) {
		for _, p := range all {
			p.Delay(delay)
		}
		<-ctx.Done()
		for _, p := range all {
			p.Heal()
		}
	})
	if sum(all) > 0 {
		r.struck("answers took %s", delay)
	}
	return err
}

// burstWhileSlow is a burst while every answer of Postgres and Redis is delayed.
func (r *run) burstWhileSlow(inProgress int, delay time.Duration) error {
	return r.underLoad(func(ctx context.Context) {
		for name, l := range r.fleet.links {
			if strings.HasPrefix(name, "command-api-") {
				l.postgres.Delay(delay)
			}
		}
		r.burst(ctx, inProgress, 0)
		for _, l := range r.fleet.links {
			l.postgres.Heal()
		}
	})
}

// burst keeps so many connections busy with acquires, each with a pause after a
// response. They are no part of the history: what counts is that they are answered in
// time, by whatever answer.
func (r *run) burst(ctx context.Context, inProgress int, rest time.Duration) {
	transport := &http.Transport{MaxIdleConnsPerHost: inProgress, MaxConnsPerHost: inProgress}
	client := &http.Client{Transport: transport, Timeout: 2 * refusalLimit}
	defer transport.CloseIdleConnections()
	var answered, refused, late, lost atomic.Int64
	var mu sync.Mutex
	var opened sync.Map // connections that were used
	var all sync.WaitGroup
	for i := range inProgress {
		all.Go(func() {
			node := r.fleet.commandURLs[i%len(r.fleet.commandURLs)]
			// Products of the sale that are sold out most of the time: few are granted.
			p := r.sale.products[steadyProducts+i%scarceProducts]
			for pause(ctx, time.Duration(rand.Int64N(int64(rest)+1))) {
				opened.Store(i, true)
				began := time.Now()
				req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodPost, node+"/v1/slots/acquire", strings.NewReader(`{"productId":"`+p.id+`"}`))
				if err != nil {
					return
				}
				req.Header.Set("Authorization", "Bearer "+token(uuid.New(), "buyer"))
				req.Header.Set("Content-Type", "application/json")
				resp, err := client.Do(req)
				if err != nil {
					lost.Add(1)
					continue
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				answered.Add(1)
				took := time.Since(began)
				if isRefusal(resp.StatusCode) {
					refused.Add(1)
					mu.Lock()
					r.refusals = append(r.refusals, took)
					mu.Unlock()
				}
				if took > refusalLimit {
					late.Add(1)
				}
			}
		})
	}
	all.Wait()
	used := 0
	opened.Range(func(any, any) bool { used++; return true })
	if used > inProgress*9/10 && answered.Load() > int64(inProgress)/2 {
		r.struck("%d requests more, %d refused as overloaded, %d without an answer", answered.Load(), refused.Load(), lost.Load())
	}
	if late.Load() > 0 {
		r.verdict.broke("R9", "%d of %d requests were answered after more than %s", late.Load(), answered.Load(), refusalLimit)
	}
}

// dripping opens connections whose requests never become whole.
func (r *run) dripping(ctx context.Context, clients int) {
	var all sync.WaitGroup
	var open atomic.Int64
	for i := range clients {
		all.Go(func() {
			c, err := net.DialTimeout("tcp", hostOf(r.fleet.commandURLs[i%len(r.fleet.commandURLs)]), 5*time.Second)
			if err != nil {
				return
			}
			defer func() { _ = c.Close() }()
			open.Add(1)
			text := fmt.Sprintf("POST /v1/slots/acquire HTTP/1.1\r\nHost: x\r\nX-Filler: %s\r\n", strings.Repeat("a", 200))
			for _, b := range []byte(text) {
				if _, err := c.Write([]byte{b}); err != nil || !pause(ctx, 500*time.Millisecond) {
					return
				}
			}
		})
	}
	all.Wait()
	if open.Load() > int64(clients/2) {
		r.struck("%d slow clients", open.Load())
	}
}
