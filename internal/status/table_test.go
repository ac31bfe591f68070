package status

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func TestTable_FitsTheTerminalAndShowsProblemsFirst(t *testing.T) {
	now := time.Now()
	position, lag, eta := int64(1234567), int64(89), 61.0
	long := strings.Repeat("the fold refused it because it has no row; ", 5)
	r := Report{At: now, Store: &Store{Head: 1234656}, Relay: &Relay{Position: 1234600, Lag: 56, SavedAt: &now},
		Projections: []Projection{{Name: "slot_audit_log", Position: &position, Lag: &lag, Generation: 2, Generations: []Generation{{1, "old"}, {2, "live"}, {3, "building"}}}},
		Replays:     []Replay{{Projection: "slot_audit_log", Generation: 3, Phase: "reading", Running: true, Position: 100, Target: 200, ETASeconds: &eta}},
		Parked:      []Parked{{Projection: "purchase_slots", Key: uuid.New(), Type: "SlotExpired", Position: 7, Events: 3, Error: long}},
		Unreachable: []Unreachable{{"gates", long}},
	}
	for range 30 {
		r.Gates = append(r.Gates, Gate{Product: uuid.New(), State: "open"})
	}
	wrong := uuid.New()
	r.Gates = append(r.Gates, Gate{Product: wrong, State: "open", Difference: "gate: 100 units, 3 held; claims: 100 units, 4 held"})
	var out strings.Builder
	const width = 110
	require.NoError(t, Table(&out, r, width))
	for line := range strings.Lines(out.String()) {
		require.LessOrEqual(t, len([]rune(strings.TrimRight(line, "\n"))), width, line)
	}
	for _, want := range []string{"1,234,567", "2 (1 old, 3 building)", "50%", "1m1s", wrong.String(), "DIFFERS", "and 16 more gates", "not reached: gates"} {
		require.Contains(t, out.String(), want)
	}
	require.Equal(t, 10, strings.Count(strings.Join(strings.Fields(out.String()), " "), "fold"), "errors are whole")
}

func TestGather_NamesFailingParts(t *testing.T) {
	r := Gather(context.Background(), time.Second, []Part{
		{"event store", func(_ context.Context, r *Report) error { r.Store = &Store{Head: 3}; return nil }},
		{"gates", func(context.Context, *Report) error { return errors.New("refused") }},
	})
	require.Equal(t, int64(3), r.Store.Head)
	require.Equal(t, []Unreachable{{"gates", "refused"}}, r.Unreachable)
}
