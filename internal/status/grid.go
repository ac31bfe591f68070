package status

import (
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Number is a right-aligned cell.
type Number string

// minLast is the minimum width of the last column.
const minLast = 24

// Grid formats a table that is at most width columns wide, if the last column can be wrapped to
// that; it gets the width that the others leave.
func Grid(width int, header []string, rows [][]any) string {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.Style().Options.DrawBorder = false
	t.Style().Format.Header = text.FormatDefault
	t.Style().Size.WidthMax = width
	head, last := table.Row{}, len(header)-1
	others := 3 * last // the separators between the cells
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
	columns[last].WidthMax = max(minLast, width-others-2)
	columns[last].WidthMaxEnforcer = text.WrapSoft
	t.AppendHeader(head)
	for _, row := range rows {
		t.AppendRow(row)
	}
	t.SetColumnConfigs(columns)
	return t.Render()
}
