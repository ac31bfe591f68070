package arrival

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestInversions(t *testing.T) {
	for name, c := range map[string]struct {
		grants []Grant
		want   [][2]int64
	}{
		"in order":                    {grants: []Grant{{1, 2, 1}, {3, 4, 2}}},
		"at the same time":            {grants: []Grant{{1, 5, 2}, {2, 4, 1}}},
		"sent as another is answered": {grants: []Grant{{1, 3, 2}, {3, 4, 1}}},
		"after a higher number":       {grants: []Grant{{4, 5, 1}, {1, 3, 2}}, want: [][2]int64{{1, 2}}},
	} {
		t.Run(name, func(t *testing.T) {
			var found [][2]int64
			Inversions(c.grants, func(sequence, higher int64) { found = append(found, [2]int64{sequence, higher}) })
			assert.Equal(t, c.want, found)
		})
	}
}
