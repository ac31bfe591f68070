package rush

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Report is the result of a rush.
type Report struct {
	Product           uuid.UUID       `json:"productId"`
	Buyers            int             `json:"buyers"`
	Stock             int             `json:"stock"`
	Granted           int             `json:"granted"`
	Refused           int             `json:"refused"`
	Errors            int             `json:"errors"`
	Refusals          map[string]int  `json:"refusals"`           // by slug
	ErrorKinds        map[string]int  `json:"errorKinds"`         // by text
	Inversions        int64           `json:"inversions"`         // as the decision log's fold counts them
	Rules             map[string]bool `json:"rules"`              // "R1" to "R6": held, as read back from the APIs
	Broken            []string        `json:"broken"`             // observed violations of rules
	Money             *Balance        `json:"money,omitempty"`    // with payments
	Problems          []string        `json:"problems,omitempty"` // what buyers met that they should not
	Latency           Latency         `json:"latencyMs"`          // of responses in the first round
	RequestsPerSecond float64         `json:"requestsPerSecond"`
	Seconds           float64         `json:"seconds"` // duration of the first round
}

// Balance is the result of a rush with payments.
type Balance struct {
	Currency  string         `json:"currency"`
	Purchases int            `json:"purchases"` // slots that were paid
	Expired   int            `json:"expired"`   // slots that were not
	Payments  int            `json:"payments"`  // tries to pay
	Failed    int            `json:"failed"`    // of them, refunded ones included
	Taken     string         `json:"taken"`     // by the gateway, refunded or not
	Refunded  string         `json:"refunded"`
	Reversed  string         `json:"reversed"` // lost in disputes
	Kept      string         `json:"kept"`     // taken less refunded and reversed
	Disputes  int            `json:"disputes"`
	Waiting   map[string]int `json:"waiting"` // items that wait for an operator, by cause
	Asked     bool           `json:"asked"`   // the gateway was queried about each payment
}

// Latency are percentiles in milliseconds.
type Latency struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// Held reports whether every rule held.
func (r *Report) Held() bool {
	for _, held := range r.Rules {
		if !held {
			return false
		}
	}
	return len(r.Rules) > 0
}

func (r *Report) broke(rule, format string, args ...any) {
	const most = 20 // the first violations suffice
	r.Rules[rule] = false
	if len(r.Broken) < most {
		r.Broken = append(r.Broken, rule+": "+fmt.Sprintf(format, args...))
	}
}

// summarize counts the buyers' results: for each buyer the last response.
func summarize(cfg Config, p product, first round, attempts []attempt) *Report {
	r := &Report{
		Product: p.ID, Buyers: cfg.Buyers, Stock: cfg.Stock,
		Refusals: map[string]int{}, ErrorKinds: map[string]int{}, Broken: []string{},
		Rules:   map[string]bool{"R1": true, "R2": true, "R3": true, "R4": true, "R5": true, "R6": true},
		Seconds: first.took.Seconds(),
	}
	if cfg.Payments {
		r.Rules["R7"], r.Rules["R8"] = true, true
	}
	r.RequestsPerSecond = float64(first.requests) / max(first.took.Seconds(), 1e-9)
	var latencies []time.Duration
	for _, a := range first.attempts {
		if a.status != 0 && a.err == nil {
			latencies = append(latencies, a.latency)
		}
	}
	r.Latency = percentiles(latencies)

	last := make(map[int]attempt, len(attempts))
	for _, a := range attempts {
		last[a.buyer] = a
	}
	for _, a := range last {
		switch {
		case a.granted():
			r.Granted++
		case a.refused():
			r.Refused++
			r.Refusals[a.slug]++
		default:
			r.Errors++
			r.ErrorKinds[a.kind()]++
		}
	}
	return r
}

// kind returns what went wrong, without addresses, so that it can be counted.
func (a attempt) kind() string {
	switch {
	case a.err != nil && a.status == 0:
		return "no response"
	case a.err != nil:
		return fmt.Sprintf("status %d, no problem document", a.status)
	default:
		return fmt.Sprintf("status %d %s", a.status, a.slug)
	}
}

func percentiles(d []time.Duration) Latency {
	if len(d) == 0 {
		return Latency{}
	}
	slices.Sort(d)
	at := func(p float64) float64 {
		i := min(int(p*float64(len(d))), len(d)-1)
		return float64(d[i].Microseconds()) / 1000
	}
	return Latency{P50: at(0.50), P99: at(0.99), P999: at(0.999), Max: at(1)}
}

var ruleTexts = []struct{ id, text string }{
	{"R1", "never more units held than there are"},
	{"R2", "no unit lost, none counted twice"},
	{"R3", "one live slot per buyer"},
	{"R4", "every 201 is durable"},
	{"R5", "a slot ends once"},
	{"R6", "grants follow arrival"},
	{"R7", "no money lost"},
	{"R8", "every event in every view, once"},
}

// Print writes the report for a person.
func (r *Report) Print(w io.Writer) {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.SetColumnConfigs([]table.ColumnConfig{{Number: 2, Align: text.AlignRight}})
	t.AppendRow(table.Row{"buyers", r.Buyers})
	t.AppendRow(table.Row{"stock", r.Stock})
	t.AppendSeparator()
	t.AppendRow(table.Row{"granted", r.Granted})
	t.AppendRow(table.Row{"refused", r.Refused})
	for _, slug := range slices.Sorted(maps.Keys(r.Refusals)) {
		t.AppendRow(table.Row{"  " + slug, r.Refusals[slug]})
	}
	t.AppendRow(table.Row{"errors", r.Errors})
	for _, kind := range slices.Sorted(maps.Keys(r.ErrorKinds)) {
		t.AppendRow(table.Row{"  " + kind, r.ErrorKinds[kind]})
	}
	t.AppendRow(table.Row{"inversions", r.Inversions})
	t.AppendSeparator()
	t.AppendRow(table.Row{"requests/s", fmt.Sprintf("%.0f", r.RequestsPerSecond)})
	t.AppendRow(table.Row{"latency p50", fmt.Sprintf("%.1f ms", r.Latency.P50)})
	t.AppendRow(table.Row{"latency p99", fmt.Sprintf("%.1f ms", r.Latency.P99)})
	t.AppendRow(table.Row{"latency p99.9", fmt.Sprintf("%.1f ms", r.Latency.P999)})
	if m := r.Money; m != nil {
		t.AppendSeparator()
		t.AppendRow(table.Row{"purchases", m.Purchases})
		t.AppendRow(table.Row{"slots expired", m.Expired})
		t.AppendRow(table.Row{"payments", m.Payments})
		t.AppendRow(table.Row{"  failed", m.Failed})
		t.AppendRow(table.Row{"money taken", m.Taken + " " + m.Currency})
		t.AppendRow(table.Row{"money refunded", m.Refunded + " " + m.Currency})
		t.AppendRow(table.Row{"money reversed", m.Reversed + " " + m.Currency})
		t.AppendRow(table.Row{"money kept", m.Kept + " " + m.Currency})
		t.AppendRow(table.Row{"disputes", m.Disputes})
		for _, cause := range slices.Sorted(maps.Keys(m.Waiting)) {
			t.AppendRow(table.Row{"for an operator: " + cause, m.Waiting[cause]})
		}
	}
	t.AppendSeparator()
	for _, rule := range ruleTexts {
		held, known := r.Rules[rule.id]
		if !known {
			continue
		}
		word := "held"
		if !held {
			word = "BROKEN"
		}
		t.AppendRow(table.Row{rule.id + "  " + rule.text, word})
	}
	t.Render()
	for _, p := range r.Problems {
		fmt.Fprintln(w, p)
	}
	for _, b := range r.Broken {
		fmt.Fprintln(w, b)
	}
}
