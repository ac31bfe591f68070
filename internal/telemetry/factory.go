package telemetry

import "github.com/prometheus/client_golang/prometheus"

// Metrics creates the metrics of one subsystem, named dopamine_<subsystem>_<name>, and registers
// them.
type Metrics struct {
	subsystem  string
	registerer prometheus.Registerer
}

// NewMetrics returns a factory that registers with r. If r is nil, metrics are created and not
// registered.
func NewMetrics(r prometheus.Registerer, subsystem string) Metrics { return Metrics{subsystem, r} }

// Counter creates a counter.
func (m Metrics) Counter(name, help string) prometheus.Counter {
	return registered(m, prometheus.NewCounter(prometheus.CounterOpts(m.opts(name, help))))
}

// Counters creates a counter for each value of the labels.
func (m Metrics) Counters(name, help string, labels ...string) *prometheus.CounterVec {
	return registered(m, prometheus.NewCounterVec(prometheus.CounterOpts(m.opts(name, help)), labels))
}

// Gauge creates a gauge.
func (m Metrics) Gauge(name, help string) prometheus.Gauge {
	return registered(m, prometheus.NewGauge(prometheus.GaugeOpts(m.opts(name, help))))
}

// Gauges creates a gauge for each value of the labels.
func (m Metrics) Gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	return registered(m, prometheus.NewGaugeVec(prometheus.GaugeOpts(m.opts(name, help)), labels))
}

// Histogram creates a histogram.
func (m Metrics) Histogram(name, help string, buckets []float64) prometheus.Histogram {
	return registered(m, prometheus.NewHistogram(m.histogramOpts(name, help, buckets)))
}

// Histograms creates a histogram for each value of the labels.
func (m Metrics) Histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return registered(m, prometheus.NewHistogramVec(m.histogramOpts(name, help, buckets), labels))
}

func (m Metrics) opts(name, help string) prometheus.Opts {
	return prometheus.Opts{Namespace: Namespace, Subsystem: m.subsystem, Name: name, Help: help}
}

func (m Metrics) histogramOpts(name, help string, buckets []float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{Namespace: Namespace, Subsystem: m.subsystem, Name: name, Help: help, Buckets: buckets}
}

func registered[C prometheus.Collector](m Metrics, c C) C {
	if m.registerer != nil {
		m.registerer.MustRegister(c)
	}
	return c
}
