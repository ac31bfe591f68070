package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/internal/guard"
	"github.com/dopaminestore/dopamine/internal/telemetry"
)

// Health is the state of a component, or of the whole process.
type Health string

// The states. A degraded component serves, but not fully.
const (
	Up       Health = "UP"
	Degraded Health = "DEGRADED"
	Down     Health = "DOWN"
)

// severity orders the states: a higher one is worse.
func (h Health) severity() int {
	switch h {
	case Up:
		return 0
	case Degraded:
		return 1
	}
	return 2
}

const (
	// probeInterval is the time between the end of a probe and the start of the next.
	probeInterval = time.Second
	// probeTimeout bounds one probe.
	probeTimeout = 2 * time.Second
	// probeExpiry is the age from which a result no longer counts: if a probe does not end with its
	// context, its last result must not count forever.
	probeExpiry = probeInterval + probeTimeout + 2*time.Second
)

// ComponentHealth is the result of a probe.
type ComponentHealth struct {
	Status Health
	// Details are the reasons for a status other than UP, one sentence each. They are
	// public: no secrets and no user data.
	Details []string
}

// Check is one source of a component's health. Several checks may have the same
// name: the component then has the worst of their states and the details of all.
type Check struct {
	// Name is the component's name: database, redis or kafka.
	Name string
	// Required makes the process DOWN if this check is; otherwise the process is
	// DEGRADED.
	Required bool
	// Probe tries what the process needs of the component. It is called in the
	// background, one second after the previous call returned, and must return when
	// ctx ends, which is after two seconds at the latest.
	Probe func(context.Context) ComponentHealth
}

// PingCheck returns a Probe that is DOWN if ping fails, with the error as its detail.
func PingCheck(ping func(context.Context) error) func(context.Context) ComponentHealth {
	return func(ctx context.Context) ComponentHealth {
		if err := ping(ctx); err != nil {
			return ComponentHealth{Down, errorDetails(err)}
		}
		return ComponentHealth{Status: Up}
	}
}

// PartsCheck returns a Probe of a component with several parts, of which count returns how many
// serve: DEGRADED if only some do, DOWN if none does. The error has the reasons.
func PartsCheck(count func(context.Context) (serving, all int, err error)) func(context.Context) ComponentHealth {
	return func(ctx context.Context) ComponentHealth {
		serving, all, err := count(ctx)
		switch {
		case serving == 0:
			return ComponentHealth{Down, errorDetails(err)}
		case serving < all:
			return ComponentHealth{Degraded, errorDetails(err)}
		}
		return ComponentHealth{Status: Up}
	}
}

// ReasonsCheck returns a Probe that is DEGRADED while reasons returns any.
func ReasonsCheck(reasons func(context.Context) []string) func(context.Context) ComponentHealth {
	return func(ctx context.Context) ComponentHealth {
		if list := reasons(ctx); len(list) > 0 {
			return ComponentHealth{Degraded, list}
		}
		return ComponentHealth{Status: Up}
	}
}

// errorDetails returns the lines of an error: joined errors are one line each. Connection errors of
// Postgres contain its user and database, which are not public.
func errorDetails(err error) []string {
	var connect *pgconn.ConnectError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &connect):
		return []string{"cannot connect"}
	}
	return strings.Split(err.Error(), "\n")
}

// maxClockSkew is the difference between two clocks from which it is reported.
const maxClockSkew = time.Second

// ClockCheck returns a Probe that compares this process's clock with that of a component. skew
// returns how far the component's clock is ahead, and the uncertainty of the measurement. The Probe
// is DEGRADED if they differ by more than a second beyond the uncertainty. The difference is also
// the component's gauge dopamine_clock_skew_seconds. A failed measurement is not reported: the
// component's own check reports it.
func ClockCheck(r prometheus.Registerer, component string, skew func(context.Context) (ahead, uncertainty time.Duration, err error)) func(context.Context) ComponentHealth {
	gauge := clockGauge(r).WithLabelValues(component)
	return func(ctx context.Context) ComponentHealth {
		ahead, uncertainty, err := skew(ctx)
		if err != nil {
			return ComponentHealth{Status: Up}
		}
		gauge.Set(ahead.Seconds())
		if ahead.Abs()-uncertainty <= maxClockSkew {
			return ComponentHealth{Status: Up}
		}
		direction := "ahead of"
		if ahead < 0 {
			direction = "behind"
		}
		return ComponentHealth{Degraded, []string{fmt.Sprintf("clock skew: the clock of %s is %.1f s %s this process's",
			component, math.Abs(ahead.Seconds()), direction)}}
	}
}

func clockGauge(r prometheus.Registerer) *prometheus.GaugeVec {
	gauge := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: telemetry.Namespace, Name: "clock_skew_seconds",
		Help: "How far the component's clock is ahead of this process's, in seconds.",
	}, []string{"component"})
	if err := r.Register(gauge); err != nil {
		if already, ok := err.(prometheus.AlreadyRegisteredError); ok {
			if known, ok := already.ExistingCollector.(*prometheus.GaugeVec); ok {
				return known
			}
		}
	}
	return gauge
}

// prober runs the checks in the background and keeps their last results.
type prober struct {
	checks   []Check
	interval time.Duration
	log      *slog.Logger

	mu      sync.Mutex
	results []probeResult
	started bool
	first   chan struct{} // closed when each check has a result
}

type probeResult struct {
	ComponentHealth
	at time.Time // zero: none yet
}

func newProber(checks []Check, interval time.Duration, r prometheus.Registerer, log *slog.Logger) *prober {
	if interval <= 0 {
		interval = probeInterval
	}
	p := &prober{checks: checks, interval: interval, log: log, results: make([]probeResult, len(checks)), first: make(chan struct{})}
	_ = r.Register(healthCollector{p}) // two servers of one process may share a registry
	if len(checks) == 0 {
		close(p.first)
	}
	return p
}

// run probes until ctx ends, each check in a separate loop, so that one that hangs delays no other.
func (p *prober) run(ctx context.Context) {
	p.mu.Lock()
	p.started = true
	p.mu.Unlock()
	var wg sync.WaitGroup
	for i := range p.checks {
		wg.Go(func() {
			defer guard.Log("probe a component")
			tick := time.NewTimer(p.interval)
			defer tick.Stop()
			for {
				p.probe(ctx, i)
				tick.Reset(p.interval)
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
			}
		})
	}
	wg.Wait()
}

// probe runs one check and keeps its result, unless ctx has ended meanwhile.
func (p *prober) probe(ctx context.Context, i int) {
	bounded, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	h := p.checks[i].call(bounded)
	if ctx.Err() != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if old := p.results[i]; !old.at.IsZero() && old.Status != h.Status || old.at.IsZero() && h.Status != Up {
		p.log.Warn("component health changed", "component", p.checks[i].Name, "status", h.Status, "details", h.Details)
	}
	p.results[i] = probeResult{h, time.Now()}
	select {
	case <-p.first:
		return
	default:
	}
	for _, r := range p.results {
		if r.at.IsZero() {
			return
		}
	}
	close(p.first)
}

// call runs the probe; a panic in it is a failure of the component, not of the process.
func (c Check) call(ctx context.Context) (h ComponentHealth) {
	defer func() {
		if r := recover(); r != nil {
			h = ComponentHealth{Down, []string{fmt.Sprintf("the check panicked: %v", r)}}
		}
	}()
	return c.Probe(ctx)
}

// report returns the last results. Before the first ones it waits for them, for at most
// probeTimeout. A server that is not running probes at each call.
func (p *prober) report(ctx context.Context) readiness {
	p.mu.Lock()
	started := p.started
	p.mu.Unlock()
	if !started {
		var wg sync.WaitGroup
		for i := range p.checks {
			wg.Go(func() {
				defer guard.Log("probe a component")
				p.probe(ctx, i)
			})
		}
		wg.Wait()
	} else {
		timeout := time.NewTimer(probeTimeout)
		defer timeout.Stop()
		select {
		case <-p.first:
		case <-timeout.C:
		case <-ctx.Done():
		}
	}
	return p.last()
}

// last returns the last results without waiting.
func (p *prober) last() readiness {
	now := time.Now()
	p.mu.Lock()
	results := append([]probeResult(nil), p.results...)
	p.mu.Unlock()
	r := readiness{Status: Up, Components: map[string]Health{}}
	for i, check := range p.checks {
		h := results[i].ComponentHealth
		switch {
		case results[i].at.IsZero():
			h = ComponentHealth{Down, []string{"no response yet"}}
		case now.Sub(results[i].at) > probeExpiry:
			h = ComponentHealth{Down, []string{fmt.Sprintf("no response for %.0f s", now.Sub(results[i].at).Seconds())}}
		}
		r.add(check, h)
	}
	return r
}

var healthDesc = prometheus.NewDesc(prometheus.BuildFQName(telemetry.Namespace, "", "component_health"),
	"Health of a component: 0 DOWN, 1 DEGRADED, 2 UP.", []string{"component"}, nil)

// healthCollector exports the last results. It reads them at each scrape: they change, and expire,
// without a request for the readiness.
type healthCollector struct{ p *prober }

// Describe implements prometheus.Collector.
func (healthCollector) Describe(ch chan<- *prometheus.Desc) { ch <- healthDesc }

// Collect implements prometheus.Collector. Without any result there are no metrics yet.
func (c healthCollector) Collect(ch chan<- prometheus.Metric) {
	select {
	case <-c.p.first:
	default:
		return
	}
	for name, h := range c.p.last().Components {
		ch <- prometheus.MustNewConstMetric(healthDesc, prometheus.GaugeValue, float64(2-h.severity()), name)
	}
}

type readiness struct {
	Status     Health              `json:"status"`
	Components map[string]Health   `json:"components"`
	Details    map[string][]string `json:"details,omitzero"`
}

func (r *readiness) add(check Check, h ComponentHealth) {
	if old, ok := r.Components[check.Name]; !ok || h.Status.severity() > old.severity() {
		r.Components[check.Name] = h.Status
	}
	if h.Status == Up {
		return
	}
	r.addDetail(check.Name, h.Details...)
	if h.Status == Down && check.Required {
		r.Status = Down
	} else if r.Status == Up {
		r.Status = Degraded
	}
}

func (r *readiness) addDetail(name string, details ...string) {
	if len(details) == 0 {
		return
	}
	if r.Details == nil {
		r.Details = map[string][]string{}
	}
	r.Details[name] = append(r.Details[name], details...)
}
