package guard_test

import (
	"bytes"
	"log/slog"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/guard"
)

func TestRun_ReturnsAPanicAsAnError(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, nil))
	err := guard.Run(log, "apply a batch", func() error {
		return assign(nil)
	})
	var p *guard.PanicError
	require.ErrorAs(t, err, &p)
	require.Contains(t, err.Error(), "apply a batch: panic: assignment to entry in nil map")
	for _, part := range []string{`"doing":"apply a batch"`, "nil map", "guard_test.go"} {
		require.Contains(t, out.String(), part)
	}
	require.NoError(t, guard.Run(log, "nothing", func() error { return nil }))
}

func TestDoAndLog_LogAndGoOn(t *testing.T) {
	var out bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewJSONHandler(&out, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	require.PanicsWithValue(t, "a bug", func() { guard.Do(nil, "sync gates", func() { panic("a bug") }) })
	require.PanicsWithValue(t, "another bug", func() {
		defer guard.Log("ship logs")
		panic("another bug")
	})
	for _, part := range []string{`"doing":"sync gates"`, `"doing":"ship logs"`, "a bug", "another bug", "stack"} {
		require.Contains(t, out.String(), part)
	}
}

func TestGo_IsAwaited(t *testing.T) {
	var wg sync.WaitGroup
	done := false
	guard.Go(&wg, nil, "work", func() { done = true })
	wg.Wait()
	require.True(t, done)
}

func assign(to map[string]int) error {
	to["x"] = 1
	return nil
}
