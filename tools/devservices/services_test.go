package devservices

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// actVariable makes this test binary act as a program that starts a service in the named folder,
// reports it, and waits to be killed.
const actVariable = "DOPAMINE_STACK_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if what := os.Getenv(actVariable); what != "" {
		playProgram(what)
	}
	goleak.VerifyTestMain(m)
}

func playProgram(what string) {
	kind, dir, _ := strings.Cut(what, "=")
	var err error
	switch kind {
	case "postgres":
		_, err = StartPostgres(context.Background(), PostgresOptions{Dir: dir})
	case "redis":
		_, err = StartRedis(context.Background(), RedisOptions{Dir: dir, Real: true})
	}
	fmt.Println("started", err)
	select {}
}

// killProgram runs such a program until its service has started, and kills it.
func killProgram(t *testing.T, what string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), actVariable+"="+what)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "started <nil>\n", line)
	require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
	_ = cmd.Wait() // it was killed
}

// skipWhereMissing skips a test of a server that this machine has not.
func skipWhereMissing(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, ErrNotHere) {
		t.Skip(err)
	}
	require.NoError(t, err)
}

func stopped(t *testing.T, s interface{ Stop(context.Context) error }) {
	t.Helper()
	t.Cleanup(func() { require.NoError(t, s.Stop(context.Background())) })
}

func TestChild_ExitFailsTheStartWithTheLog(t *testing.T) {
	c, err := startChild(childSpec{name: "liar", path: "/bin/sh", args: []string{"-c", "echo no bed for me; exit 3"},
		log: t.TempDir() + "/log", orphaned: syscall.SIGKILL})
	require.NoError(t, err)
	begun := time.Now()
	err = c.awaitReady(t.Context(), time.Minute, func(context.Context) error { return errors.New("silence") })
	require.ErrorIs(t, err, errExited)
	require.ErrorContains(t, err, "no bed for me")
	require.Less(t, time.Since(begun), 30*time.Second)
}

func TestPort_TakenIsReplaced(t *testing.T) {
	var tried []int
	err := onFreePort(0, func(port int) (bool, error) {
		tried = append(tried, port)
		if len(tried) < 3 {
			return true, errors.New("address already in use")
		}
		return false, nil
	})
	require.NoError(t, err)
	require.Len(t, tried, 3)
	for _, port := range tried {
		require.Less(t, port, 32768)
	}
}
