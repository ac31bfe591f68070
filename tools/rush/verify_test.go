package rush

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func acquired(slot, user uuid.UUID, unit int, seq int64) entry {
	return entry{Type: "SlotAcquired", SlotID: slot, UserID: user,
		Metadata: json.RawMessage(fmt.Sprintf(`{"unit":%d,"arrivalSequence":%d}`, unit, seq))}
}

func ended(kind string, slot, user uuid.UUID) entry {
	return entry{Type: kind, SlotID: slot, UserID: user, Metadata: json.RawMessage(`{}`)}
}

func newReport(stock, buyers int) *Report {
	return &Report{Stock: stock, Buyers: buyers,
		Rules: map[string]bool{"R1": true, "R2": true, "R3": true, "R4": true, "R5": true, "R6": true}}
}

func broken(r *Report) (rules []string) {
	for _, rule := range []string{"R1", "R2", "R3", "R4", "R5", "R6"} {
		if !r.Rules[rule] {
			rules = append(rules, rule)
		}
	}
	return rules
}

func TestFoldAudit_DetectsEachBrokenRule(t *testing.T) {
	a, b, c := uuid.New(), uuid.New(), uuid.New()
	x, y := uuid.New(), uuid.New()
	for name, tt := range map[string]struct {
		entries []entry
		broken  []string
	}{
		"all is well":           {[]entry{acquired(a, x, 1, 1), acquired(b, y, 2, 2), ended("SlotExpired", a, x), acquired(c, x, 1, 3), ended("PaymentCompleted", c, x)}, nil},
		"a unit twice":          {[]entry{acquired(a, x, 1, 1), acquired(b, y, 1, 2)}, []string{"R1"}},
		"a unit beyond stock":   {[]entry{acquired(a, x, 3, 1)}, []string{"R1"}},
		"a buyer twice":         {[]entry{acquired(a, x, 1, 1), acquired(b, x, 2, 2)}, []string{"R3"}},
		"a slot ends twice":     {[]entry{acquired(a, x, 1, 1), ended("PaymentCompleted", a, x), ended("SlotExpired", a, x)}, []string{"R5"}},
		"a number twice":        {[]entry{acquired(a, x, 1, 1), acquired(b, y, 2, 1)}, []string{"R6"}},
		"an end without begin":  {[]entry{ended("SlotExpired", a, x)}, []string{"R5"}},
		"unit given back twice": {[]entry{acquired(a, x, 1, 1), ended("SlotExpired", a, x), acquired(b, y, 1, 2), acquired(c, x, 1, 3)}, []string{"R1"}},
	} {
		t.Run(name, func(t *testing.T) {
			rep := newReport(2, 2)
			foldAudit(tt.entries, 2, rep)
			require.Equal(t, tt.broken, broken(rep), rep.Broken)
		})
	}
}

func TestCheckDurable_DetectsLostGrants(t *testing.T) {
	id, user := uuid.New(), uuid.New()
	grant := attempt{status: 201, slot: slot{ID: id, Unit: 1, ArrivalSequence: 7}}
	for name, tt := range map[string]struct {
		entries []entry
		held    bool
	}{
		"recorded":        {[]entry{acquired(id, user, 1, 7)}, true},
		"lost":            {nil, false},
		"as another unit": {[]entry{acquired(id, user, 2, 7)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			rep := newReport(2, 2)
			l := foldAudit(tt.entries, 2, rep)
			checkDurable(l, []attempt{grant}, rep)
			require.Equal(t, tt.held, rep.Rules["R4"])
		})
	}
}

func TestCheckArrival_ComparesOnlyConsecutiveRequests(t *testing.T) {
	ms := time.Millisecond
	grant := func(buyer int, sent, answered time.Duration, seq int64) attempt {
		return attempt{buyer: buyer, status: 201, sent: sent, answered: answered, slot: slot{ArrivalSequence: seq}}
	}
	for name, tt := range map[string]struct {
		attempts []attempt
		held     bool
	}{
		"in order":                        {[]attempt{grant(1, 0, ms, 1), grant(2, 2*ms, 3*ms, 2)}, true},
		"side by side, any order":         {[]attempt{grant(1, 0, 3*ms, 2), grant(2, ms, 2*ms, 1)}, true},
		"requested later, numbered lower": {[]attempt{grant(1, 0, ms, 2), grant(2, 2*ms, 3*ms, 1)}, false},
		"retried after a lost response":   {[]attempt{{buyer: 1, sent: 0}, grant(2, ms, 2*ms, 2), grant(1, 3*ms, 4*ms, 1)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			rep := newReport(2, 2)
			checkArrival(tt.attempts, rep)
			require.Equal(t, tt.held, rep.Rules["R6"])
		})
	}
}

func TestCheckUnits_ReportsFreeUnits(t *testing.T) {
	rep := newReport(2, 3)
	rep.Granted = 2
	checkUnits(&ledger{units: map[int]uuid.UUID{1: uuid.New()}, acquired: 1},
		product{Stock: 1, TotalStock: 2}, []attempt{{status: 409, slug: "sold-out"}}, rep)
	require.Equal(t, []string{"R2"}, broken(rep))
}

func TestCheckUnits_AcceptsLostResponses(t *testing.T) {
	held := &ledger{units: map[int]uuid.UUID{1: uuid.New(), 2: uuid.New()}, acquired: 2}
	for told, broke := range map[string][]string{"duplicate-slot": nil, "sold-out": {"R2"}} {
		rep := newReport(2, 3)
		rep.Granted, rep.Refused, rep.Refusals = 1, 2, map[string]int{told: 1}
		checkUnits(held, product{TotalStock: 2}, nil, rep)
		require.Equal(t, broke, broken(rep), told)
	}
}
