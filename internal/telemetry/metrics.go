package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Namespace is the first part of the names of all metrics of this project.
const Namespace = "dopamine"

// DurationBuckets, in seconds, go from a refusal by the gate to a request that hits
// the server's timeouts; 0.1, 0.25 and 0.5 are limits that the figures name.
var DurationBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// SizeBuckets are for batches: powers of two up to what one batch may hold.
var SizeBuckets = prometheus.ExponentialBuckets(1, 2, 11)

// Reasons for which a callback is refused, as counted and logged.
const (
	RefusedSignature = "signature"
	RefusedTimestamp = "timestamp"
)

// NewRegistry returns a registry with the metrics of the build, the Go runtime and the
// process.
func NewRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registerBuild(r)
	return r
}
