package fairness_test

import (
	"bytes"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dopaminestore/dopamine/domain/fairness"
)

// model is a gate according to the contract, written without the fold: it
// decides one request after another and keeps its log like the real one.
type model struct {
	log     []fairness.Line
	epoch   int64
	counter int64
	held    map[int]bool
	total   int
	run     fairness.Line // open where From is not 0
	granted int64
	refused int64
}

func (m *model) closeRun() {
	if m.run.From != 0 {
		m.log = append(m.log, m.run)
		m.run = fairness.Line{}
	}
}

func (m *model) open(epoch int64) {
	m.closeRun()
	m.epoch, m.counter = epoch, 0
	m.log = append(m.log, fairness.Line{Epoch: epoch, Type: fairness.Opened, Units: int64(m.total - len(m.held))})
}

func (m *model) number() int64 {
	m.counter++
	return m.epoch*10_000_000_000 + m.counter
}

func (m *model) free() (units []int) {
	for u := 1; u <= m.total; u++ {
		if !m.held[u] {
			units = append(units, u)
		}
	}
	return units
}

func (m *model) ask(t *rapid.T) {
	kind := rapid.SampledFrom([]string{"take", "take", "take", "duplicate", "notStarted", "closed"}).Draw(t, "kind")
	free := m.free()
	if kind == "take" && len(free) > 0 {
		m.closeRun()
		unit := rapid.SampledFrom(free).Draw(t, "unit")
		m.held[unit] = true
		m.granted++
		m.log = append(m.log, fairness.Line{Epoch: m.epoch, Type: fairness.Granted, Sequence: m.number(), Unit: unit})
		return
	}
	n := m.number()
	if m.run.From == 0 {
		m.run = fairness.Line{Epoch: m.epoch, Type: fairness.Refused, From: n}
	}
	m.run.To = n
	m.refused++
	switch kind {
	case "take":
		m.run.Refused.SoldOut++
	case "duplicate":
		m.run.Refused.Duplicate++
	case "notStarted":
		m.run.Refused.NotStarted++
	case "closed":
		m.run.Refused.Closed++
	}
}

func (m *model) step(t *rapid.T) {
	switch rapid.IntRange(0, 19).Draw(t, "step") {
	case 0:
		m.open(m.epoch + rapid.Int64Range(1, 3).Draw(t, "epochs"))
	case 1:
		m.closeRun()
		more := rapid.IntRange(1, 3).Draw(t, "more")
		m.total += more
		m.log = append(m.log, fairness.Line{Epoch: m.epoch, Type: fairness.Opened, Units: int64(more)})
	case 2, 3, 4:
		for u := 1; u <= m.total; u++ {
			if m.held[u] && rapid.Bool().Draw(t, "return") {
				m.closeRun()
				delete(m.held, u)
				m.log = append(m.log, fairness.Line{Epoch: m.epoch, Type: fairness.Returned, Unit: u, Reason: fairness.AutoExpired})
				break
			}
		}
	default:
		m.ask(t)
	}
}

func drawLog(t *rapid.T) *model {
	m := &model{held: map[int]bool{}, total: rapid.IntRange(1, 5).Draw(t, "stock")}
	m.open(0)
	for range rapid.IntRange(1, 60).Draw(t, "steps") {
		m.step(t)
	}
	m.closeRun()
	return m
}

func foldAll(log []fairness.Line) fairness.Report {
	fold := fairness.NewFold()
	for _, l := range log {
		_ = fold.Add(l) // counted in the report
	}
	return fold.Report()
}

func TestFold_AcceptsLogsOfModelGate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawLog(t)
		var text []byte
		for _, l := range m.log {
			text = append(l.AppendJSON(text), '\n')
		}
		report, err := fairness.Verify(bytes.NewReader(text), func(e error) { t.Fatal(e) })
		require.NoError(t, err)
		require.Equal(t, m.granted, report.Granted)
		require.Equal(t, m.refused, report.Refused.Total())
		require.Equal(t, m.granted+m.refused, report.Decided)
		require.Zero(t, report.Inversions)
		require.Equal(t, foldAll(m.log), report)
	})
}

// TestMutations_AreDetected changes one value that a rule concerns.
func TestMutations_AreDetected(t *testing.T) {
	type mutation struct {
		name string
		log  []fairness.Line
	}
	rapid.Check(t, func(t *rapid.T) {
		log := drawLog(t).log
		at := func(i int, change func(*fairness.Line)) []fairness.Line {
			c := append([]fairness.Line(nil), log...)
			change(&c[i])
			return c
		}
		var possible []mutation
		add := func(name string, log []fairness.Line) { possible = append(possible, mutation{name, log}) }
		last := map[int64]int{} // the last decision of each epoch, whose absence cannot be detected
		for i, l := range log {
			if l.Type == fairness.Granted || l.Type == fairness.Refused {
				last[l.Epoch] = i
			}
		}
		free, out := int64(0), map[int]bool{}
		for i, l := range log {
			if i == 0 || log[i-1].Epoch != l.Epoch {
				free, out = 0, map[int]bool{}
			}
			if i > 0 && log[i-1].Epoch < l.Epoch {
				add("epoch falls", at(i, func(l *fairness.Line) { l.Epoch = log[i-1].Epoch - 1 }))
			}
			decision := l.Type == fairness.Granted || l.Type == fairness.Refused
			if decision {
				add("twice", append(append(append([]fairness.Line(nil), log[:i+1]...), l), log[i+1:]...))
				if last[l.Epoch] != i {
					add("missing", append(append([]fairness.Line(nil), log[:i]...), log[i+1:]...))
				}
			}
			switch l.Type {
			case fairness.Granted:
				add("number up", at(i, func(l *fairness.Line) { l.Sequence++ }))
				add("number down", at(i, func(l *fairness.Line) { l.Sequence-- }))
				if len(out) > 0 {
					add("unit out", at(i, func(l *fairness.Line) { l.Unit = slices.Min(slices.Collect(maps.Keys(out))) }))
				}
				add("refused instead", at(i, func(l *fairness.Line) {
					*l = fairness.Line{Epoch: l.Epoch, Type: fairness.Refused, From: l.Sequence, To: l.Sequence, Refused: fairness.Counts{SoldOut: 1}}
				}))
				free--
				out[l.Unit] = true
			case fairness.Refused:
				add("from", at(i, func(l *fairness.Line) { l.From++ }))
				add("to", at(i, func(l *fairness.Line) { l.To++ }))
				add("one more", at(i, func(l *fairness.Line) { l.Refused.Duplicate++ }))
				add("one fewer", at(i, func(l *fairness.Line) { l.Refused.Closed-- }))
				if free > 0 {
					add("inversion", at(i, func(l *fairness.Line) { l.Refused = fairness.Counts{SoldOut: l.Refused.Total()} }))
				} else {
					add("granted instead", at(i, func(l *fairness.Line) {
						*l = fairness.Line{Epoch: l.Epoch, Type: fairness.Granted, Sequence: l.From, Unit: 9}
					}))
				}
			case fairness.Returned:
				add("returned twice", append(append(append([]fairness.Line(nil), log[:i+1]...), l), log[i+1:]...))
				free++
				delete(out, l.Unit)
			case fairness.Opened:
				if free+l.Units > 0 && i+1 < len(log) && log[i+1].Type == fairness.Granted && free == 0 {
					add("not opened", at(i, func(l *fairness.Line) { l.Units = 0 }))
				}
				free += l.Units
			}
		}
		if len(possible) == 0 {
			t.Skip("nothing in it to change")
		}
		m := rapid.SampledFrom(possible).Draw(t, "mutation")
		require.Positive(t, foldAll(m.log).Breaks, m.name)
	})
}
