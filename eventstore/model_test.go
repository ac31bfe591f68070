package eventstore

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dopaminestore/dopamine/tools/dbtest"
)

// However appends are grouped into batches, each has the result that it would have
// if they were appended one by one: the model is a version for each stream
// and the position of the last event.
func TestBatch_EqualsSequentialAppends(t *testing.T) {
	t.Parallel()
	pool := dbtest.Write(t)
	conn, err := connectAppender(context.Background(), pool, false)
	require.NoError(t, err)
	// A store without its writer: the test determines the batches.
	s := &Store{pool: pool, ctx: context.Background(), conn: conn}
	t.Cleanup(s.disconnect)
	var head int64
	rapid.Check(t, func(t *rapid.T) {
		versions := map[uuid.UUID]int{}
		streams := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
		type done struct {
			append Append
			result Result
		}
		var appended []done

		one := func(t *rapid.T) Append {
			a := Append{Key: streams[0]}
			for range rapid.IntRange(1, 3).Draw(t, "streams") {
				expected := Expected(rapid.IntRange(-1, 5).Draw(t, "expected"))
				stream := rapid.SampledFrom(streams).Draw(t, "stream")
				part := appendTo(stream, expected, rapid.IntRange(1, 3).Draw(t, "events")).Streams[0]
				a.Streams = append(a.Streams, part)
			}
			return a
		}
		// expect returns the model's result, and advances the model.
		expect := func(a Append) (Result, bool) {
			at := map[uuid.UUID]int{}
			for _, part := range a.Streams {
				if _, known := at[part.Stream]; !known {
					at[part.Stream] = versions[part.Stream]
				}
				if part.Expected != Any && int(part.Expected) != at[part.Stream] {
					return Result{}, false
				}
				at[part.Stream] += len(part.Events)
			}
			var result Result
			for range a.count() {
				head++
				result.Positions = append(result.Positions, head)
			}
			result.Position = head
			for stream, version := range at {
				versions[stream] = version
			}
			return result, true
		}

		for range rapid.IntRange(1, 4).Draw(t, "batches") {
			var batch []*item
			var want []func(outcome)
			repeats := map[int]bool{}
			var fresh []done
			for range rapid.IntRange(1, 8).Draw(t, "appends") {
				again := -1
				if len(appended) > 0 && rapid.IntRange(0, 3).Draw(t, "repeat") == 0 {
					again = rapid.IntRange(0, len(appended)-1).Draw(t, "which")
				}
				if again >= 0 && !repeats[again] {
					repeats[again] = true
					first := appended[again]
					batch = append(batch, newItem(first.append))
					want = append(want, func(out outcome) {
						require.NoError(t, out.err)
						require.True(t, out.Repeated)
						require.Equal(t, first.result.Positions, out.Positions)
						require.Equal(t, first.result.RecordedAt, out.RecordedAt)
					})
					continue
				}
				a := one(t)
				expected, accepted := expect(a)
				batch = append(batch, newItem(a))
				want = append(want, func(out outcome) {
					if !accepted {
						require.ErrorIs(t, out.err, ErrConflict)
						return
					}
					require.NoError(t, out.err)
					require.False(t, out.Repeated)
					require.Equal(t, expected.Positions, out.Positions)
					require.Equal(t, expected.Position, out.Position)
					fresh = append(fresh, done{a, out.Result})
				})
			}
			s.runBatch(batch)
			require.Empty(t, s.waiting, "nothing had to be put off")
			for i, it := range batch {
				want[i](<-it.result)
			}
			appended = append(appended, fresh...)
		}
		for stream, version := range versions {
			events, err := NewReader(pool).Stream(context.Background(), stream, 0)
			require.NoError(t, err)
			require.Len(t, events, version)
		}
	})
	require.Len(t, wholeLog(t, pool), int(head))
}
