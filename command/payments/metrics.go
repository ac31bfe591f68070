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
	f := telemetry.NewMetrics(r, "")
	m := &metrics{
		outcomes:     f.Counters("payment_outcomes_total", "Outcomes that were reported of payments, by source (callback, queried, timeout) and what they led to.", "source", "outcome"),
		leftToWorker: f.Counter("payments_left_to_worker_total", "Payments that were not posted to the gateway at once because all background calls were in use."),
		refunds:      f.Counters("refunds_total", "Steps of refunds at the gateway, by outcome: completed, pending, failed, unknown.", "outcome"),
		credentials:  f.Counter("gateway_credentials_refused_total", "Calls that the gateway refused with 401 or 403: our credentials are wrong."),
		attention:    f.Gauges("money_attention", "Items of payments that wait for an operator, by cause.", "cause"),
	}
	for _, cause := range causes {
		m.attention.WithLabelValues(string(cause)).Set(0)
	}
	return m
}

var causes = []domain.AttentionCause{
	domain.CauseRefundFailed, domain.CauseRefundStuck, domain.CauseOutcomeUnknown,
	domain.CauseContradicted, domain.CauseDisputed, domain.CauseReversed,
}
