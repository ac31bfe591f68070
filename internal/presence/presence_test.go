package presence_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dopaminestore/dopamine/internal/presence"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// The test binary runs as a process of the list if this names the database.
const processDatabase = "DOPAMINE_TEST_PRESENCE_DATABASE"

func TestMain(m *testing.M) {
	if url := os.Getenv(processDatabase); url != "" {
		pool, err := pgxpool.New(context.Background(), url)
		if err != nil {
			panic(err)
		}
		p := presence.Join(context.Background(), pool, true, nil)
		<-p.Joined()
		fmt.Println(p.ID())
		select {}
	}
	goleak.VerifyTestMain(m)
}

// process starts a process of the list and returns its number there.
func process(t *testing.T, pool *pgxpool.Pool) (*exec.Cmd, int64) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), processDatabase+"="+pool.Config().ConnString())
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line := make([]byte, 20)
	n, err := out.Read(line)
	require.NoError(t, err)
	id, err := strconv.ParseInt(strings.TrimSpace(string(line[:n])), 10, 64)
	require.NoError(t, err)
	return cmd, id
}

// A process that is killed or stopped is dead within seconds. One that continues is alive again.
// One that was never in the list, or left it, is dead as well.
func TestPresence_FindsTheDead(t *testing.T) {
	t.Parallel()
	pool := dbtest.Write(t)
	p := presence.Join(t.Context(), pool, true, nil)
	defer func() { require.NoError(t, p.Close(context.Background())) }()
	<-p.Joined()
	left := presence.Join(t.Context(), pool, false, nil)
	<-left.Joined()
	gone := left.ID()
	require.NotZero(t, gone)
	require.NoError(t, left.Close(context.Background()))
	killed, killedID := process(t, pool)
	stopped, stoppedID := process(t, pool)

	await := func(what string, holds func() bool) {
		t.Helper()
		testkit.EventuallyTrue(t, 15*time.Second, what, func() bool { return holds() })
	}
	workers := func(want int) func() bool {
		return func() bool { now, _ := p.Workers(); return len(now) == want }
	}
	await("all three", workers(3))
	require.False(t, p.Dead(killedID))
	require.False(t, p.Dead(p.ID()))
	require.NoError(t, killed.Process.Kill())
	require.NoError(t, stopped.Process.Signal(syscall.SIGSTOP))
	for _, id := range []int64{killedID, stoppedID, gone} {
		await("a death", func() bool { return p.Dead(id) })
	}
	require.WithinDuration(t, time.Now(), p.LastDeath(), 10*time.Second)
	await("this one alone", workers(1))
	live, err := presence.Count(t.Context(), pool)
	require.NoError(t, err)
	require.Equal(t, presence.Live{Workers: 1, Silent: 2}, live)
	require.NoError(t, stopped.Process.Signal(syscall.SIGCONT))
	await("the stopped one", func() bool { return !p.Dead(stoppedID) })
	require.True(t, p.Dead(killedID))
}

// If Postgres' clock steps by an hour, or Postgres is unavailable, no process appears dead.
func TestPresence_CountsOnlyReadsThatSucceeded(t *testing.T) {
	t.Parallel()
	pool := dbtest.Write(t)
	one, two := presence.Join(t.Context(), pool, true, nil), presence.Join(t.Context(), pool, true, nil)
	for _, p := range []*presence.Presence{one, two} {
		defer func() { require.NoError(t, p.Close(context.Background())) }()
		<-p.Joined()
	}
	locked, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = locked.Exec(t.Context(), `lock table processes in access exclusive mode`)
	require.NoError(t, err)
	<-time.After(presence.DeadAfter + time.Second) // no process can beat or read
	require.NoError(t, locked.Rollback(t.Context()))
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		require.False(t, one.Dead(two.ID()))
		require.False(t, two.Dead(one.ID()))
	}
}

// A worker that joins or leaves moves only its own products. A worker that cannot reach a master
// owns no products there.
func TestOwner_MovesNoProductBetweenOthers(t *testing.T) {
	t.Parallel()
	three := []presence.Process{{ID: 1}, {ID: 2}, {ID: 3}}
	count := map[int64]int{}
	for range 3000 {
		product := uuid.New()
		owner, found := presence.Owner(three, product, "m")
		require.True(t, found)
		count[owner]++
		if after, _ := presence.Owner(three[:2], product, "m"); owner != 3 {
			require.Equal(t, owner, after)
		}
		cut := []presence.Process{{ID: 1, Unreachable: []string{"m"}}, {ID: 2}, {ID: 3}}
		without, _ := presence.Owner(cut, product, "m")
		require.NotEqual(t, int64(1), without)
		elsewhere, _ := presence.Owner(cut, product, "n")
		require.Equal(t, owner, elsewhere)
	}
	for _, n := range count {
		require.InDelta(t, 1000, n, 150)
	}
	_, found := presence.Owner([]presence.Process{{ID: 1, Unreachable: []string{"m"}}}, uuid.New(), "m")
	require.False(t, found)
}
