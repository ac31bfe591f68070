//go:build failpoints

package failpoint

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestError_StrikesAtTheNthHitOnce(t *testing.T) {
	arm("gate/after-decide=error@2")
	t.Cleanup(func() { arm("") })
	require.NoError(t, Error(DecideAfter))
	require.ErrorIs(t, Error(DecideAfter), ErrInjected)
	require.NoError(t, Error(DecideAfter))
	arm("gate/after-decide=error@*")
	require.Error(t, Error(DecideAfter))
	require.Error(t, Error(DecideAfter))
	require.NoError(t, Error(DecideBefore))
}
