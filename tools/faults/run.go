package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/tools/devservices"
)

const (
	// warmUp is how long the sale runs before the first fault.
	warmUp = 700 * time.Millisecond
	// recoveryLimit is how long after healing each product may take to grant again.
	recoveryLimit = 15 * time.Second
	// settleLimit is how long after healing everything may take to settle.
	settleLimit = 30 * time.Second
	// resaleLimit is how soon a freed unit of an unaffected product is on sale again.
	// It is compared with the median: single ones wait for the machine.
	resaleLimit = time.Second
	// moneyLimit is longer: the gateway is queried about a payment from 30 s on.
	moneyLimit = 75 * time.Second
	// worstMoneyLimit is for a gateway that loses what it can: each step of a payment
	// may be found by a query only, and those are 30 s apart.
	worstMoneyLimit = 6 * time.Minute
)

// scenario is a kind of fault.
type scenario struct {
	name  string
	about string
	// play injects the fault while the sale goes on and returns when it may be
	// healed. Everything that was hurt is healed afterwards by fleet.heal and heal.
	play func(r *run) error
	heal func(r *run) error

	postgres func(ctx context.Context, f *fleet) error                  // a server of the run's own; nil: the shared one
	redis    func(ctx context.Context) (*devservices.RedisGroup, error) // a group of the run's own; nil: the shared single one
	kafka    func(ctx context.Context, f *fleet) ([]string, error)      // brokers of the run's own; nil: the shared one
	// realKafka: not kfake, even if it is wanted. Also for scenarios that kill projectors: if a member's
	// connection closes while its JoinGroup waits, kfake answers the group, never starts that member's
	// session timeout, and keeps the others waiting for its SyncGroup until their read timeout of 30 s.
	// Apache Kafka removes it after the session timeout of 6 s.
	realKafka bool
	clockOf   string // redis or postgres: that server's clock can be stepped
	registry  bool
	env       map[string][]string // more settings, by role

	// affected reports whether a product depends on what was hurt; nil: all do.
	affected func(r *run, product string) bool
	byID     bool // affected depends on the product's id only
	// worstGateway: the simulator misbehaves in every way, and more buyers pay.
	worstGateway bool
	// mayRefuse: a process may exit with a refusal.
	mayRefuse bool
	// losesTail: the store loses committed events, so R4 is judged up to the loss only.
	losesTail bool
	// noFault: the healthy run, for comparison.
	noFault bool
	// once: the fault cannot be repeated against the same fleet.
	once bool
	// targets are the failpoints that the seeds strike together, perSeed of them each.
	targets []target
	perSeed int
}

// run is one seed of one scenario.
type run struct {
	ctx        context.Context
	scenario   *scenario
	fleet      *fleet
	sale       *sale
	rand       *rand.Rand
	duration   time.Duration
	verdict    verdict
	strikes    []string
	points     map[string]int // strikes by process and failpoint
	from, to   time.Duration  // of the fault, in the history's time
	settled    time.Duration
	seedNumber uint64
	expiry     time.Duration
	events     int
	phases     map[string]float64 // seconds, by what the run did
	phaseBegan time.Time
	thorough   bool
	overload   *overload
	refusals   []time.Duration // of requests that are no part of the history
	resales    map[uuid.UUID][]time.Duration
	victim     string // the product that was hurt, if it was one
}

// phase adds the time since the last call to a part of the run.
func (r *run) phase(name string) {
	if r.phases == nil {
		r.phases = map[string]float64{}
	}
	now := time.Now()
	r.phases[name] += now.Sub(r.phaseBegan).Seconds()
	r.phaseBegan = now
}

// struck records that a fault took place.
func (r *run) struck(format string, args ...any) {
	r.strikes = append(r.strikes, fmt.Sprintf("%.1fs ", r.sale.history.now().Seconds())+fmt.Sprintf(format, args...))
}

// wait lets the sale go on.
func (r *run) wait(d time.Duration) { pause(r.ctx, d) }

// between draws a duration.
func (r *run) between(least, most time.Duration) time.Duration {
	return least + time.Duration(r.rand.Int64N(int64(most-least)+1))
}

// result is a run's outcome.
type result struct {
	Scenario   string         `json:"scenario"`
	Seed       uint64         `json:"seed"`
	Build      string         `json:"build,omitempty"`
	Strikes    []string       `json:"strikes"`
	Points     map[string]int `json:"points,omitempty"`
	Requests   int            `json:"requests"`
	Granted    int            `json:"granted"`
	Refused    int            `json:"refused"`
	Errors     int            `json:"errors"` // no answer, or 5xx
	ErrorKinds map[string]int `json:"errorKinds,omitempty"`
	Unaffected float64        `json:"longestGapUnaffectedSeconds"` // -1: every product is affected
	Affected   float64        `json:"longestGapAffectedSeconds"`
	GapAt      float64        `json:"longestGapBeganSeconds"`
	Recovered  float64        `json:"recoveredSeconds"` // until the last product granted again; -1: never
	Settled    float64        `json:"settledSeconds"`
	Expiry     float64        `json:"latestExpirySeconds"` // behind its deadline
	// Of products that do not depend on the fault, or of all in a healthy run.
	Latency    *latency    `json:"unaffectedLatency,omitempty"`
	Overload   *overload   `json:"overload,omitempty"`
	Resale     *latency    `json:"resale,omitempty"` // from the end of a sold-out product's slot to its next grant
	Events     int         `json:"events"`
	Notes      []string    `json:"notes,omitempty"`
	Violations []violation `json:"violations"`
	Took       float64     `json:"tookSeconds"`
	// Phases are the seconds that parts of the run took, start to end of a fleet.
	Phases map[string]float64 `json:"phaseSeconds,omitempty"`

	hits map[failpoint.Point]bool
}

// latency is a distribution, in seconds.
type latency struct {
	N   int     `json:"n"`
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// distribution sorts the durations; nil if there are none.
func distribution(all []time.Duration) *latency {
	if len(all) == 0 {
		return nil
	}
	slices.Sort(all)
	at := func(share float64) float64 { return all[int(share*float64(len(all)-1))].Seconds() }
	return &latency{N: len(all), P50: at(0.5), P99: at(0.99), Max: at(1)}
}

// isUnaffected reports whether a product's sale must go on as in a healthy run.
func (sc *scenario) isUnaffected(r *run, product string) bool {
	return sc.noFault || (sc.affected != nil && !sc.affected(r, product))
}

// options are what all runs share.
type options struct {
	duration      time.Duration
	rate          int
	thorough      int
	round         int
	resume        bool
	parallel      int
	build         string
	keep          bool
	unaffectedGap time.Duration
	batch         int // seeds for one fleet
}

// environment is locked while a server inherits variables that no other may: other
// fleets start servers and processes at any moment.
var environment sync.RWMutex

// play runs seeds one after the other against one fleet, and checks everything at the
// end. What is found then is reported with the last seed.
func play(ctx context.Context, s *services, sc *scenario, seeds []uint64, o options) []result {
	began := time.Now()
	results := make([]result, len(seeds))
	for i, seed := range seeds {
		results[i] = result{Scenario: sc.name, Seed: seed, Build: o.build, Unaffected: -1, Violations: []violation{}}
	}
	last := &results[len(results)-1]
	dir := filepath.Join(s.dir, fmt.Sprintf("%s-%d", sc.name, seeds[0]))
	thorough := o.thorough > 0 && s.runs%o.thorough == 0
	if sc.clockOf != "" {
		environment.Lock()
	} else {
		environment.RLock()
	}
	f, err := startFleet(ctx, s, sc, dir, thorough)
	if sc.clockOf != "" {
		environment.Unlock()
		environment.RLock()
	}
	defer environment.RUnlock()
	if err != nil {
		last.Violations = append(last.Violations, violation{"harness", "start: " + err.Error()})
		return results
	}
	r := &run{ctx: ctx, scenario: sc, fleet: f, sale: newSale(f, seeds[0], o.rate, sc.worstGateway), duration: o.duration, thorough: thorough, phaseBegan: began}
	r.phase("start")
	if sc.byID {
		r.sale.dependent = sc.affected
	}
	defer func() {
		broken := failed(results)
		if broken {
			r.keepEvidence(results)
		}
		f.stop(context.WithoutCancel(ctx))
		if !broken && !o.keep {
			_ = os.RemoveAll(dir)
		}
	}()
	if err := r.perform(sc, results, o); err != nil {
		r.verdict.broke("harness", "%s", err)
		r.fill(last, sc, o)
	}
	last.Took, last.Phases = time.Since(began).Seconds(), r.phases
	return results
}

// perform plays the sale with the faults of each seed, and checks.
func (r *run) perform(sc *scenario, results []result, o options) error {
	f := r.fleet
	f.services.refunds = r.hasRefunds()
	starting, cancel := context.WithTimeout(r.ctx, time.Minute)
	defer cancel()
	if err := r.sale.prepare(starting); err != nil {
		return fmt.Errorf("prepare the sale: %w", err)
	}
	r.phase("prepare")
	r.sale.begin(r.ctx)
	for i := range results {
		if err := r.seed(sc, &results[i]); err != nil {
			r.sale.end()
			return err
		}
		if i < len(results)-1 {
			r.fill(&results[i], sc, o)
		}
	}
	r.sale.end()
	r.phase("answers")
	err := r.check(sc, o)
	if err != nil {
		r.verdict.broke("harness", "%s", err)
	}
	r.fill(&results[len(results)-1], sc, o)
	return nil
}

// seed plays the fault of one seed, heals, and waits until everything has settled.
func (r *run) seed(sc *scenario, res *result) error {
	r.rand = rand.New(rand.NewPCG(res.Seed, 7))
	r.seedNumber, r.points, r.strikes, r.verdict = res.Seed, map[string]int{}, nil, verdict{}
	r.overload, r.refusals = nil, nil
	r.forget()
	r.wait(warmUp)
	r.from = r.sale.history.now()
	played := sc.play(r)
	r.fleet.heal()
	if sc.heal != nil {
		played = errors.Join(played, sc.heal(r))
	}
	r.to = r.sale.history.now()
	r.phase("fault")
	if played != nil {
		return fmt.Errorf("play seed %d: %w", res.Seed, played)
	}
	r.recover()
	r.phase("recover")
	if len(r.strikes) == 0 && !sc.noFault {
		r.verdict.broke("harness", "no fault struck: the run shows nothing")
	}
	took, err := r.fleet.settle(r.ctx, settleLimit, true)
	r.settled = took
	r.phase("settle")
	if err != nil {
		r.verdict.broke("settle", "%s", err)
	}
	return nil
}

// forget begins to count strikes at 0: earlier seeds of the fleet had theirs.
func (r *run) forget() {
	for _, p := range r.fleet.processes {
		p.forget()
	}
	for _, l := range r.fleet.links {
		for _, p := range l.all() {
			p.Forget()
		}
	}
}

// recover waits until every product has granted again.
func (r *run) recover() {
	deadline := time.Now().Add(recoveryLimit)
	for time.Now().Before(deadline) {
		r.wait(100 * time.Millisecond)
		all, missing := r.sale.history.list(), false
		for _, p := range r.sale.products {
			missing = missing || (!p.scarce && firstGrant(all, p.id, r.to) < 0)
		}
		if !missing {
			return
		}
	}
}

// check is everything that is compared at the end.
func (r *run) check(sc *scenario, o options) error {
	ctx, v := r.ctx, &r.verdict
	if err := r.sale.resume(ctx); err != nil {
		v.broke("R9", "%s", err)
	}
	if _, err := r.fleet.settle(ctx, settleLimit, false); err != nil {
		v.broke("settle", "after the traffic: %s", err)
	}
	r.phase("check settle 1")
	if err := r.sale.finish(ctx, settleLimit); err != nil {
		v.broke("R2", "%s", err)
	}
	r.phase("check units")
	if err := checkMoney(ctx, r.sale, sc, v); err != nil {
		return err
	}
	r.phase("check money")
	if _, err := r.fleet.settle(ctx, settleLimit, false); err != nil {
		v.broke("settle", "after the last units were sold: %s", err)
	}
	r.phase("check settle 2")
	all, err := readEvents(ctx, r.fleet)
	if err != nil {
		return err
	}
	r.events = len(all)
	l := fold(all, v)
	r.expiry, r.resales = l.latest, resales(all, r.sale.history.start.Add(r.to))
	if l.latest > 30*time.Second+r.to-r.from {
		v.broke("expiry", "a slot expired %s after its deadline", l.latest)
	}
	history := r.sale.history.list()
	if sc.losesTail {
		v.note("the store lost committed events: what clients saw before is not compared")
		history = nil
	} else {
		checkHistory(history, l, v)
	}
	r.phase("check history")
	if err := checkFairness(ctx, r.sale, l, history, v); err != nil {
		return err
	}
	r.phase("check fairness")
	if err := checkReadModels(ctx, r.fleet, v); err != nil {
		return err
	}
	r.phase("check rows")
	if all, err = readEvents(ctx, r.fleet); err != nil { // slots went on expiring
		return err
	}
	if _, err := r.fleet.settle(ctx, settleLimit, false); err != nil {
		v.broke("settle", "before the topic was read: %s", err)
	}
	r.phase("check settle 3")
	if err := checkTopic(ctx, r.fleet, all, v); err != nil {
		return err
	}
	r.phase("check topic")
	if r.thorough {
		checkReplay(ctx, r.fleet, v)
	}
	r.phase("check replay")
	for _, p := range r.fleet.processes {
		for _, c := range p.complaints() {
			v.broke("panic", "%s", c)
		}
		for _, status := range p.endedByItself() {
			if sc.mayRefuse {
				v.note("%s ended with status %d", p.name, status)
			} else {
				v.broke("R9", "%s exited with status %d: %s", p.name, status, lastError(p))
			}
		}
	}
	return nil
}

// lastError is the last line that a process wrote outside of its log.
func lastError(p *process) string {
	for _, line := range slices.Backward(strings.Split(p.tail(40), "\n")) {
		if strings.HasPrefix(line, "dopamine") {
			return line
		}
	}
	return ""
}

// hasRefunds reports whether the program has the admin's refunds.
func (r *run) hasRefunds() bool {
	resp, err := http.Get(r.fleet.commandURLs[0] + "/openapi.yaml")
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	b, _ := io.ReadAll(resp.Body)
	return strings.Contains(string(b), "/refunds:")
}

// fill computes what the table shows.
func (r *run) fill(res *result, sc *scenario, o options) {
	all := r.sale.history.list()
	res.Strikes, res.Points, res.Events = r.strikes, r.points, r.events
	res.ErrorKinds = map[string]int{}
	grants := 0 // during the traffic
	for i := range all {
		a := &all[i]
		if a.Sent < r.from-warmUp {
			continue // of an earlier seed
		}
		res.Requests++
		switch {
		case a.granted():
			res.Granted++
			if a.Answered >= r.from && a.Answered <= r.until() {
				grants++
			}
		case a.unanswered():
			res.Errors++
			res.ErrorKinds[kind(a)]++
		case a.Status >= 400:
			res.Refused++
		}
	}
	var latencies, resales []time.Duration
	for i := range all {
		if a := &all[i]; a.Op == "acquire" && a.Sent >= r.from && a.Sent < r.to && sc.isUnaffected(r, a.Product) {
			latencies = append(latencies, a.Answered-a.Sent)
		}
	}
	for _, p := range r.sale.products {
		if sc.isUnaffected(r, p.id) {
			resales = append(resales, r.resales[parse(p.id)]...)
		}
	}
	if r.overload != nil {
		for i := range all {
			if a := &all[i]; a.Sent >= r.from && a.Sent < r.to && isRefusal(a.Status) {
				r.refusals = append(r.refusals, a.Answered-a.Sent)
			}
		}
		r.overload.Refused, r.overload.MemoryAfter = distribution(r.refusals), r.memory()>>20
		res.Overload = r.overload
	}
	res.Latency, res.Resale = distribution(latencies), distribution(resales)
	for _, p := range r.sale.products {
		if p.scarce {
			continue
		}
		end := r.to
		first := firstGrant(all, p.id, r.to)
		if first < 0 || res.Recovered < 0 {
			res.Recovered = -1
		} else {
			res.Recovered = max(res.Recovered, first.Seconds())
			end += first
		}
		longest, began := longestGap(all, p.id, r.from, end)
		gap := longest.Seconds()
		if gap > max(res.Affected, res.Unaffected) {
			res.GapAt = began.Seconds()
		}
		if sc.affected != nil && !sc.affected(r, p.id) {
			res.Unaffected = max(res.Unaffected, gap)
		} else {
			res.Affected = max(res.Affected, gap)
		}
	}
	if grants == 0 {
		r.verdict.broke("harness", "%s", errNoTraffic)
	}
	if res.Recovered < 0 && grants > 0 {
		r.verdict.broke("R9", "a product did not grant again within %s of healing", recoveryLimit)
	}
	if res.Resale != nil && res.Resale.P50 > resaleLimit.Seconds() {
		r.verdict.broke("R9", "half of the freed units of products that do not depend on the fault were on sale again after more than %.1f s", res.Resale.P50)
	}
	if res.Unaffected > o.unaffectedGap.Seconds() {
		r.verdict.broke("R9", "a product that does not depend on what failed had no grant for %.1f s", res.Unaffected)
	}
	res.hits = r.fleet.hits()
	res.Settled, res.Expiry = r.settled.Seconds(), r.expiry.Seconds()
	res.Notes = compact(r.verdict.notes)
	res.Violations = append(res.Violations, r.verdict.violations...)
}

// until is the end of what counts as the seed's traffic.
func (r *run) until() time.Duration { return r.to + recoveryLimit }

// compact keeps each note once.
func compact(notes []string) []string {
	slices.Sort(notes)
	return slices.Compact(notes)
}

func kind(a *attempt) string {
	switch {
	case a.Status != 0:
		return fmt.Sprintf("%d %s", a.Status, a.Slug)
	case strings.Contains(a.Error, "refused"):
		return "connection refused"
	case strings.Contains(a.Error, "reset"), strings.Contains(a.Error, "EOF"):
		return "connection lost"
	case strings.Contains(a.Error, "deadline"), strings.Contains(a.Error, "Timeout"):
		return "timeout"
	}
	return "no answer"
}

// keepEvidence writes history and result next to the processes' logs.
func (r *run) keepEvidence(results []result) {
	for name, what := range map[string]any{"history.json": r.sale.history.list(), "result.json": results} {
		if b, err := json.MarshalIndent(what, "", " "); err == nil {
			_ = os.WriteFile(filepath.Join(r.fleet.dir, name), b, 0o644)
		}
	}
}
