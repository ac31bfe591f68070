package status

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
)

// maxRows is the maximum number of rows of a table; --json has all.
const maxRows = 15

// Table writes the report for a terminal that is width columns wide.
func Table(w io.Writer, r Report, width int) error {
	p := page{width: width}
	head, relay := "unknown", "unknown"
	if r.Store != nil {
		head = count(r.Store.Head)
		if r.Store.Identity != "" {
			head += ", store " + r.Store.Identity
		}
	}
	if r.Relay != nil {
		relay = fmt.Sprintf("%s, %s behind", count(r.Relay.Position), count(r.Relay.Lag))
		if r.Relay.SavedAt != nil {
			relay += ", moved " + since(r.At, *r.Relay.SavedAt)
		}
	}
	p.line("event store: head %s", head)
	p.line("relay:       %s", relay)
	if r.Processes != nil {
		workers := count(int64(r.Processes.Workers))
		if r.Processes.Workers == 0 {
			workers += " (NONE RUNS)"
		}
		if r.Processes.Silent > 0 {
			workers += fmt.Sprintf(", %s silent processes", count(int64(r.Processes.Silent)))
		}
		p.line("workers:     %s", workers)
	}
	if r.Relay != nil && r.Relay.Blocked != nil {
		p.line("relay BLOCKED since %s: %s", since(r.At, r.Relay.Blocked.Since), r.Relay.Blocked.Reason)
	}
	if r.ProjectorsBlocked != nil {
		p.line("projectors BLOCKED since %s: %s", since(r.At, r.ProjectorsBlocked.Since), r.ProjectorsBlocked.Reason)
	}
	p.projections(r)
	p.replays(r)
	p.parked(r)
	p.gates(r)
	p.money(r)
	for _, u := range r.Unreachable {
		p.line("not reached: %s: %s", u.Part, u.Error)
	}
	_, err := io.WriteString(w, p.String())
	return err
}

type page struct {
	strings.Builder
	width int
}

func (p *page) line(format string, args ...any) {
	p.WriteString(text.WrapSoft(fmt.Sprintf(format, args...), p.width))
	p.WriteByte('\n')
}

// table writes rows, up to maxRows of them.
func (p *page) table(header []string, rows [][]any, what string) {
	if len(rows) == 0 {
		return
	}
	p.WriteByte('\n')
	p.WriteString(Grid(p.width, header, rows[:min(len(rows), maxRows)]))
	p.WriteByte('\n')
	if more := len(rows) - maxRows; more > 0 {
		p.line("and %d more %s (--json has all)", more, what)
	}
}

func (p *page) projections(r Report) {
	var rows [][]any
	for _, m := range r.Projections {
		var others []string
		for _, g := range m.Generations {
			if g.State != "live" {
				others = append(others, fmt.Sprintf("%d %s", g.Number, g.State))
			}
		}
		generation := strconv.Itoa(m.Generation)
		if len(others) > 0 {
			generation += " (" + strings.Join(others, ", ") + ")"
		}
		rows = append(rows, []any{m.Name, known(m.Position), known(m.Lag), Number(count(m.Parked)), Number(count(m.Skipped)), generation})
	}
	p.table([]string{"projection", "position", "lag", "parked", "skipped", "generation"}, rows, "projections")
}

func known(n *int64) Number {
	if n == nil {
		return "?"
	}
	return Number(count(*n))
}

func (p *page) replays(r Report) {
	var rows [][]any
	for _, m := range r.Replays {
		done := "–"
		if m.Target > 0 {
			done = fmt.Sprintf("%.0f%%", 100*float64(m.Position)/float64(max(m.Target, m.Position)))
		}
		eta := "–"
		if m.ETASeconds != nil {
			eta = time.Duration(*m.ETASeconds * float64(time.Second)).Round(time.Second).String()
		}
		phase := m.Phase
		switch {
		case m.Error != "":
			phase += ": " + m.Error
		case !m.Running && phase != "interrupted":
			phase += " (killed)"
		}
		rows = append(rows, []any{m.Projection + " " + strconv.Itoa(m.Generation), Number(done), Number(count(m.Events)), Number(count(int64(m.EventsPerSecond))), Number(eta), phase})
	}
	p.table([]string{"replay", "done", "events", "events/s", "ETA", "phase"}, rows, "replays")
}

func (p *page) parked(r Report) {
	var rows [][]any
	for _, m := range r.Parked {
		rows = append(rows, []any{m.Projection, m.Key.String(), Number(count(m.Events)), m.Type + " at " + count(m.Position) + ": " + m.Error})
	}
	p.table([]string{"parked in", "key", "events", "first"}, rows, "parked keys")
}

func (p *page) gates(r Report) {
	sorted := slices.Clone(r.Gates)
	slices.SortStableFunc(sorted, func(a, b Gate) int { return cmp.Compare(interest(b), interest(a)) })
	var rows [][]any
	for _, g := range sorted {
		state := g.State
		if g.Difference != "" {
			state = "DIFFERS: " + g.Difference
		}
		epoch := strconv.FormatInt(g.Epoch, 10)
		if g.Epoch < 0 {
			epoch = "–"
		}
		rows = append(rows, []any{g.Product.String(), Number(epoch), Number(count(int64(g.Free))), Number(count(int64(g.Pending))),
			Number(count(int64(g.Held))), Number(count(int64(g.Claims))), state})
	}
	p.table([]string{"gate of product", "epoch", "free", "pending", "held", "claims", "state"}, rows, "gates")
}

// interest ranks gates by how important they are to see first.
func interest(g Gate) int {
	switch {
	case g.Difference != "":
		return 2
	case g.State == "open":
		return 1
	}
	return 0
}

func (p *page) money(r Report) {
	var rows [][]any
	for _, m := range r.Money {
		rows = append(rows, []any{m.Payment.String(), m.Cause, since(r.At, m.Since), m.Code})
	}
	p.table([]string{"payment waits for operator", "cause", "since", "code"}, rows, "payments")
}

// count writes a number with its thousands apart.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func since(now, then time.Time) string {
	d := now.Sub(then)
	if d < time.Second {
		return "just now"
	}
	return d.Round(time.Second).String() + " ago"
}
