package payments

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/internal/telemetry"
)

type metrics struct {
	heard        *prometheus.CounterVec
	leftToWorker prometheus.Counter
	refunds      *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		heard: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: telemetry.Namespace, Name: "payment_words_total",
			Help: "What the gateway said of payments, by the way it came (callback, asked, nobody) and what came of it.",
		}, []string{"source", "outcome"}),
		leftToWorker: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: telemetry.Namespace, Name: "payments_left_to_worker_total",
			Help: "Payments for which the gateway was not asked at once, because too much was being asked of it.",
		}),
		refunds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: telemetry.Namespace, Name: "refunds_total",
			Help: "Refunds asked of the gateway, by outcome: made, refused, failed.",
		}, []string{"outcome"}),
	}
	r.MustRegister(m.heard, m.leftToWorker, m.refunds)
	return m
}
