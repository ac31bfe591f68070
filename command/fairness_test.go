package command

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain/fairness"
)

// requireFair folds the product's decision log (R6) and returns the report.
func (s *system) requireFair(t testing.TB, n node, product uuid.UUID) fairness.Report {
	t.Helper()
	require.NoError(t, n.gate.Ship(t.Context(), product))
	rows, err := s.pool.Query(context.Background(), `
		select epoch, type, coalesce(units, 0), coalesce(sequence, 0), coalesce(unit, 0), coalesce(reason, ''),
		       coalesce(from_number, 0), coalesce(to_number, 0),
		       coalesce(sold_out, 0), coalesce(duplicate, 0), coalesce(not_started, 0), coalesce(closed, 0)
		from gate_decisions where product_id = $1 order by epoch, line`, [16]byte(product))
	require.NoError(t, err)
	defer rows.Close()
	fold := fairness.NewFold()
	for rows.Next() {
		var l fairness.Line
		var typ, reason string
		require.NoError(t, rows.Scan(&l.Epoch, &typ, &l.Units, &l.Sequence, &l.Unit, &reason, &l.From, &l.To,
			&l.Refused.SoldOut, &l.Refused.Duplicate, &l.Refused.NotStarted, &l.Refused.Closed))
		l.Type, l.Reason = fairness.Type(typ), fairness.Reason(reason)
		require.NoError(t, fold.Add(l))
	}
	require.NoError(t, rows.Err())
	require.Zero(t, fold.Report().Inversions)
	return fold.Report()
}
