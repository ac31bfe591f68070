package status

import (
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Number is a cell that stands at the right.
type Number string

// lastLeast is how narrow the last column may become.
const lastLeast = 24

// Grid is a table that is at most width columns wide where its last column can
// be wrapped to that; the last column takes what the others leave.
func Grid(width int, header []string, rows [][]any) string {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.Style().Options.DrawBorder = false
	t.Style().Format.Header = text.FormatDefault
	t.Style().Size.WidthMax = width
	head, last := table.Row{}, len(header)-1
	others := 3 * last // what stands between the cells
	columns := make([]table.ColumnConfig, len(header))
	for i, name := range header {
		head = append(head, name)
		widest := text.RuneWidthWithoutEscSequences(name)
		columns[i].Number = i + 1
		for _, row := range rows {
			widest = max(widest, text.RuneWidthWithoutEscSequences(fmt.Sprint(row[i])))
			if _, number := row[i].(Number); number {
				columns[i].Align, columns[i].AlignHeader = text.AlignRight, text.AlignRight
			}
		}
		if i < last {
			others += widest
		}
	}
	columns[last].WidthMax = max(lastLeast, width-others-2)
	columns[last].WidthMaxEnforcer = text.WrapSoft
	t.AppendHeader(head)
	for _, row := range rows {
		t.AppendRow(row)
	}
	t.SetColumnConfigs(columns)
	return t.Render()
}
