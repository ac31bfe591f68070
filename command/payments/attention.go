package payments

import (
	"context"
	"time"

	"github.com/dopaminestore/dopamine/internal/attention"
)

// stuckAfter is how long a refund may have no final answer before it waits for an
// operator (see package attention).
const stuckAfter = 24 * time.Hour

// Observe sets the gauge of what waits for an operator.
func (s *Service) Observe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	counts, err := attention.Count(ctx, s.Pool)
	if err != nil {
		return err
	}
	for _, cause := range causes {
		s.metrics.attention.WithLabelValues(string(cause)).Set(float64(counts[cause]))
	}
	return nil
}
