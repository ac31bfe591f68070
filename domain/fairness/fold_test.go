package fairness_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain/fairness"
)

func verify(t *testing.T, log string) (fairness.Report, []string) {
	t.Helper()
	var wrong []string
	report, err := fairness.Verify(strings.NewReader(log), func(e error) { wrong = append(wrong, e.Error()) })
	require.NoError(t, err)
	return report, wrong
}

const rush = `{"epoch":0,"type":"opened","units":2}
{"epoch":0,"type":"refused","from":1,"to":2,"soldOut":0,"duplicate":0,"notStarted":2,"closed":0}
{"epoch":0,"type":"granted","sequence":3,"unit":1}
{"epoch":0,"type":"refused","from":4,"to":4,"soldOut":0,"duplicate":1,"notStarted":0,"closed":0}
{"epoch":0,"type":"granted","sequence":5,"unit":2}
{"epoch":0,"type":"refused","from":6,"to":9,"soldOut":4,"duplicate":0,"notStarted":0,"closed":0}
{"epoch":0,"type":"returned","unit":1,"reason":"BUYER_RELEASED"}
{"epoch":0,"type":"granted","sequence":10,"unit":1}
{"epoch":2,"type":"opened","units":0}
{"epoch":2,"type":"refused","from":20000000001,"to":20000000003,"soldOut":2,"duplicate":0,"notStarted":0,"closed":1}
{"epoch":2,"type":"returned","unit":2,"reason":"AUTO_EXPIRED"}
{"epoch":2,"type":"granted","sequence":20000000004,"unit":2}
`

func TestFold_Report(t *testing.T) {
	report, wrong := verify(t, rush)
	require.Empty(t, wrong)
	first, last := int64(1), int64(20000000004)
	require.Equal(t, fairness.Report{
		Decided: 14, Granted: 4, Returned: 2, Epochs: 2,
		Refused:       fairness.Counts{SoldOut: 6, Duplicate: 1, NotStarted: 2, Closed: 1},
		FirstSequence: &first, LastSequence: &last, LastGrantedSequence: &last,
	}, report)
}

func TestFold_Empty(t *testing.T) {
	report, wrong := verify(t, "")
	require.Empty(t, wrong)
	require.Equal(t, fairness.Report{}, report)
}

func TestFold_CountsInversions(t *testing.T) {
	report, wrong := verify(t, `{"epoch":0,"type":"opened","units":1}
{"epoch":0,"type":"refused","from":1,"to":3,"soldOut":2,"duplicate":1,"notStarted":0,"closed":0}
{"epoch":0,"type":"granted","sequence":4,"unit":1}
`)
	require.EqualValues(t, 2, report.Inversions)
	require.Len(t, wrong, 1)
	require.Contains(t, wrong[0], "line 2: refused as sold out while 1 units were free")
}

func TestFold_CountsNoInversionsAgainstMissingGrants(t *testing.T) {
	lines := func(missing ...string) (log string) {
		for i, l := range []string{
			`{"epoch":0,"type":"opened","units":3}`,
			`{"epoch":0,"type":"granted","sequence":1,"unit":1}`,
			`{"epoch":0,"type":"granted","sequence":2,"unit":2}`,
			`{"epoch":0,"type":"returned","unit":2,"reason":"WITHDRAWN"}`,
			`{"epoch":0,"type":"granted","sequence":3,"unit":2}`,
			`{"epoch":0,"type":"granted","sequence":4,"unit":3}`,
			`{"epoch":0,"type":"refused","from":5,"to":7,"soldOut":3,"duplicate":0,"notStarted":0,"closed":0}`,
			`{"epoch":0,"type":"returned","unit":2,"reason":"WITHDRAWN"}`,
			`{"epoch":0,"type":"granted","sequence":8,"unit":2}`,
			`{"epoch":0,"type":"refused","from":9,"to":9,"soldOut":1,"duplicate":0,"notStarted":0,"closed":0}`,
		} {
			if !strings.Contains(" "+strings.Join(missing, " ")+" ", fmt.Sprintf(" %d ", i)) {
				log += l + "\n"
			}
		}
		return log
	}
	for name, c := range map[string]struct {
		missing    []string
		inversions int64
		want       []string
	}{
		"none":                      {nil, 0, nil},
		"grants":                    {[]string{"1", "2"}, 0, []string{"line 3: the next number is 1"}},
		"a grant and a return":      {[]string{"2", "3"}, 0, []string{"line 3: the next number is 2"}},
		"grants before and after":   {[]string{"5", "8"}, 0, []string{"line 6: the next number is 4", "line 8: the next number is 8"}},
		"grants and a later return": {[]string{"4", "5", "7"}, 0, []string{"line 5: the next number is 3", "line 6: no unit is free"}},
	} {
		t.Run(name, func(t *testing.T) {
			report, wrong := verify(t, lines(c.missing...))
			require.EqualValues(t, c.inversions, report.Inversions)
			require.Len(t, wrong, len(c.want), "%v", wrong)
			for i, w := range c.want {
				require.Contains(t, wrong[i], w)
			}
		})
	}
	report, _ := verify(t, `{"epoch":0,"type":"opened","units":3}
{"epoch":0,"type":"granted","sequence":2,"unit":1}
{"epoch":0,"type":"refused","from":3,"to":4,"soldOut":2,"duplicate":0,"notStarted":0,"closed":0}
`)
	require.EqualValues(t, 2, report.Inversions, "one unit was free even if the missing decision was a grant")
}

func TestFold_NamesViolatedRuleAndContinues(t *testing.T) {
	const opened = `{"epoch":1,"type":"opened","units":2}` + "\n"
	for name, c := range map[string]struct{ log, want string }{
		"no unit":        {`{"epoch":0,"type":"granted","sequence":1,"unit":1}`, "line 1: no unit is free"},
		"unit out":       {opened + `{"epoch":1,"type":"granted","sequence":10000000001,"unit":1}` + "\n" + `{"epoch":1,"type":"granted","sequence":10000000002,"unit":1}`, "line 3: the unit is granted already"},
		"returned twice": {opened + strings.Repeat(`{"epoch":1,"type":"returned","unit":1,"reason":"WITHDRAWN"}`+"\n", 2), "line 3: a unit that is free is returned again"},
		"not from one":   {opened + `{"epoch":1,"type":"granted","sequence":10000000002,"unit":1}` + "\n" + `{"epoch":1,"type":"granted","sequence":10000000003,"unit":2}`, "line 2: the next number is 10000000001"},
		"other epoch":    {opened + `{"epoch":1,"type":"granted","sequence":1,"unit":1}`, "line 2: the next number is 10000000001"},
		"epoch falls":    {opened + `{"epoch":0,"type":"opened","units":1}`, "line 2: the epoch is lower"},
		"sum":            {`{"epoch":0,"type":"refused","from":1,"to":3,"soldOut":2,"duplicate":0,"notStarted":0,"closed":0}`, "line 1: the counts sum to 2, the numbers to 3"},
		"empty run":      {`{"epoch":0,"type":"refused","from":1,"to":1,"soldOut":1,"duplicate":0,"notStarted":0,"closed":0}` + "\n" + `{"epoch":0,"type":"refused","from":2,"to":1,"soldOut":0,"duplicate":0,"notStarted":0,"closed":0}`, "line 2: a run ends before it begins"},
		"no line at all": {"{}", "line 1: epoch: missing"},
	} {
		t.Run(name, func(t *testing.T) {
			_, wrong := verify(t, c.log)
			require.Len(t, wrong, 1, "%v", wrong)
			require.Contains(t, wrong[0], c.want)
		})
	}
}

func TestFold_With(t *testing.T) {
	fold := fairness.NewFold()
	for l := range strings.Lines(rush) {
		line, err := fairness.ParseLine([]byte(l))
		require.NoError(t, err)
		require.NoError(t, fold.Add(line))
	}
	before := fold.Report()
	for _, n := range []int64{1, 5} {
		report := fold.With(fairness.Line{Epoch: 2, Type: fairness.Refused, From: 20000000005, To: 20000000004 + n, Refused: fairness.Counts{SoldOut: n}})
		require.Equal(t, before.Decided+n, report.Decided)
		require.Equal(t, 20000000004+n, *report.LastSequence)
		require.Zero(t, report.Breaks)
	}
	report := fold.With(fairness.Line{Epoch: 3, Type: fairness.Refused, From: 30000000001, To: 30000000001, Refused: fairness.Counts{Closed: 1}})
	require.EqualValues(t, 3, report.Epochs)
	require.Equal(t, before, fold.Report())
	require.NoError(t, fold.Add(fairness.Line{Epoch: 2, Type: fairness.Returned, Unit: 2, Reason: fairness.Withdrawn}))
	require.NoError(t, fold.Add(fairness.Line{Epoch: 2, Type: fairness.Granted, Sequence: 20000000005, Unit: 2}), "the look left the fold as it was")
}
