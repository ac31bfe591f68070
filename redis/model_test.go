package redis_test

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dopaminestore/dopamine/command/claims"
	"github.com/dopaminestore/dopamine/domain"
	"github.com/dopaminestore/dopamine/domain/fairness"
	"github.com/dopaminestore/dopamine/redis"
)

// model is the expected state of one product. It is computed only from
// answers and from what Postgres accepted, not from gates.
type model struct {
	*rapid.T
	w       *world
	product uuid.UUID
	gates   []*redis.Gate
	buyers  []uuid.UUID

	units     int
	paused    bool                     //
	last      int64                    // the highest number answered
	answered  map[int64]redis.Decision // every grant
	grants    map[int64]redis.Decision // answered, neither claimed nor known to be void
	claimed   map[int64]redis.Decision // slots that hold a unit
	ended     map[int64]redis.Decision
	withdrawn map[int64]bool
}

func (m *model) gate() *redis.Gate {
	return m.gates[rapid.IntRange(0, len(m.gates)-1).Draw(m.T, "gate")]
}

func pick[V any](t *rapid.T, from map[int64]V, name string) (int64, V, bool) {
	if len(from) == 0 {
		var none V
		return 0, none, false
	}
	number := rapid.SampledFrom(slices.Sorted(maps.Keys(from))).Draw(t, name)
	return number, from[number], true
}

func (m *model) holding(buyer uuid.UUID) (redis.Decision, bool) {
	for _, d := range m.claimed {
		if d.Buyer == buyer {
			return d, true
		}
	}
	return redis.Decision{}, false
}

func (m *model) Ask(t *rapid.T) {
	m.T = t
	buyer := rapid.SampledFrom(m.buyers).Draw(t, "buyer")
	g := m.gate()
	d, err := g.Decide(m.w.ctx, redis.Request{Product: m.product, Buyer: buyer, Key: rapid.SampledFrom([]string{"", "k"}).Draw(t, "key")})
	require.NoError(t, err)
	require.GreaterOrEqual(t, d.Epoch, int64(0))
	isNew := d.Outcome == redis.Granted && d.Deliveries == 1
	if isNew || (d.Outcome != redis.Granted && d.Outcome != redis.Held) {
		require.Greater(t, d.Number, m.last, "a request sent after another's answer has the higher number")
		require.Equal(t, d.Epoch, redis.EpochOf(d.Number))
		m.last = d.Number
	}
	slot, holds := m.holding(buyer)
	switch {
	case isNew:
		require.False(t, holds, "buyer of %+v is granted %+v", slot, d)
		for _, c := range m.claimed {
			require.NotEqual(t, c.Unit, d.Unit, "unit of %+v granted again", c)
		}
		for n, other := range m.grants {
			require.False(t, !m.withdrawn[n] && redis.EpochOf(n) == d.Epoch && (other.Unit == d.Unit || other.Buyer == buyer),
				"%+v is pending, %+v was granted", other, d)
		}
		require.LessOrEqual(t, d.Unit, m.units)
		m.grants[d.Number], m.answered[d.Number] = d, d
	case d.Outcome == redis.Granted: // repeated: the same grant, whatever became of it
		first, known := m.answered[d.Number]
		require.True(t, known, "repeated, but never delivered before: %+v", d)
		require.Equal(t, first.Unit, d.Unit)
		require.Equal(t, first.Buyer, buyer)
	case d.Outcome == redis.Held && !holds: // the gate has not applied the end
		require.Contains(t, m.ended, d.Number)
	case d.Outcome == redis.Held:
		if slot.Number != d.Number {
			require.Contains(t, m.ended, d.Number)
		}
	}
}

func (m *model) Claim(t *rapid.T) {
	m.T = t
	number, d, ok := pick(t, m.grants, "grant")
	if !ok {
		t.Skip("no pending grant")
	}
	m.judge(t, number, d, m.w.claim(d))
}

// judge compares the result of a claim with the expected one.
func (m *model) judge(t *rapid.T, number int64, d redis.Decision, err error) {
	epoch := m.w.row(m.product).Epoch
	switch {
	case m.withdrawn[number]:
		require.ErrorIs(t, err, claims.ErrWithdrawn)
	case redis.EpochOf(number) != epoch:
		require.ErrorIs(t, err, claims.ErrEpoch)
	default:
		require.NoError(t, err, "a grant of the right epoch was refused: %+v", d)
		m.claimed[number] = d
	}
	delete(m.grants, number)
}

func (m *model) ClaimAgain(t *rapid.T) {
	m.T = t
	if _, d, ok := pick(t, m.claimed, "claimed"); ok {
		var holds *claims.BuyerHoldsError
		require.ErrorAs(t, m.w.claim(d), &holds)
		require.Equal(t, d.SlotID, holds.Claim.SlotID)
	}
	if _, d, ok := pick(t, m.ended, "ended"); ok {
		require.ErrorIs(t, m.w.claim(d), claims.ErrSlotEnded)
	}
}

func (m *model) Expire(t *rapid.T) {
	m.T = t
	number, d, ok := pick(t, m.claimed, "slot")
	if !ok {
		t.Skip("no slot")
	}
	require.NoError(t, m.w.expire(d))
	delete(m.claimed, number)
	m.ended[number] = d
}

func (m *model) Withdraw(t *rapid.T) {
	m.T = t
	pending, err := m.gate().Pending(m.w.ctx, m.product, 0, redis.MaxNumber, 100)
	require.NoError(t, err)
	for _, p := range pending {
		if !rapid.Bool().Draw(t, "withdraw") {
			continue
		}
		err := m.w.withdraw(m.product, p.Number, p.Unit)
		_, live := m.claimed[p.Number]
		_, over := m.ended[p.Number]
		switch {
		case live || over:
			require.ErrorIs(t, err, claims.ErrClaimed)
		case m.withdrawn[p.Number]:
			require.ErrorIs(t, err, claims.ErrWithdrawn)
		case redis.EpochOf(p.Number) != m.w.row(m.product).Epoch:
			require.ErrorIs(t, err, claims.ErrEpoch)
		default:
			require.NoError(t, err)
			m.withdrawn[p.Number] = true
		}
	}
}

func (m *model) GiveBack(t *rapid.T) {
	m.T = t
	number, d, ok := pick(t, m.grants, "grant")
	if !ok {
		t.Skip("no pending grant")
	}
	require.NoError(t, m.gate().GiveBack(m.w.ctx, d))
	delete(m.grants, number) // its node will never append it
}

func (m *model) Sync(t *rapid.T) {
	m.T = t
	require.NoError(t, m.gate().Sync(m.w.ctx, m.product))
}

func (m *model) Ship(t *rapid.T) {
	m.T = t
	require.NoError(t, m.gate().Ship(m.w.ctx, m.product))
}

func (m *model) StockUp(t *rapid.T) {
	m.T = t
	more := rapid.IntRange(1, 2).Draw(t, "units")
	m.units += more
	require.NoError(t, m.w.append(m.product, m.product, domain.ProductStockIncreased{Increase: more, TotalStock: m.units},
		claims.Stock{Product: m.product, Total: m.units}.GuardItem()))
}

func (m *model) Pause(t *rapid.T) {
	m.T = t
	m.paused = !m.paused
	m.w.pause(m.product, m.paused)
}

func (m *model) LoseKey(t *rapid.T) {
	m.T = t
	prefix := "product:{" + m.product.String() + "}:"
	key := rapid.SampledFrom([]string{"stock", "queue", "holders", "pending", "log"}).Draw(t, "key")
	require.NoError(t, m.w.raw.Del(m.w.ctx, prefix+key).Err())
}

func (m *model) FalseAlarm(t *rapid.T) {
	m.T = t
	state, err := m.gate().State(m.w.ctx, m.product)
	require.NoError(t, err)
	require.NoError(t, m.gate().Rebuild(m.w.ctx, m.product, state.Epoch))
}

// Check compares Postgres with the model, after each step.
func (m *model) Check(t *rapid.T) {
	counts, _, err := m.w.gateStore.Counts(m.w.ctx, m.product)
	require.NoError(t, err)
	require.Equal(t, len(m.claimed), counts.Held)
	require.LessOrEqual(t, counts.Held, counts.Units)
}

// settle ends all pending grants and requires R2: every unit is held or free.
func (m *model) settle(t *rapid.T) {
	m.T = t
	g := m.gates[0]
	if m.paused {
		m.Pause(t)
	}
	for number, d := range m.grants {
		m.judge(t, number, d, m.w.claim(d))
	}
	require.NoError(t, g.Sync(m.w.ctx, m.product))
	pending, err := g.Pending(m.w.ctx, m.product, 0, redis.MaxNumber, 1000)
	require.NoError(t, err)
	for _, p := range pending {
		err := m.w.withdraw(m.product, p.Number, p.Unit)
		require.True(t, err == nil || errors.Is(err, claims.ErrWithdrawn), "%v", err)
	}
	state := m.w.agrees(g, m.product)
	require.Zero(t, state.Pending)
	require.Equal(t, len(m.claimed), state.Held)
	require.Equal(t, m.units-len(m.claimed), state.Free)
	require.NoError(t, g.Ship(m.w.ctx, m.product))
	fold := fairness.NewFold()
	for _, l := range m.w.stored(m.product) {
		require.NoError(t, fold.Add(l))
	}
	require.Zero(t, fold.Report().Inversions)
}

// After any sequence of steps, the gate's answers, the claims and the decision log are
// consistent.
func TestGate_MatchesModel(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		gates := []*redis.Gate{w.gate(), w.gate()}
		rapid.Check(t, func(t *rapid.T) {
			units := rapid.IntRange(1, 4).Draw(t, "units")
			m := &model{T: t, w: w, product: w.product(units), gates: gates, units: units,
				answered: make(map[int64]redis.Decision), grants: make(map[int64]redis.Decision), claimed: make(map[int64]redis.Decision),
				ended: make(map[int64]redis.Decision), withdrawn: make(map[int64]bool)}
			for range 5 {
				m.buyers = append(m.buyers, uuid.New())
			}
			t.Repeat(map[string]func(*rapid.T){
				"ask": m.Ask, "ask too": m.Ask, "ask three": m.Ask, "claim": m.Claim, "claim too": m.Claim,
				"claim again": m.ClaimAgain, "expire": m.Expire, "withdraw": m.Withdraw, "give back": m.GiveBack,
				"sync": m.Sync, "sync too": m.Sync, "ship": m.Ship, "stock": m.StockUp, "pause": m.Pause,
				"lose key": m.LoseKey, "false alarm": m.FalseAlarm, "": m.Check,
			})
			m.settle(t)
		})
	})
}
