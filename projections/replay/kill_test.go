package replay_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/eventstore"
	"github.com/dopaminestore/dopamine/projections"
	"github.com/dopaminestore/dopamine/projections/replay"
	"github.com/dopaminestore/dopamine/tools/pipelinetest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// killedURL is the database in which TestReplayProcess replays.
const killedURL = "DOPAMINE_TEST_REPLAY_URL"

// TestReplayProcess is not a test: it is the process that another test kills.
func TestReplayProcess(t *testing.T) {
	url := os.Getenv(killedURL)
	if url == "" {
		t.Skip("only run by other tests")
	}
	pool, err := pgxpool.New(context.Background(), url+"&pool_max_conns=20")
	require.NoError(t, err)
	err = replay.Run(context.Background(), replay.Config{
		ReadPool: pool, Store: eventstore.NewReader(pool), Projections: pipelinetest.Rebuildable(), Verify: true,
		Published:  func(context.Context) (projections.Head, error) { return projections.Head{}, nil },
		OnProgress: func(r replay.Replay) { fmt.Println(r.Projection, r.Phase) },
	})
	fmt.Println("ended", err)
}

// A killed replay (contract 6).
func TestReplay_KilledLeavesNothingInTheWay(t *testing.T) {
	t.Parallel()
	s := newLiveSystem(t)
	for seed := range uint64(3) {
		h := s.open(seed)
		h.acquire(100)
		h.endSlots()
	}
	s.AwaitCaughtUp()
	before := s.LiveRows()
	for _, at := range []string{"products reading", "slot_audit_log indexing", "purchase_slots catching up", "purchases swapping"} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestReplayProcess$", "-test.v")
		cmd.Env = append(os.Environ(), killedURL+"="+s.URL)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		seen := false
		for lines.Scan() {
			if lines.Text() == at {
				seen = true
				break
			}
		}
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed
		require.True(t, seen, "%s was never reached", at)
		testkit.Eventually(t, 30*time.Second, "the locks to go with the process", func() error {
			all, err := replay.Latest(context.Background(), s.Pool)
			for _, r := range all {
				if r.Running {
					err = fmt.Errorf("%s is locked", r.Projection)
				}
			}
			return err
		})
		require.Equal(t, before, s.LiveRows(), at)
	}
	require.NoError(t, replay.Run(context.Background(), s.config()))
	require.Equal(t, before, s.LiveRows())
	require.Zero(t, s.Count("SELECT count(*) FROM projection_generations WHERE state = 'building'"))
	require.Zero(t, s.Count("SELECT count(*) FROM projection_replays WHERE ended_at IS NULL"))
}
