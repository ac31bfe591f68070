package httpapi

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/internal/telemetry"
)

type metrics struct{ duration *prometheus.HistogramVec }

func newMetrics(r prometheus.Registerer) *metrics {
	return &metrics{telemetry.NewMetrics(r, "http").Histograms("request_duration_seconds",
		"Time from a request's header to the end of its response.", telemetry.DurationBuckets, "method", "route", "status")}
}

// firstStatus and statuses span what HTTP has.
const (
	firstStatus = 100
	statuses    = 500
)

// routeMetrics keeps a route's histograms by status, so that a response needs no look-up by labels.
type routeMetrics struct {
	of       *metrics
	method   string
	path     string
	byStatus [statuses]atomic.Pointer[prometheus.Observer]
}

func (m *metrics) route(method, path string) *routeMetrics {
	return &routeMetrics{of: m, method: method, path: path}
}

func (r *routeMetrics) status(code int, took time.Duration) {
	i := code - firstStatus
	if i < 0 || i >= statuses {
		return
	}
	o := r.byStatus[i].Load()
	if o == nil {
		h := r.of.duration.WithLabelValues(r.method, r.path, strconv.Itoa(code))
		o = &h
		r.byStatus[i].Store(o)
	}
	(*o).Observe(took.Seconds())
}
