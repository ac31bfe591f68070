package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dopaminestore/dopamine/internal/failpoint"
)

// from lists the scenario's targets beginning with those of a seed. Consecutive seeds
// have consecutive targets, so that together they have all.
func (sc *scenario) from(seed uint64) []target {
	begin := int(seed%uint64(len(sc.targets))) * sc.perSeed % len(sc.targets)
	return slices.Concat(sc.targets[begin:], sc.targets[:begin])
}

// strikes counts strikes by scenario, process and failpoint.
func strikes(results []result) map[string]map[target]int {
	all := map[string]map[target]int{}
	for _, r := range results {
		for name, n := range r.Points {
			if all[r.Scenario] == nil {
				all[r.Scenario] = map[target]int{}
			}
			role, point, _ := strings.Cut(name, " ")
			all[r.Scenario][target{role, failpoint.Point(point)}] += n
		}
	}
	return all
}

// uncovered lists the failpoints that a scenario's seeds should have struck and did not.
func uncovered(results []result) (missing []string) {
	struck := strikes(results)
	seen := map[string]bool{}
	for _, r := range results {
		i := slices.IndexFunc(scenarios, func(sc *scenario) bool { return sc.name == r.Scenario })
		if i < 0 || len(scenarios[i].targets) == 0 {
			continue
		}
		for _, t := range scenarios[i].from(r.Seed)[:scenarios[i].perSeed] {
			name := fmt.Sprintf("%s: %s %s", r.Scenario, t.role, t.point)
			if t.role == "" {
				name = fmt.Sprintf("%s: %s", r.Scenario, t.point)
			}
			if !t.isIn(struck[r.Scenario]) && !seen[name] {
				seen[name] = true
				missing = append(missing, name)
			}
		}
	}
	return missing
}

// isIn reports whether the target was struck.
func (t target) isIn(struck map[target]int) bool {
	for s := range struck {
		if s.point == t.point && (t.role == "" || s.role == t.role) {
			return true
		}
	}
	return false
}

// printCoverage prints how often each failpoint was struck, and those that were not. It
// returns false if there are any.
func printCoverage(results []result) bool {
	struck := strikes(results)
	if len(struck) > 0 {
		fmt.Println("\n| scenario | process | failpoint, times |\n|---|---|---|")
	}
	for _, name := range slices.Sorted(maps.Keys(struck)) {
		roles := map[string][]string{}
		for t, n := range struck[name] {
			roles[t.role] = append(roles[t.role], fmt.Sprintf("`%s` %d", t.point, n))
		}
		for _, role := range slices.Sorted(maps.Keys(roles)) {
			slices.Sort(roles[role])
			fmt.Printf("| `%s` | %s | %s |\n", name, role, strings.Join(roles[role], ", "))
		}
	}
	missing := uncovered(results)
	for _, m := range missing {
		fmt.Println("never struck:", m)
	}
	return len(missing) == 0
}
