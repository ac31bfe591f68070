package command

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/internal/problem"
	"github.com/dopaminestore/dopamine/internal/telemetry"
)

// metrics are those of the command API; HTTP, gate and store have their own.
type metrics struct {
	commands *prometheus.CounterVec
	retries  *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	gate     prometheus.Observer
	append   prometheus.Observer
	feed     prometheus.Observer
	again    *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	f := telemetry.NewMetrics(r, "")
	m := &metrics{
		commands: f.Counters("commands_total", "Commands executed, by name and outcome: ok or the problem's slug.", "command", "outcome"),
		retries:  f.Counters("command_conflicts_total", "Commands that were decided again because another append came first.", "command"),
		seconds:  f.Histograms("command_duration_seconds", "How long commands took, refused ones included.", telemetry.DurationBuckets, "command"),
		again:    f.Counters("acquire_again_total", "Retries of the gate by acquire requests, by reason.", "reason"),
	}
	steps := f.Histograms("command_step_duration_seconds", "How long the steps of commands took: gate, append, sync of the gate (feed).", telemetry.DurationBuckets, "step")
	m.gate, m.append, m.feed = steps.WithLabelValues("gate"), steps.WithLabelValues("append"), steps.WithLabelValues("feed")
	return m
}

// commandMetrics are those of one command, looked up once, because a rush counts often.
type commandMetrics struct {
	ok      prometheus.Counter
	refused map[problem.Slug]prometheus.Counter
	retries prometheus.Counter
	seconds prometheus.Observer
}

func (m *metrics) command(name string) *commandMetrics {
	c := &commandMetrics{
		ok:      m.commands.WithLabelValues(name, "ok"),
		refused: map[problem.Slug]prometheus.Counter{},
		retries: m.retries.WithLabelValues(name),
		seconds: m.seconds.WithLabelValues(name),
	}
	for _, slug := range problem.Slugs() {
		c.refused[slug] = m.commands.WithLabelValues(name, string(slug))
	}
	return c
}

// done counts an outcome and returns the error that a span records as a
// failure: refusals are none.
func (c *commandMetrics) done(err error, took time.Duration) error {
	c.seconds.Observe(took.Seconds())
	if err == nil {
		c.ok.Inc()
		return nil
	}
	p := problem.From(err)
	c.refused[p.Slug()].Inc()
	if p.Status() < http.StatusInternalServerError {
		return nil
	}
	return err
}

func observeSince(o prometheus.Observer, start time.Time) { o.Observe(time.Since(start).Seconds()) }
