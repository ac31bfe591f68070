// Command faults breaks the system on purpose and checks that the rules of the
// contract (R1 to R9) hold. It starts real processes with real Postgres,
// Redis and Kafka, plays a sale, injects faults drawn by a seed, heals, waits until
// everything has settled, and compares what clients saw with the event store, the
// topic, the read models and the decision logs.
//
//	go run ./tools/faults --list
//	go run ./tools/faults --scenario flushall,redis-oom --seeds 1-20
//
// Exit status 1: a rule did not hold, a run had no traffic, no fault struck, or a failpoint
// of a scenario that visits failpoints was never struck.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dopaminestore/dopamine/internal/failpoint"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := command(ctx, os.Args[1:])
	stop()
	os.Exit(status)
}

func command(ctx context.Context, args []string) int {
	flags := flag.NewFlagSet("faults", flag.ContinueOnError)
	var (
		names    = flags.String("scenario", "ci", "comma-separated `names`, a prefix with *, `ci` for a small set, or `all`")
		seedText = flags.String("seeds", "1", "`seeds`, as in 1-20 or 3,7")
		list     = flags.Bool("list", false, "list the scenarios and the failpoints, and exit")
		asJSON   = flags.String("json", "", "append one JSON object per run to this `file`")
		dir      = flags.String("dir", "", "`folder` for data and logs; default: a temporary one, removed unless a run failed")
		fakes    = flags.Bool("fake-kafka", false, "kfake instead of Apache Kafka for scenarios that leave Kafka alone")
		overlay  = flags.String("overlay", "", "overlay `file` of the go command: builds the program from changed sources")
		program  = flags.String("program", "", "a built program, with the tag failpoints; default: built from the sources")
		table    = flags.String("table", "", "print the table of runs recorded in this `file` by --json, and exit")
		o        options
	)
	flags.DurationVar(&o.duration, "duration", 6*time.Second, "how long faults go on in a run")
	flags.IntVar(&o.rate, "rate", 60, "new buyers per second")
	flags.IntVar(&o.thorough, "thorough", 1, "every `n`-th fleet: callbacks of the gateway are lost, so that payments are looked up after 30 s, and every projection is replayed and compared; 0: none")
	flags.IntVar(&o.round, "round", 0, "after `n` seeds of a scenario comes the next one's turn; 0: all seeds at once")
	flags.BoolVar(&o.resume, "resume", false, "skip what the file of --json has")
	flags.IntVar(&o.parallel, "parallel", 1, "how many fleets run at once, each with servers of its own")
	flags.StringVar(&o.build, "build", "", "`name` of the program's build, recorded with each run")
	flags.BoolVar(&o.keep, "keep", false, "keep the logs of runs that held")
	flags.DurationVar(&o.unaffectedGap, "unaffected-gap", 5*time.Second, "how long a product that does not depend on what failed may go without a grant")
	flags.IntVar(&o.batch, "batch", 1, "how many seeds share one fleet of processes, where the fault allows it")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if *list {
		printList()
		return 0
	}
	if *table != "" {
		return printRecorded(*table)
	}
	chosen, err := choose(*names)
	if err == nil {
		var seeds []uint64
		if seeds, err = parseSeeds(*seedText); err == nil {
			return runAll(ctx, chosen, seeds, o, *dir, *asJSON, *program, *overlay, *fakes)
		}
	}
	fmt.Fprintln(os.Stderr, "faults:", err)
	return 2
}

func printList() {
	for _, sc := range scenarios {
		fmt.Printf("%-28s %s\n", sc.name, sc.about)
	}
	fmt.Println("\nFailpoints:")
	for _, p := range failpoint.Names() {
		fmt.Println(" ", p)
	}
}

func choose(names string) (chosen []*scenario, err error) {
	if names == "ci" {
		names = ciScenarios
	}
	for name := range strings.SplitSeq(names, ",") {
		found := false
		for _, sc := range scenarios {
			prefix, isPrefix := strings.CutSuffix(name, "*")
			if name == "all" || sc.name == name || (isPrefix && strings.HasPrefix(sc.name, prefix)) {
				chosen, found = append(chosen, sc), true
			}
		}
		if !found {
			return nil, fmt.Errorf("no scenario %q: --list shows them", name)
		}
	}
	return chosen, nil
}

func parseSeeds(text string) (seeds []uint64, err error) {
	for part := range strings.SplitSeq(text, ",") {
		low, high, isRange := strings.Cut(part, "-")
		from, err := strconv.ParseUint(low, 10, 63)
		to := from
		if err == nil && isRange {
			to, err = strconv.ParseUint(high, 10, 63)
		}
		if err != nil || to < from || to-from > 100_000 {
			return nil, fmt.Errorf("seeds %q: want numbers or ranges, as in 1-20", text)
		}
		for s := from; s <= to; s++ {
			seeds = append(seeds, s)
		}
	}
	return seeds, nil
}

func runAll(ctx context.Context, chosen []*scenario, seeds []uint64, o options, dir, jsonFile, program, overlay string, fakes bool) int {
	temporary := dir == ""
	if temporary {
		var err error
		if dir, err = os.MkdirTemp("", "dopamine-faults-"); err != nil {
			fmt.Fprintln(os.Stderr, "faults:", err)
			return 1
		}
	}
	dir, err := filepath.Abs(dir) // processes run in folders of their own
	if err == nil && program == "" {
		if err = os.MkdirAll(dir, 0o755); err == nil {
			program, err = buildProgram(ctx, dir, overlay)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		return 1
	}
	var recorded []result
	if o.resume {
		if recorded, err = readRecorded(jsonFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			fmt.Fprintln(os.Stderr, "faults:", err)
			return 1
		}
	}
	results, err := playAll(ctx, turns(chosen, seeds, recorded, o), o, dir, jsonFile, program, fakes)
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		return 1
	}
	fmt.Println()
	printTable(results)
	covered := printCoverage(append(slices.Clone(recorded), results...))
	if failed(results) {
		fmt.Println("logs and histories:", dir)
		return 1
	}
	if temporary {
		_ = os.RemoveAll(dir)
	}
	if ctx.Err() != nil || !covered {
		return 1
	}
	return 0
}

// playAll plays the turns, as many at once as the options want, and records each.
func playAll(ctx context.Context, all []turn, o options, dir, jsonFile, program string, fakes bool) (results []result, err error) {
	next := make(chan turn)
	var mu sync.Mutex
	var players sync.WaitGroup
	for i := range max(o.parallel, 1) {
		s, err := newServices(filepath.Join(dir, itoa(i)), program, fakes)
		if err != nil {
			return nil, err
		}
		players.Go(func() {
			defer s.stop(ctx)
			for t := range next {
				var played []result
				if ctx.Err() == nil {
					played = play(ctx, s, t.scenario, t.seeds, o)
				}
				if ctx.Err() != nil {
					continue // interrupted: it shows nothing
				}
				if failed(played) {
					s.stop(ctx) // the next run gets servers that nothing has happened to
				}
				mu.Lock()
				for _, res := range played {
					results = append(results, res)
					printResult(res)
					err = errors.Join(err, appendJSON(jsonFile, res))
				}
				mu.Unlock()
			}
		})
	}
	for _, t := range all {
		next <- t
	}
	close(next)
	players.Wait()
	return results, err
}

// turn is a fleet's seeds.
type turn struct {
	scenario *scenario
	seeds    []uint64
}

// turns lists what is to be run, in its order, without what was recorded.
func turns(chosen []*scenario, seeds []uint64, recorded []result, o options) (all []turn) {
	type key struct {
		scenario string
		seed     uint64
	}
	done := map[key]bool{}
	for _, r := range recorded {
		done[key{r.Scenario, r.Seed}] = true
	}
	round := o.round
	if round == 0 {
		round = len(seeds)
	}
	for some := range slices.Chunk(seeds, round) {
		for _, sc := range chosen {
			left := slices.DeleteFunc(slices.Clone(some), func(seed uint64) bool { return done[key{sc.name, seed}] })
			size := max(o.batch, 1)
			if sc.once {
				size = 1
			}
			for batch := range slices.Chunk(left, size) {
				all = append(all, turn{sc, batch})
			}
		}
	}
	return all
}

func failed(results []result) bool {
	return slices.ContainsFunc(results, func(r result) bool { return len(r.Violations) > 0 })
}

func appendJSON(file string, res result) error {
	if file == "" {
		return nil
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return json.NewEncoder(f).Encode(res)
}

// printResult is one line for a run, and one for each violation.
func printResult(r result) {
	unaffected := "-"
	if r.Unaffected >= 0 {
		unaffected = fmt.Sprintf("%.1f s", r.Unaffected)
	}
	fmt.Printf("%-26s seed %-4d %4d granted %4d refused %4d errors; no grant: unaffected %s, affected %.1f s; recovered %.1f s, settled %.1f s; %d violations (%.0f s)\n",
		r.Scenario, r.Seed, r.Granted, r.Refused, r.Errors, unaffected, r.Affected, r.Recovered, r.Settled, len(r.Violations), r.Took)
	for i, v := range r.Violations {
		if i == 12 {
			fmt.Printf("    … %d more\n", len(r.Violations)-i)
			break
		}
		fmt.Printf("    %s: %s\n", v.Rule, v.What)
	}
	if len(r.Violations) > 0 {
		for _, s := range r.Strikes {
			fmt.Printf("    struck: %s\n", s)
		}
	}
}

// printTable sums the seeds of each scenario up, in Markdown.
func printTable(results []result) {
	type row struct {
		seeds, granted, errors, violations, failed int
		unaffected, affected, recovered, settled   float64
	}
	var order []string
	rows := map[string]*row{}
	for _, r := range results {
		t := rows[r.Scenario]
		if t == nil {
			t = &row{unaffected: -1}
			rows[r.Scenario] = t
			order = append(order, r.Scenario)
		}
		t.seeds++
		t.granted += r.Granted
		t.errors += r.Errors
		t.violations += len(r.Violations)
		if len(r.Violations) > 0 {
			t.failed++
		}
		t.unaffected, t.affected = max(t.unaffected, r.Unaffected), max(t.affected, r.Affected)
		t.recovered, t.settled = max(t.recovered, r.Recovered), max(t.settled, r.Settled)
	}
	fmt.Println("| fault | seeds | grants | errors | longest without a grant: unaffected / affected | recovered | settled | violations |")
	fmt.Println("|---|---|---|---|---|---|---|---|")
	for _, name := range order {
		t := rows[name]
		unaffected := "all affected"
		if t.unaffected >= 0 {
			unaffected = fmt.Sprintf("%.1f s", t.unaffected)
		}
		fmt.Printf("| `%s` | %d | %d | %d | %s / %.1f s | %.1f s | %.1f s | %d in %d runs |\n",
			name, t.seeds, t.granted, t.errors, unaffected, t.affected, t.recovered, t.settled, t.violations, t.failed)
	}
}

// readRecorded reads the runs that were recorded in a file.
func readRecorded(file string) (results []result, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for d := json.NewDecoder(bytes.NewReader(b)); ; {
		var r result
		if err := d.Decode(&r); errors.Is(err, io.EOF) {
			return results, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		results = append(results, r)
	}
}

// printRecorded prints the tables of runs that were recorded before.
func printRecorded(file string) int {
	results, err := readRecorded(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		return 1
	}
	printTable(results)
	if !printCoverage(results) {
		return 1
	}
	return 0
}
