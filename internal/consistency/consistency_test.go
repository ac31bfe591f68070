package consistency_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dopaminestore/dopamine/internal/consistency"
)

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := consistency.ProductPosition{
			Product:  uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "product")),
			Position: rapid.Int64Min(1).Draw(t, "place"),

			Incarnation: rapid.SampledFrom([]int64{1, 2, 7, 1<<32 - 1}).Draw(t, "incarnation"),
		}
		consistency.SetIncarnation(want.Incarnation)
		defer consistency.SetIncarnation(1)
		token := consistency.Encode(want.Product, want.Position)
		got, err := consistency.Parse(token)
		require.NoError(t, err)
		require.Equal(t, want, got)

		// One changed character makes it something else.
		i := rapid.IntRange(0, len(token)-1).Draw(t, "at")
		c := rapid.SampledFrom([]byte("ABCxyz019-_+/=. ")).Draw(t, "char")
		if token[i] != c {
			_, err = consistency.Parse(token[:i] + string(c) + token[i+1:])
			require.ErrorIs(t, err, consistency.ErrToken)
		}
	})
}

func TestNoToken(t *testing.T) {
	for _, s := range []string{"", "1", "abc", "-1", strings.Repeat("A", 39), consistency.Encode(uuid.New(), 0), consistency.Encode(uuid.New(), -4)} {
		_, err := consistency.Parse(s)
		require.ErrorIs(t, err, consistency.ErrToken, s)
	}
}

func TestList(t *testing.T) {
	a, b := consistency.Encode(uuid.New(), 1), consistency.Encode(uuid.New(), 2)
	list, err := consistency.ParseList(a + ", " + b)
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.EqualValues(t, 2, list[1].Position)

	for _, bad := range []string{"", ",", a + ",", a + ",x", a + " " + b} {
		_, err := consistency.ParseList(bad)
		require.ErrorIs(t, err, consistency.ErrToken, bad)
	}
	_, err = consistency.ParseList(strings.Repeat(a+",", 99) + a)
	require.NoError(t, err)
	_, err = consistency.ParseList(strings.Repeat(a+",", 100) + a)
	require.ErrorIs(t, err, consistency.ErrTooMany)
}
