package payments

import (
	"context"

	"github.com/dopaminestore/dopamine/internal/attention"
)

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
