package redis

import (
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain/fairness"
	"github.com/dopaminestore/dopamine/internal/testkit"
)

// The last epoch's numbers come close to 2^53: Lua's own formatting would round
// them.
func TestNumbersUpToTheLastOneStayExact(t *testing.T) {
	for name, url := range map[string]string{"redis-server": testkit.Redis(t), "miniredis": testkit.MiniRedis(t).URL()} {
		t.Run(name, func(t *testing.T) {
			opt, err := goredis.ParseURL(url)
			require.NoError(t, err)
			c := goredis.NewClient(opt)
			defer func() { _ = c.Close() }()
			const last = 1<<53 - 1
			epoch, counter := int64(last/fairness.NumbersPerEpoch), int64(last%fairness.NumbersPerEpoch)
			product := uuid.New()
			keys := gateKeys(product)
			holders, queue := buildKeys(product, epoch)
			open := openScript.Eval(t.Context(), c, append(keys, holders, queue),
				"stamp", epoch, 0, 2, 1, 0, 0, 0, "0", "0")
			require.NoError(t, open.Err())
			require.NoError(t, c.HSet(t.Context(), keys[0],
				"counter", counter-2, "lease", time.Now().Add(time.Minute).UnixMilli()).Err())

			buyers := make([]byte, 0, 96)
			for range 2 {
				buyer := uuid.New()
				buyers = append(append(buyers, buyer[:]...), make([]byte, keyHashLen)...)
			}
			reply, err := decideScript.Eval(t.Context(), c, keys, "stamp", buyers).Slice()
			require.NoError(t, err)
			require.Equal(t, []any{
				"ok", strconv.FormatInt(epoch, 10), strconv.FormatInt(counter-2, 10), "0", "GG",
				strconv.Itoa(last-1) + " 1 1", strconv.Itoa(last) + " 2 1",
			}, reply)

			// Found again by number, exactly.
			gone, err := feedScript.Eval(t.Context(), c, keys, "stamp", epoch, 0, 1, "", "", "", "", "W", last-1).Result()
			require.NoError(t, err)
			require.Equal(t, "ok", gone)
			pending, err := c.ZRangeWithScores(t.Context(), keys[3], 0, -1).Result()
			require.NoError(t, err)
			require.Len(t, pending, 1)
			require.EqualValues(t, last, int64(pending[0].Score))
			lines, err := c.LRange(t.Context(), keys[4], -1, -1).Result()
			require.NoError(t, err)
			line, err := parseLine(lines[0])
			require.NoError(t, err)
			require.Equal(t, NumberedLine{Number: 4, Line: fairness.Line{
				Epoch: epoch, Type: fairness.Returned, Unit: 1, Reason: fairness.Withdrawn}}, line)
		})
	}
}

func TestLinesThatCannotBeReadAreAnError(t *testing.T) {
	for _, text := range []string{"", "1 2", "1 2 o", "1 2 o x", "1 2 g 3", "1 2 q 3", "1 2 x 1 2 3 4 5", "a 2 o 3"} {
		_, err := parseLine(text)
		require.ErrorIs(t, err, errAnswer, text)
	}
	line, err := parseLine("2 7 x 3 9 4 1 1 1")
	require.NoError(t, err)
	require.Equal(t, NumberedLine{Number: 7, Line: fairness.Line{
		Epoch: 2, Type: fairness.Refused, From: 20_000_000_003, To: 20_000_000_009,
		Refused: fairness.Counts{SoldOut: 4, Duplicate: 1, NotStarted: 1, Closed: 1},
	}}, line)
}

func TestUnknownProductsTakeBoundedMemory(t *testing.T) {
	var u unknown
	for range 2*unknownMost + 10 {
		u.add(uuid.New())
	}
	require.LessOrEqual(t, len(u.until), unknownMost)
	id := uuid.New()
	u.add(id)
	require.True(t, u.has(id))
	u.forget(id)
	require.False(t, u.has(id))
}
