package main

import (
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// aim is the target of a figure or of its ratio to the limit. The zero value is no target.
type aim struct {
	value float64
	most  bool // at most value; otherwise at least
	ratio bool // applies to the ratio, not to the figure
	unit  string
}

func atLeast(v float64, unit string) aim { return aim{value: v, unit: unit} }
func atMost(v float64, unit string) aim  { return aim{value: v, unit: unit, most: true} }
func ratioOf(v float64) aim              { return aim{value: v, ratio: true} }
func ratioAtMost(v float64) aim          { return aim{value: v, ratio: true, most: true} }

func (a aim) String() string {
	switch {
	case a == aim{}:
		return ""
	case a.ratio && a.most:
		return fmt.Sprintf("ratio ≤ %g", a.value)
	case a.ratio:
		return fmt.Sprintf("ratio ≥ %g", a.value)
	case a.most:
		return fmt.Sprintf("≤ %s %s", number(a.value), a.unit)
	default:
		return fmt.Sprintf("≥ %s %s", number(a.value), a.unit)
	}
}

func (a aim) verdict(r row) string {
	got := r.figure
	if a.ratio {
		got = r.figure / r.limit
	}
	switch {
	case a == aim{}:
		return ""
	case math.IsNaN(got), a.most && got > a.value, !a.most && got < a.value:
		return "SHORT"
	}
	return "reached"
}

// row is one figure. A limit of 0 means none.
type row struct {
	what    string
	figure  float64
	limit   float64
	unit    string
	limitIs string
	aim     aim
}

// report gathers the rows of all sections.
type report struct{ rows []row }

func (r *report) add(rows ...row) { r.rows = append(r.rows, rows...) }

func (r *report) print(w io.Writer) {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.Style().Format.Header = text.FormatDefault
	t.SetColumnConfigs([]table.ColumnConfig{{Number: 2, Align: text.AlignRight}, {Number: 3, Align: text.AlignRight}, {Number: 5, Align: text.AlignRight}})
	t.AppendHeader(table.Row{"what", "figure", "limit", "the limit is", "ratio", "aim", ""})
	for _, x := range r.rows {
		limit, ratio := "", ""
		if x.limit != 0 {
			limit, ratio = number(x.limit)+" "+x.unit, fmt.Sprintf("%.2f", x.figure/x.limit)
		}
		t.AppendRow(table.Row{x.what, number(x.figure) + " " + x.unit, limit, x.limitIs, ratio, x.aim.String(), x.aim.verdict(x)})
	}
	t.Render()
}

// number formats three significant digits, or whole numbers if there are more.
func number(v float64) string {
	if math.Abs(v) >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// median of figures; it sorts them.
func median(v []float64) float64 { return percentile(v, 0.5) }

// percentile p (0 to 1) of figures; it sorts them. NaN of none.
func percentile(v []float64, p float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	slices.Sort(v)
	return v[min(int(p*float64(len(v))), len(v)-1)]
}
