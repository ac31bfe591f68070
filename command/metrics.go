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
	m := &metrics{
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: telemetry.Namespace, Name: "commands_total",
			Help: "Commands executed, by name and outcome: ok or the problem's slug.",
		}, []string{"command", "outcome"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: telemetry.Namespace, Name: "command_conflicts_total",
			Help: "Commands that were decided again because another append came first.",
		}, []string{"command"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: telemetry.Namespace, Name: "command_duration_seconds",
			Help: "How long commands took, refused ones included.", Buckets: telemetry.DurationBuckets,
		}, []string{"command"}),
		again: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: telemetry.Namespace, Name: "acquire_again_total",
			Help: "Retries of the gate by acquire requests, by reason.",
		}, []string{"reason"}),
	}
	steps := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: telemetry.Namespace, Name: "command_step_duration_seconds",
		Help: "How long the steps of commands took: gate, append, sync of the gate (feed).", Buckets: telemetry.DurationBuckets,
	}, []string{"step"})
	m.gate, m.append, m.feed = steps.WithLabelValues("gate"), steps.WithLabelValues("append"), steps.WithLabelValues("feed")
	r.MustRegister(m.commands, m.retries, m.seconds, m.again, steps)
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
