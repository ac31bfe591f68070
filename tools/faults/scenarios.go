package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/tools/faults/proxy"
)

// ciScenarios is the small set: some minutes in all.
const ciScenarios = "healthy,kill9-failpoints,flushall,redis-noreplicas,postgres-kill,relay-stop"

// leaseTime is longer than a gate's lease and every lock's timeout.
const leaseTime = 4 * time.Second

func itoa(n int) string { return strconv.Itoa(n) }

var scenarios = slices.Concat([]*scenario{
	{name: "healthy", about: "no fault, for comparison", noFault: true, play: func(r *run) error { r.wait(r.duration); return nil }},
}, processScenarios, redisScenarios, postgresScenarios, kafkaScenarios, clockScenarios, overloadScenarios)

// rolePoints are the failpoints that each role reaches in a sale.
var rolePoints = map[string][]failpoint.Point{
	"command-api": {
		failpoint.AppendBeforeCommit, failpoint.AppendAfterCommit, failpoint.LeaseBefore, failpoint.LeaseAfter,
		failpoint.DecideBefore, failpoint.DecideAfter, failpoint.SyncBefore, failpoint.SyncAfter, failpoint.GateLeaseBefore, failpoint.GateLeaseAfter,
		failpoint.GatewayBefore, failpoint.GatewayAfter,
	},
	"worker": {
		failpoint.AppendBeforeCommit, failpoint.AppendAfterCommit, failpoint.SyncBefore, failpoint.SyncAfter,
		failpoint.ShipBefore, failpoint.ShipAfter, failpoint.TrimBefore, failpoint.TrimAfter, failpoint.GatewayBefore, failpoint.GatewayAfter,
	},
	"relay":     {failpoint.RelayLeads, failpoint.PublishBefore, failpoint.PublishAfter, failpoint.RelayCheckpointBefore, failpoint.RelayCheckpointAfter},
	"projector": {failpoint.ProjectTakeOver, failpoint.ProjectMoved, failpoint.ProjectBeforeCommit, failpoint.ProjectAfterCommit},
}

// rebuildPoints are reached by a process that rebuilds a gate.
var rebuildPoints = []failpoint.Point{
	failpoint.RaiseBefore, failpoint.RaiseInside, failpoint.RaiseAfter, failpoint.RebuildProbe, failpoint.RebuildClose, failpoint.RebuildSalvage, failpoint.RebuildSnapshot,
	failpoint.RebuildPiece, failpoint.RebuildOpen, failpoint.RebuildOpened,
}

// replayPoints are reached by a replay.
var replayPoints = []failpoint.Point{failpoint.ReplayPage, failpoint.SwapBefore, failpoint.SwapBeforeCommit, failpoint.SwapAfter}

// target is a failpoint in the processes of a role; in those of any role if it is "".
type target struct {
	role  string
	point failpoint.Point
}

// in lists the points as targets.
func in(role string, points []failpoint.Point) (all []target) {
	for _, p := range points {
		all = append(all, target{role, p})
	}
	return all
}

func allTargets() (all []target) {
	for _, role := range []string{"command-api", "worker", "relay", "projector"} {
		all = append(all, in(role, rolePoints[role])...)
	}
	return all
}

var processScenarios = []*scenario{
	{name: "kill9-failpoints", about: "kill -9 of each process at each failpoint, one after the other", realKafka: true, targets: allTargets(), perSeed: 2, play: func(r *run) error { return r.atPoints("kill") }},
	{name: "stop-failpoints", about: "SIGSTOP at failpoints for longer than a lease", targets: allTargets(), perSeed: 2, play: func(r *run) error { return r.atPoints("stop") }},
	{name: "kill9-rebuild", about: "FLUSHALL, and kill -9 of the rebuilding process at each step", targets: in("", rebuildPoints), perSeed: 1, play: func(r *run) error { return r.inRebuild("kill") }},
	{name: "stop-rebuild", about: "FLUSHALL, and SIGSTOP of the rebuilding process at each step", targets: in("", rebuildPoints), perSeed: 1, play: func(r *run) error { return r.inRebuild("stop") }},
	{name: "kill9", about: "kill -9 of processes at random moments", realKafka: true, play: func(r *run) error {
		return r.repeat(func() error {
			p := r.anyProcess()
			r.struck("kill -9 of %s", p.name)
			return ignoreGone(p.kill())
		}, 700*time.Millisecond)
	}},
	{name: "command-stop", about: "SIGSTOP of a command API for longer than its lease", play: func(r *run) error { return r.stopProcess("command-api-" + itoa(r.rand.IntN(2))) }},
	{name: "worker-stop", about: "SIGSTOP of a worker", play: func(r *run) error { return r.stopProcess("worker-" + itoa(r.rand.IntN(2))) }},
	{name: "relay-stop", about: "SIGSTOP of the relay that leads, for longer than its session may be silent: two relays", play: func(r *run) error {
		leader, err := r.fleet.leader(r.ctx)
		if err != nil {
			return err
		}
		return r.stopFor(leader, 12*time.Second)
	}},
	{name: "relay-two-leaders", about: "the leading relay loses its lock while it publishes", play: func(r *run) error {
		return r.repeat(func() error {
			leader, err := r.fleet.leader(r.ctx)
			if err != nil {
				return nil // between two leaders
			}
			if err := leader.arm(string(failpoint.PublishBefore) + "=delay(1500ms)"); err != nil {
				return err
			}
			if !r.await(3*time.Second, func() bool { return leader.struck(failpoint.PublishBefore, "delay") > 0 }) {
				return nil
			}
			_, err = r.fleet.db.Exec(r.ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()`, leader.name)
			r.struck("ended the sessions of %s while it publishes", leader.name)
			return err
		}, 500*time.Millisecond)
	}},
	{name: "projector-stop", about: "SIGSTOP of a projector for longer than its session", play: func(r *run) error {
		return r.stopFor(r.fleet.process("projector-"+itoa(r.rand.IntN(2))), 9*time.Second)
	}},
	{name: "commit-unknown", about: "responses to COMMIT are lost", play: func(r *run) error {
		return r.repeat(func() error {
			for _, p := range append(r.fleet.of("command-api"), r.fleet.of("worker")...) {
				before := p.struck(failpoint.AppendAfterCommit, "error")
				if err := p.arm(fmt.Sprintf("%s=error@%d", failpoint.AppendAfterCommit, 1+r.rand.IntN(3))); err != nil {
					return err
				}
				if r.await(3*time.Second, func() bool { return p.struck(failpoint.AppendAfterCommit, "error") > before }) {
					r.struck("the answer to a COMMIT of %s was lost", p.name)
				}
			}
			return nil
		}, 200*time.Millisecond)
	}},
	{name: "gate-answer-lost", about: "responses of gate calls are lost", play: func(r *run) error {
		return r.repeat(func() error {
			for _, p := range r.fleet.of("command-api") {
				before := p.struck(failpoint.DecideAfter, "error")
				if err := p.arm(string(failpoint.DecideAfter) + "=error"); err != nil {
					return err
				}
				if r.await(2*time.Second, func() bool { return p.struck(failpoint.DecideAfter, "error") > before }) {
					r.struck("an answer of the gate to %s was lost", p.name)
				}
			}
			return nil
		}, 100*time.Millisecond)
	}},
	{name: "worker-power-cut", about: "a worker's machine loses power inside a transaction: its sessions stay open", play: func(r *run) error {
		w := r.fleet.process("worker-" + itoa(r.rand.IntN(2)))
		points := []failpoint.Point{failpoint.ShipBefore, failpoint.AppendBeforeCommit, failpoint.ShipAfter}
		point := points[r.rand.IntN(len(points))]
		if err := w.arm(string(point) + "=stop"); err != nil {
			return err
		}
		if !r.await(8*time.Second, func() bool { return w.struck(point, "stop") > 0 }) {
			return nil
		}
		r.fleet.links[w.name].postgres.HoldServer()
		r.struck("power cut of %s at %s", w.name, point)
		if err := w.hold(); err != nil {
			return err
		}
		c := r.fleet.redis
		if r.rand.IntN(2) == 0 && c != nil { // and a raise wants the same rows
			if err := r.flushAll(); err != nil {
				return err
			}
		}
		r.wait(r.duration)
		return nil
	}},
	{name: "raise-power-cut", about: "a node's machine loses power inside a raise, which holds the append lock: its session stays open", play: func(r *run) error {
		all := slices.Concat(r.fleet.of("command-api"), r.fleet.of("worker"))
		for _, p := range all {
			if err := p.arm(string(failpoint.RaiseInside) + "=stop"); err != nil {
				return err
			}
		}
		if err := r.flushAll(); err != nil {
			return err
		}
		hit := func(p *process) bool { return p.struck(failpoint.RaiseInside, "stop") > 0 }
		if !r.await(6*time.Second, func() bool { return slices.ContainsFunc(all, hit) }) {
			return nil
		}
		for _, p := range all {
			if err := p.arm(""); err != nil {
				return err
			}
			if hit(p) {
				r.fleet.links[p.name].postgres.HoldServer()
				r.struck("power cut of %s inside a raise", p.name)
				if err := ignoreGone(p.kill()); err != nil {
					return err
				}
			}
		}
		r.wait(r.duration)
		return nil
	}},
	{name: "replay-killed", about: "replays are killed at their failpoints; the next one succeeds", once: true, targets: in("replay", replayPoints), perSeed: len(replayPoints), play: func(r *run) error {
		for _, t := range r.scenario.from(r.seedNumber) {
			point := t.point
			_, err := r.fleet.callWith(r.ctx, []string{fmt.Sprintf("DOPAMINE_FAILPOINTS=%s=kill@%d", point, 1+r.rand.IntN(3))}, "replay", "all")
			if err != nil && strings.Contains(err.Error(), "killed") {
				r.points["replay "+string(point)]++
				r.struck("kill -9 of a replay at %s", point)
			}
		}
		return nil
	}},
	{name: "money-worst", about: "kill -9 of every process in turn, the simulator too, which misbehaves in every way", worstGateway: true, realKafka: true, play: func(r *run) error {
		for _, i := range r.rand.Perm(len(r.fleet.processes)) {
			p := r.fleet.processes[i]
			r.struck("kill -9 of %s", p.name)
			if err := ignoreGone(p.kill()); err != nil {
				return err
			}
			r.wait(r.between(200*time.Millisecond, 900*time.Millisecond))
		}
		return nil
	}},
	{name: "gateway-away", about: "the payment gateway resets, hangs and recovers", play: func(r *run) error {
		gateways := r.fleet.proxies(func(l *links) *proxy.Proxy { return l.gateway })
		for _, g := range gateways {
			g.Stall(proxy.Both)
		}
		r.wait(r.duration / 2)
		for _, g := range gateways {
			g.Heal()
			g.Refuse()
			g.Reset()
		}
		r.wait(r.duration / 2)
		if sum(gateways) > 0 {
			r.struck("the payment gateway hung, then refused")
		}
		return nil
	}},
	{name: "chaos", about: "everything that a single Redis, Postgres and Kafka can suffer, at random", realKafka: true, play: func(r *run) error {
		kinds := []string{"kill9", "flushall", "key-deleted", "redis-oom", "redis-noreplicas", "redis-hang", "redis-reset", "postgres-terminate", "postgres-hang", "postgres-reset", "stop", "redis-restart"}
		return r.repeat(func() error { return r.chaos(kinds[r.rand.IntN(len(kinds))]) }, 300*time.Millisecond)
	}},
}

// repeat strikes again and again for the run's duration.
func (r *run) repeat(strike func() error, pause time.Duration) error {
	for end := time.Now().Add(r.duration); time.Now().Before(end) && r.ctx.Err() == nil; {
		if err := strike(); err != nil {
			return err
		}
		r.wait(r.between(pause/2, 2*pause))
	}
	return nil
}

// await waits for a condition; false if it was not met in time.
func (r *run) await(timeout time.Duration, met func() bool) bool {
	for end := time.Now().Add(timeout); time.Now().Before(end) && r.ctx.Err() == nil; r.wait(15 * time.Millisecond) {
		if met() {
			return true
		}
	}
	return met()
}

func (r *run) anyProcess() *process {
	var all []*process
	for _, p := range r.fleet.processes {
		if p.role != "gateway-sim" {
			all = append(all, p)
		}
	}
	return all[r.rand.IntN(len(all))]
}

// atPoints arms one failpoint after the other: those of the seed, and more for as long
// as the run lasts.
func (r *run) atPoints(action string) error {
	end := time.Now().Add(r.duration)
	for i, t := range r.scenario.from(r.seedNumber) {
		if (i >= r.scenario.perSeed && time.Now().After(end) && len(r.strikes) > 0) || r.ctx.Err() != nil {
			return nil
		}
		if err := r.atPoint(action, t); err != nil {
			return err
		}
	}
	return nil
}

// atPoint arms the point in all processes of a role; the first that reaches it is
// struck, the others are disarmed.
func (r *run) atPoint(action string, t target) error {
	all := r.fleet.of(t.role)
	r.rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	before := map[string]int{}
	victim := all[0]
	candidates := all[:1]
	if t.role != "command-api" { // who leads, who has the product or the partition
		candidates = all
	}
	takesOver := t.point == failpoint.RelayLeads || t.point == failpoint.ProjectTakeOver
	nth := 1 + r.rand.IntN(3)
	if takesOver {
		nth = 1
	}
	for _, p := range candidates {
		before[p.name] = p.struck(t.point, action)
		if err := p.arm(fmt.Sprintf("%s=%s@%d", t.point, action, nth)); err != nil {
			return err
		}
	}
	if takesOver {
		if err := r.depose(t.role); err != nil {
			return err
		}
	}
	hit := r.await(6*time.Second, func() bool {
		for _, p := range candidates {
			if p.struck(t.point, action) > before[p.name] {
				victim = p
				return true
			}
		}
		return false
	})
	for _, p := range candidates {
		if err := p.arm(""); err != nil {
			return err
		}
	}
	if !hit {
		r.verdict.note("%s did not reach %s", t.role, t.point)
		return nil
	}
	r.points[t.role+" "+string(t.point)]++
	r.struck("%s of %s at %s", action, victim.name, t.point)
	if action == "stop" {
		r.wait(leaseTime)
		for _, p := range candidates {
			_ = p.signal(syscall.SIGCONT)
		}
		return nil
	}
	r.wait(r.between(50*time.Millisecond, 400*time.Millisecond))
	return nil
}

// depose kills the leading relay, or a projector, so that another takes over.
func (r *run) depose(role string) error {
	r.wait(300 * time.Millisecond) // until the points are armed
	p := r.fleet.of(role)[r.rand.IntN(2)]
	if role == "relay" {
		leader, err := r.fleet.leader(r.ctx)
		if err != nil {
			return nil // one is about to take over in any case
		}
		p = leader
	}
	return ignoreGone(p.kill())
}

// inRebuild loses every gate and strikes the processes that rebuild one.
func (r *run) inRebuild(action string) error {
	end := time.Now().Add(r.duration)
	for i, t := range r.scenario.from(r.seedNumber) {
		if (i >= r.scenario.perSeed && time.Now().After(end) && len(r.strikes) > 0) || r.ctx.Err() != nil {
			return nil
		}
		point := t.point
		all := slices.Concat(r.fleet.of("command-api"), r.fleet.of("worker"))
		before := map[string]int{}
		for _, p := range all {
			before[p.name] = p.struck(point, action)
			if err := p.arm(fmt.Sprintf("%s=%s@%d", point, action, 1+r.rand.IntN(2))); err != nil {
				return err
			}
		}
		if err := r.flushAll(); err != nil {
			return err
		}
		var victims []*process
		r.await(3*time.Second, func() bool {
			victims = nil
			for _, p := range all {
				if p.struck(point, action) > before[p.name] {
					victims = append(victims, p)
				}
			}
			return len(victims) > 0
		})
		for _, p := range all {
			if err := p.arm(""); err != nil {
				return err
			}
		}
		for _, p := range victims {
			r.points[p.role+" "+string(point)]++
			r.struck("%s of %s at %s", action, p.name, point)
		}
		if action == "stop" {
			r.wait(leaseTime)
			for _, p := range all {
				_ = p.signal(syscall.SIGCONT)
			}
		}
		r.wait(r.between(200*time.Millisecond, time.Second))
	}
	return nil
}

func (r *run) stopProcess(name string) error {
	p := r.fleet.process(name)
	for end := time.Now().Add(r.duration); time.Now().Before(end); {
		if err := r.stopFor(p, r.between(leaseTime, leaseTime+2*time.Second)); err != nil {
			return err
		}
		r.wait(500 * time.Millisecond)
	}
	return nil
}

func (r *run) stopFor(p *process, d time.Duration) error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	r.struck("SIGSTOP of %s for %s", p.name, d.Round(100*time.Millisecond))
	r.wait(d)
	return p.signal(syscall.SIGCONT)
}

func sum(all []*proxy.Proxy) (n int64) {
	for _, p := range all {
		n += p.Struck()
	}
	return n
}

// chaos injects one fault of a kind and heals it after a while.
func (r *run) chaos(kind string) error {
	f := r.fleet
	d := r.between(200*time.Millisecond, 4*time.Second)
	name := fleetRoles[1+r.rand.IntN(len(fleetRoles)-1)]
	links, p := f.links[name], f.process(name)
	r.struck("%s (%s, %s)", kind, name, d.Round(10*time.Millisecond))
	switch kind {
	case "kill9":
		return ignoreGone(p.kill())
	case "stop":
		if err := p.signal(syscall.SIGSTOP); err != nil {
			return ignoreGone(err)
		}
		r.wait(d)
		return ignoreGone(p.signal(syscall.SIGCONT))
	case "flushall":
		return r.flushAll()
	case "key-deleted":
		return r.deleteOneKey(r.sale.products[r.rand.IntN(len(r.sale.products))].id)
	case "redis-oom":
		return r.redisConfig("maxmemory", "1", "0", d)
	case "redis-noreplicas":
		return r.redisConfig("min-replicas-to-write", "1", "0", d)
	case "redis-restart":
		return f.redis.Restart(r.ctx)
	case "redis-hang":
		links.redis.Stall(proxy.Both)
		r.wait(d)
		links.redis.Heal()
	case "redis-reset":
		links.redis.Reset()
	case "postgres-hang":
		links.postgres.Stall(proxy.Both)
		r.wait(d)
		links.postgres.Heal()
	case "postgres-reset":
		links.postgres.Reset()
	case "postgres-terminate":
		return r.terminateSessions()
	}
	return nil
}

// ignoreGone: a process that was just killed cannot be signalled.
func ignoreGone(err error) error {
	if err != nil && (errors.Is(err, syscall.ESRCH) || strings.Contains(err.Error(), "does not run")) {
		return nil
	}
	return err
}
