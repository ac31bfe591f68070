package redis

import (
	"context"
	"io"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/domain/fairness"
	"github.com/dopaminestore/dopamine/redis/topology"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// The last epoch's numbers come close to 2^53: Lua's own formatting would round
// them.
func TestScripts_KeepLargestNumbersExact(t *testing.T) {
	for name, url := range map[string]string{"redis-server": testkit.Redis(t), "miniredis": testkit.MiniRedis(t).URL()} {
		t.Run(name, func(t *testing.T) {
			opt, err := goredis.ParseURL(url)
			require.NoError(t, err)
			c := goredis.NewClient(opt)
			defer func() { _ = c.Close() }()
			const last = 1<<53 - 1
			epoch, counter := int64(last/fairness.NumbersPerEpoch), int64(last%fairness.NumbersPerEpoch)
			product := uuid.New()
			keys := gateKeys("", product)
			build := newBuildKeys("", product)
			require.NoError(t, c.Set(t.Context(), build.token, 1, time.Minute).Err())
			open := openScript.Eval(t.Context(), c, append(keys, build.holders, build.queue, build.token),
				"here", epoch, 0, 2, 1, 0, 0, 0, "0", "0", "")
			require.NoError(t, open.Err())
			require.NoError(t, c.HSet(t.Context(), keys[0],
				"counter", counter-2, "lease", time.Now().Add(time.Minute).UnixMilli()).Err())

			buyers := make([]byte, 0, 96)
			for range 2 {
				buyer := uuid.New()
				buyers = append(append(buyers, buyer[:]...), make([]byte, keyHashLen)...)
			}
			reply, err := decideScript.Eval(t.Context(), c, keys, "here", buyers).Slice()
			require.NoError(t, err)
			require.Equal(t, []any{"ok", strconv.FormatInt(epoch, 10)}, reply[:2])
			require.Equal(t, []any{
				strconv.FormatInt(counter-2, 10), "0", "GG", strconv.Itoa(last-1) + " 1 1", strconv.Itoa(last) + " 2 1",
			}, reply[7:])

			// It is found by its exact number.
			gone, err := syncScript.Eval(t.Context(), c, keys, "here", epoch, 0, 1, "", "", "", "", "", "W", last-1).Result()
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

// A node that is alone must renew its lease whenever it is due, however long the reply of the
// decision took that has the gate's state: otherwise a node that sees another master takes over.
func TestState_RenewalDue(t *testing.T) {
	for name, c := range map[string]struct {
		left, ago time.Duration
		due       bool
	}{
		"another node has just renewed it":               {LeaseTime, 0, false},
		"it was renewed a second ago":                    {LeaseTime - renewInterval, 0, true},
		"a second ago, and the reply took long":          {LeaseTime - renewInterval + 400*time.Millisecond, 500 * time.Millisecond, true},
		"another node renewed it, and a reply took long": {LeaseTime, 500 * time.Millisecond, false},
		"the gate's clock was set back":                  {LeaseTime + time.Minute, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := State{LeaseLeft: c.left, on: callTarget{sent: time.Now().Add(-c.ago)}}
			require.Equal(t, c.due, s.renewalDue())
		})
	}
}

func TestParseLine_RejectsInvalidLines(t *testing.T) {
	for _, text := range []string{"", "1 2", "1 2 o", "1 2 o x", "1 2 g 3", "1 2 q 3", "1 2 x 1 2 3 4 5", "a 2 o 3"} {
		_, err := parseLine(text)
		require.ErrorIs(t, err, errReply, text)
	}
	line, err := parseLine("2 7 x 3 9 4 1 1 1")
	require.NoError(t, err)
	require.Equal(t, NumberedLine{Number: 7, Line: fairness.Line{
		Epoch: 2, Type: fairness.Refused, From: 20_000_000_003, To: 20_000_000_009,
		Refused: fairness.Counts{SoldOut: 4, Duplicate: 1, NotStarted: 1, Closed: 1},
	}}, line)
}

func TestUnknownProducts_AreBounded(t *testing.T) {
	var u unknown
	for range 2*maxUnknown + 10 {
		u.add(uuid.New())
	}
	require.LessOrEqual(t, len(u.until), maxUnknown)
	id := uuid.New()
	u.add(id)
	require.True(t, u.has(id))
	u.forget(id)
	require.False(t, u.has(id))
}

// silentStore is a Postgres that is unavailable.
type silentStore struct{ Store }

func (silentStore) Rows(context.Context, []uuid.UUID) ([]*GateRow, error) {
	return nil, io.ErrUnexpectedEOF
}

// While Postgres is unavailable, unknown ids cannot be told from existing ones. Random ids
// must not be kept then.
func TestForget_DropsUnknownIDsWhilePostgresIsDown(t *testing.T) {
	g, err := Open(t.Context(), []string{testkit.Redis(t)}, silentStore{}, Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, g.Close()) }()
	for range 100 {
		_, err := g.Decide(t.Context(), Request{Product: uuid.New(), Buyer: uuid.New()})
		require.ErrorIs(t, err, ErrUnavailable)
	}
	require.Eventually(t, func() bool {
		kept := 0
		g.products.Range(func(any, any) bool { kept++; return true })
		return kept == 0
	}, 5*time.Second, time.Millisecond)
}

// endedStore has one product, whose sale has ended.
type endedStore struct {
	Store
	row GateRow
}

func (s *endedStore) Rows(_ context.Context, products []uuid.UUID) ([]*GateRow, error) {
	rows := make([]*GateRow, len(products))
	for i := range rows {
		rows[i] = &s.row
	}
	return rows, nil
}

func (*endedStore) Now(context.Context) (time.Time, error) { return time.Time{}, io.ErrUnexpectedEOF }

// Two reconciliations of a product at the same time would not know of each other's attempts.
func TestUnload_KeepsProductThatReconciles(t *testing.T) {
	store := &endedStore{row: GateRow{Rebuilt: NoEpoch, Ended: true, Lease: LeaseRecord{Epoch: NoEpoch, Idle: true}}}
	g, err := Open(t.Context(), []string{testkit.Redis(t)}, store, Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, g.Close()) }()
	for name, c := range map[string]struct {
		reconciling bool
		attempt     int64
		keeps       bool
	}{
		"reconciling": {true, NoEpoch, true}, "an unfinished rebuild": {false, 3, true}, "neither": {false, NoEpoch, false},
	} {
		p := g.product(uuid.New())
		p.reconciling, p.attempt.epoch = c.reconciling, c.attempt
		_, err := g.Unload(t.Context(), p.id)
		require.NoError(t, err)
		_, kept := g.products.Load(p.id)
		require.Equal(t, c.keeps, kept, name)
	}
}

// A failover after the gate's state was read: the gate that was leased is on the other master.
func TestRemove_RequiresInstanceThatWasRead(t *testing.T) {
	g, err := Open(t.Context(), []string{testkit.Redis(t)}, &endedStore{}, Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, g.Close()) }()
	c, product := sharedClient(t), uuid.New()
	_, keys := openGate(t, c, product, 3, 1)
	require.ErrorIs(t, g.remove(t.Context(), g.product(product), &GateRow{Epoch: 3}, "another"), topology.ErrMoved)
	exists, err := c.Exists(t.Context(), keys[0]).Result()
	require.NoError(t, err)
	require.EqualValues(t, 1, exists)
}

// openGate opens a gate of the epoch with a lease by running the script directly.
func openGate(t *testing.T, c *goredis.Client, product uuid.UUID, epoch int64, units int) (reply any, keys []string) {
	keys = gateKeys("", product)
	build := newBuildKeys("", product)
	require.NoError(t, c.Set(t.Context(), build.token, 1, time.Minute).Err())
	answer, err := openScript.Eval(t.Context(), c, append(keys[:5:5], build.holders, build.queue, build.token),
		"here", epoch, 0, units, 1, 0, 0, 0, "0", "0", "").Slice()
	require.NoError(t, err)
	require.NoError(t, c.HSet(t.Context(), keys[0], "lease", time.Now().Add(time.Minute).UnixMilli()).Err())
	return answer[0], keys
}

func sharedClient(t *testing.T) *goredis.Client {
	opt, err := goredis.ParseURL(testkit.Redis(t))
	require.NoError(t, err)
	c := goredis.NewClient(opt)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestOpenScript_NeverReplacesSameOrLaterEpoch(t *testing.T) {
	c, product := sharedClient(t), uuid.New()
	for _, try := range []struct {
		epoch int64
		want  string
	}{{5, "ok"}, {5, "older"}, {4, "older"}, {6, "ok"}} {
		reply, keys := openGate(t, c, product, try.epoch, 1)
		require.Equal(t, try.want, reply, "epoch %d", try.epoch)
		n, err := closeScript.Eval(t.Context(), c, keys, try.epoch).Int() // an older epoch closes nothing
		require.NoError(t, err)
		require.Equal(t, 2, n)
		closed, err := c.HGet(t.Context(), keys[0], "closed").Result()
		require.NoError(t, err)
		require.Equal(t, "0", closed)
	}
}

func TestLeaseScript_RequiresOwnEpochAndProcess(t *testing.T) {
	c, product := sharedClient(t), uuid.New()
	_, keys := openGate(t, c, product, 3, 1)
	far := time.Now().Add(time.Hour).UnixMilli()
	for _, try := range []struct {
		instance string
		epoch    int64
		want     int
	}{{"here", 2, 0}, {"here", 4, 0}, {"another", 3, 0}, {"here", 3, 1}} {
		got, err := leaseScript.Eval(t.Context(), c, keys, try.instance, try.epoch, far, 2*time.Hour.Milliseconds()).Int()
		require.NoError(t, err)
		require.Equal(t, try.want, got, try)
	}
	_, err := leaseScript.Eval(t.Context(), c, keys, "here", 3, far-1000, 2*time.Hour.Milliseconds()).Int()
	require.NoError(t, err)
	lease, err := c.HGet(t.Context(), keys[0], "lease").Int64()
	require.NoError(t, err)
	require.Equal(t, far, lease, "a delayed lease does not shorten a later one")
	_, err = leaseScript.Eval(t.Context(), c, keys, "here", 3, far-1000, LeaseTime.Milliseconds()).Int()
	require.NoError(t, err)
	lease, err = c.HGet(t.Context(), keys[0], "lease").Int64()
	require.NoError(t, err)
	require.Equal(t, far-1000, lease, "a lease beyond LeaseTime is replaced")
}

func TestSyncScript_FreesByNumberOnly(t *testing.T) {
	c, product, buyer := sharedClient(t), uuid.New(), uuid.New()
	_, keys := openGate(t, c, product, 0, 1)
	_, err := decideScript.Eval(t.Context(), c, keys, "here", append(buyer[:], make([]byte, keyHashLen)...)).Result()
	require.NoError(t, err)
	position := 0
	feed := func(event ...any) (free int64) {
		args := append([]any{"here", 0, position, position + 1, "", "", "", "", ""}, event...)
		position++
		reply, err := syncScript.Eval(t.Context(), c, keys, args...).Result()
		require.NoError(t, err)
		require.Equal(t, "ok", reply)
		free, err = c.LLen(t.Context(), keys[1]).Result()
		require.NoError(t, err)
		return free
	}
	require.Zero(t, feed("E", 1, string(buyer[:]), "AUTO_EXPIRED"), "an expiry frees a slot held, not a pending grant")
	require.Zero(t, feed("W", 2), "another number")
	require.Zero(t, feed("A", 1, 1, string(buyer[:]), ""))
	require.Zero(t, feed("W", 1), "a withdrawal frees a pending grant, not a slot held")
	require.Zero(t, feed("E", 2, string(buyer[:]), "AUTO_EXPIRED"), "another number")
	require.EqualValues(t, 1, feed("E", 1, string(buyer[:]), "AUTO_EXPIRED"))
	require.EqualValues(t, 1, feed("E", 1, string(buyer[:]), "AUTO_EXPIRED"))

	// An impossible event closes the gate.
	reply, err := syncScript.Eval(t.Context(), c, keys, "here", 0, position, position+1, "", "", "", "", "",
		"A", 9, 1, string(buyer[:]), "").Result()
	require.NoError(t, err)
	require.Equal(t, "lost", reply)
	look, err := stateScript.Eval(t.Context(), c, keys, "here").Slice()
	require.NoError(t, err)
	require.Equal(t, "dead", look[0])
}

// A sync that was delayed after another one applies nothing.
func TestSyncScript_RejectsOtherPosition(t *testing.T) {
	c, product, buyer := sharedClient(t), uuid.New(), uuid.New()
	_, keys := openGate(t, c, product, 0, 1)
	_, err := decideScript.Eval(t.Context(), c, keys, "here", append(buyer[:], make([]byte, keyHashLen)...)).Result()
	require.NoError(t, err)
	for _, try := range []struct {
		from, to int
		want     string
	}{{0, 1, "ok"}, {0, 1, "moved"}, {0, 5, "moved"}, {1, 2, "ok"}} {
		reply, err := syncScript.Eval(t.Context(), c, keys, "here", 0, try.from, try.to, "", "", "", "", "").Result()
		require.NoError(t, err)
		require.Equal(t, try.want, reply, "%v", try)
	}
}

// Lines are trimmed up to their index: a delayed process does not remove lines added
// since.
func TestTrimScript_RemovesUpToIndexOnly(t *testing.T) {
	c, product := sharedClient(t), uuid.New()
	_, keys := openGate(t, c, product, 0, 2)
	for range 2 {
		buyer := uuid.New()
		_, err := leaseScript.Eval(t.Context(), c, keys, "here", 0, time.Now().Add(time.Hour).UnixMilli(), 2*time.Hour.Milliseconds()).Result()
		require.NoError(t, err)
		_, err = decideScript.Eval(t.Context(), c, keys, "here", append(buyer[:], make([]byte, keyHashLen)...)).Result()
		require.NoError(t, err)
	}
	for _, try := range []struct {
		born        string
		place, gone int
	}{{"7", 2, 0}, {"0", 2, 2}, {"0", 2, 0}, {"0", 3, 1}} { // opened, granted, granted
		gone, err := trimScript.Eval(t.Context(), c, keys, try.born, try.place).Int()
		require.NoError(t, err)
		require.Equal(t, try.gone, gone, "%v", try)
	}
}
