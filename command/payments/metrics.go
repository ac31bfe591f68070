package payments

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/internal/telemetry"
)

type metrics struct {
	outcomes     *prometheus.CounterVec
	leftToWorker prometheus.Counter
	refunds      *prometheus.CounterVec
	credentials  prometheus.Counter
	attention    *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: telemetry.Namespace, Name: "payment_outcomes_total",
			Help: "Outcomes that were reported of payments, by source (callback, queried, timeout) and what they led to.",
		}, []string{"source", "outcome"}),
		leftToWorker: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: telemetry.Namespace, Name: "payments_left_to_worker_total",
			Help: "Payments that were not posted to the gateway at once because all background calls were in use.",
		}),
		refunds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: telemetry.Namespace, Name: "refunds_total",
			Help: "Steps of refunds at the gateway, by outcome: completed, pending, failed, unknown.",
		}, []string{"outcome"}),
		credentials: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: telemetry.Namespace, Name: "gateway_credentials_refused_total",
			Help: "Calls that the gateway refused with 401 or 403: our credentials are wrong.",
		}),
		attention: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: telemetry.Namespace, Name: "money_attention",
			Help: "Items of payments that wait for an operator, by cause.",
		}, []string{"cause"}),
	}
	for _, cause := range causes {
		m.attention.WithLabelValues(string(cause)).Set(0)
	}
	r.MustRegister(m.outcomes, m.leftToWorker, m.refunds, m.credentials, m.attention)
	return m
}

var causes = []domain.AttentionCause{
	domain.CauseRefundFailed, domain.CauseRefundStuck, domain.CauseOutcomeUnknown,
	domain.CauseContradicted, domain.CauseDisputed, domain.CauseReversed,
}
