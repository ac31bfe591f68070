package main

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/failpoint"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// A short run of the harness, with a replay at its end: the rules hold, and every
// failpoint is reached in a sale whose gates are lost once.
func TestHarness_RulesHoldUnderFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a fleet of processes")
	}
	dir, err := os.MkdirTemp("", "dopamine-faults-") // the server's user has to enter it
	require.NoError(t, err)
	t.Cleanup(func() {
		if !t.Failed() {
			_ = os.RemoveAll(dir)
		}
	})
	s := &services{dir: dir, postgres: testkit.OwnPostgres(t), redis: testkit.OwnRedis(t), kafka: testkit.OwnKafka(t)}
	require.NoError(t, os.Chmod(dir, 0o755))
	s.binary, err = buildProgram(t.Context(), dir, "")
	require.NoError(t, err)
	hit := map[failpoint.Point]bool{}
	for _, name := range []string{"flushall", "kill9-failpoints"} {
		t.Run(name, func(t *testing.T) {
			thorough := 0
			if name == "flushall" {
				thorough = 1
			}
			chosen, err := choose(name)
			require.NoError(t, err)
			res := play(t.Context(), s, chosen[0], []uint64{1}, options{duration: 4 * time.Second, rate: 40, thorough: thorough, unaffectedGap: 10 * time.Second})[0]
			printResult(res)
			require.Empty(t, res.Violations)
			for p := range res.hits {
				hit[p] = true
			}
		})
	}
	if t.Failed() {
		return
	}
	for _, p := range failpoint.Names() {
		require.True(t, hit[p], "failpoint %s was never reached", p)
	}
}

// What the harness reports is why it went on waiting, not that its time was over.
func TestPoll_ReportsTheLastAttemptThatWasNotInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	attempts := 0
	err := poll(ctx, time.Millisecond, "the fleet to settle", func() error {
		if attempts++; attempts < 3 {
			return errors.New("projection purchases lags")
		}
		cancel()
		return errors.New("signal: killed")
	})
	require.EqualError(t, err, "waited for the fleet to settle: projection purchases lags")
}

// kfake's groups do not recover from members that die while they join.
func TestScenarios_ThatKillProjectorsUseApacheKafka(t *testing.T) {
	for _, sc := range scenarios {
		switch sc.name {
		case "kill9", "money-worst", "chaos":
			require.True(t, sc.realKafka, sc.name)
		}
	}
}

func TestLongestGap(t *testing.T) {
	s := func(n int) time.Duration { return time.Duration(n) * time.Second }
	all := []attempt{
		{Op: "acquire", Product: "a", Status: 201, Answered: s(1)},
		{Op: "acquire", Product: "b", Status: 201, Answered: s(3)},
		{Op: "acquire", Product: "a", Status: 409, Answered: s(4)},
		{Op: "acquire", Product: "a", Status: 201, Answered: s(6)},
	}
	longest, began := longestGap(all, "a", 0, s(8))
	require.Equal(t, []time.Duration{s(5), s(1)}, []time.Duration{longest, began})
	longest, _ = longestGap(all, "c", 0, s(8))
	require.Equal(t, s(8), longest)
	require.Equal(t, s(2), firstGrant(all, "a", s(4)))
	require.Equal(t, time.Duration(-1), firstGrant(all, "b", s(4)))
}

// The checks must see what they are for: each broken log is noticed.
func TestFold_ReportsEachBrokenRule(t *testing.T) {
	product := id(1)
	created := event{kind: "ProductCreated", key: product, stream: product, payload: payload{Stock: 2}}
	acquired := func(slot, unit int, number int64, user int) event {
		return event{kind: "SlotAcquired", key: product, stream: id(slot), payload: payload{Unit: unit, ArrivalSequence: number, UserID: id(user), TTL: 1000}}
	}
	expired := event{kind: "SlotExpired", key: product, stream: id(10), payload: payload{ReclaimStatus: "BUYER_RELEASED"}}
	for name, c := range map[string]struct {
		rule   string
		events []event
	}{
		"holds":            {"", []event{created, acquired(10, 1, 1, 2), expired, acquired(11, 1, 2, 2)}},
		"unit held twice":  {"R1", []event{created, acquired(10, 1, 1, 2), acquired(11, 1, 2, 3)}},
		"unit beyond":      {"R1", []event{created, acquired(10, 3, 1, 2)}},
		"buyer twice":      {"R3", []event{created, acquired(10, 1, 1, 2), acquired(11, 2, 2, 2)}},
		"number twice":     {"R6", []event{created, acquired(10, 1, 1, 2), acquired(11, 2, 1, 3)}},
		"expired twice":    {"R5", []event{created, acquired(10, 1, 1, 2), expired, expired}},
		"expired too soon": {"R5", []event{created, acquired(10, 1, 1, 2), {kind: "SlotExpired", key: product, stream: id(10), payload: payload{ReclaimStatus: "AUTO_EXPIRED"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			versions := map[[16]byte]int{}
			for i := range c.events {
				e := &c.events[i]
				versions[e.stream]++
				e.position, e.version = int64(i+1), versions[e.stream]
			}
			var v verdict
			fold(c.events, &v)
			if c.rule == "" {
				require.Empty(t, v.violations)
				return
			}
			require.NotEmpty(t, v.violations)
			require.Equal(t, c.rule, v.violations[0].Rule)
		})
	}
}

func TestResales_CountsUnitsOfSoldOutProducts(t *testing.T) {
	product, start := id(1), time.Unix(1_800_000_000, 0)
	at := func(kind string, ms int) event {
		return event{kind: kind, key: product, recordedAt: start.Add(time.Duration(ms) * time.Millisecond), payload: payload{Stock: 2}}
	}
	all := []event{
		at("ProductCreated", 0), at("SlotAcquired", 10), at("SlotExpired", 20), // had a free unit
		at("SlotAcquired", 30), at("SlotAcquired", 40), at("SlotExpired", 100), at("SlotAcquired", 350),
		at("SlotExpired", 400), at("ProductSalePaused", 410), at("ProductSaleResumed", 900), at("SlotAcquired", 910),
		at("SlotExpired", 2000), at("SlotAcquired", 9000),
	}
	require.Equal(t, map[uuid.UUID][]time.Duration{product: {250 * time.Millisecond}}, resales(all, start.Add(time.Second)))
}

func id(n int) uuid.UUID { return uuid.UUID{15: byte(n)} }

func TestKeySlot_IsTheClusterSpecifications(t *testing.T) {
	require.EqualValues(t, 12739, keySlot("123456789")) // its CRC16 is 0x31C3
}

func TestTargets_TwentySeedsVisitAll(t *testing.T) {
	for _, sc := range scenarios {
		visited := map[target]bool{}
		for seed := uint64(1); seed <= 20 && len(sc.targets) > 0; seed++ {
			for _, at := range sc.from(seed)[:sc.perSeed] {
				visited[at] = true
			}
		}
		require.Len(t, visited, len(sc.targets), sc.name)
	}
}

func TestUncovered_NamesTargetsThatWereNeverStruck(t *testing.T) {
	chosen, err := choose("kill9-failpoints,kill9-rebuild")
	require.NoError(t, err)
	var results []result
	for _, sc := range chosen {
		at := sc.from(1)[0]
		role := at.role
		if role == "" {
			role = "worker"
		}
		results = append(results, result{Scenario: sc.name, Seed: 1, Points: map[string]int{role + " " + string(at.point): 1}})
	}
	missed := chosen[0].from(1)[1]
	require.Equal(t, []string{"kill9-failpoints: " + missed.role + " " + string(missed.point)}, uncovered(results))
}
