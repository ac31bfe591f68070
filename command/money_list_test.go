package command

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/attention"
)

// A page of the list begins after an item's key, which must therefore stay the same.
func TestMoneyList_KeyOfAnItemStaysIfOthersAreResolved(t *testing.T) {
	s, n := oneNode(t)
	_, _, id := s.bought(t, n, s.product(t, n, 1))
	list := func() []attention.Item {
		items, err := attention.List(t.Context(), s.pool, nil, 10)
		require.NoError(t, err)
		return items
	}
	for _, dispute := range []string{"d1", "d2"} {
		require.Equal(t, 204, n.callback(t, uuid.NewString(), report("payment.disputed", id, `,"disputeId":"`+dispute+`"`)).status)
	}
	before := list()
	require.Len(t, before, 2)
	require.Equal(t, 204, n.callback(t, uuid.NewString(), report("payment.dispute_closed", id, `,"disputeId":"d1","won":true`)).status)
	require.Equal(t, before[1:], list())
}
