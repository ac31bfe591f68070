package position_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dopaminestore/dopamine/internal/position"
)

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := position.Position{
			Product: uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "product")),
			Place:   rapid.Int64Min(1).Draw(t, "place"),

			Incarnation: rapid.SampledFrom([]int64{1, 2, 7, 1<<32 - 1}).Draw(t, "incarnation"),
		}
		position.SetIncarnation(want.Incarnation)
		defer position.SetIncarnation(1)
		token := position.Encode(want.Product, want.Place)
		got, err := position.Parse(token)
		require.NoError(t, err)
		require.Equal(t, want, got)

		// One changed character makes it something else.
		i := rapid.IntRange(0, len(token)-1).Draw(t, "at")
		c := rapid.SampledFrom([]byte("ABCxyz019-_+/=. ")).Draw(t, "char")
		if token[i] != c {
			_, err = position.Parse(token[:i] + string(c) + token[i+1:])
			require.ErrorIs(t, err, position.ErrToken)
		}
	})
}

func TestNoToken(t *testing.T) {
	for _, s := range []string{"", "1", "abc", "-1", strings.Repeat("A", 39), position.Encode(uuid.New(), 0), position.Encode(uuid.New(), -4)} {
		_, err := position.Parse(s)
		require.ErrorIs(t, err, position.ErrToken, s)
	}
}

func TestList(t *testing.T) {
	a, b := position.Encode(uuid.New(), 1), position.Encode(uuid.New(), 2)
	list, err := position.ParseList(a + ", " + b)
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.EqualValues(t, 2, list[1].Place)

	for _, bad := range []string{"", ",", a + ",", a + ",x", a + " " + b} {
		_, err := position.ParseList(bad)
		require.ErrorIs(t, err, position.ErrToken, bad)
	}
	_, err = position.ParseList(strings.Repeat(a+",", 99) + a)
	require.NoError(t, err)
	_, err = position.ParseList(strings.Repeat(a+",", 100) + a)
	require.ErrorIs(t, err, position.ErrTooMany)
}
