package streams

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dopaminestore/dopamine/tools/dbtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A decision log grew while there were no subscribers, perhaps by millions of lines: they are
// neither counted nor part of the rates.
func TestRates_SkipLinesOfAPause(t *testing.T) {
	t.Parallel()
	pool, product := dbtest.Write(t), uuid.New()
	grant := func(from, to int) {
		dbtest.Exec(t, pool, `INSERT INTO gate_decisions (product_id, epoch, line, type, sequence, unit)
			SELECT $1, 0, n, 'granted', n, n FROM generate_series($2::int, $3::int) n`, product, from, to)
	}
	rates := newRates(pool)
	count := func(lastCount time.Time) counted {
		if end := rates.known[product]; end != nil {
			end.counts[len(end.counts)-1].at = lastCount
		}
		require.NoError(t, rates.count(t.Context(), []productStats{{ID: product}}))
		end := rates.known[product]
		return end.counts[len(end.counts)-1]
	}
	grant(1, 3)
	require.Zero(t, count(time.Time{}).granted, "counting starts")
	grant(4, 10)
	require.EqualValues(t, 7, count(time.Now()).granted)

	grant(11, 1010)
	require.Zero(t, count(time.Now().Add(-3*ratesWindow)).granted, "counting starts again")
	granted, refused := rates.known[product].perSecond()
	require.Equal(t, []float64{0, 0}, []float64{granted, refused})

	grant(1011, 1015)
	require.EqualValues(t, 5, count(time.Now()).granted)
}
