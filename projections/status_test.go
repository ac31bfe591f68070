package projections_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/projections"
)

func TestReached_IsWhatAllPartitionsHaveApplied(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		head projections.Head
		at   map[int32]int64
		want int64
	}{
		{"nothing yet", projections.Head{Last: []int64{0, 0}}, nil, 0},
		{"no partition is known", projections.Head{Published: 7}, nil, 7},
		{"one is behind", projections.Head{Published: 9, Last: []int64{9, 8}}, map[int32]int64{0: 4, 1: 8}, 4},
		{"one has never had anything", projections.Head{Published: 9, Last: []int64{9, 0}}, map[int32]int64{0: 9}, 9},
		{"all have what was published", projections.Head{Published: 9, Last: []int64{9, 8}}, map[int32]int64{0: 9, 1: 8}, 9},
		{"a replay was further than the relay", projections.Head{Published: 9, Last: []int64{9, 8}}, map[int32]int64{0: 20, 1: 20}, 20},
		{"the relay has continued", projections.Head{Published: 22, Last: []int64{22, 8}}, map[int32]int64{0: 20, 1: 20}, 20},
	} {
		require.Equal(t, c.want, c.head.Reached(c.at), c.name)
	}
}
