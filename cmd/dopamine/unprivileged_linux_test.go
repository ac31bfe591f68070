package main

import (
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/testkit"
)

// asProgram makes the test's own binary the program: a process of another user
// needs one to run.
const asProgram = "DOPAMINE_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// TestDev_RunsAsAnOrdinaryUser: a user other than root has no second user to run Postgres as, no
// /root, and a separate folder.
func TestDev_RunsAsAnOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("every other test of dev runs as a user then")
	}
	nobody, err := user.Lookup("nobody")
	require.NoError(t, err)
	uid, err := strconv.Atoi(nobody.Uid)
	require.NoError(t, err)
	gid, err := strconv.Atoi(nobody.Gid)
	require.NoError(t, err)
	home, err := os.MkdirTemp("", "dopamine-nobody-") // not t.TempDir, which another user may not enter
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(home)) })
	program := filepath.Join(home, "dopamine")
	self, err := os.Open("/proc/self/exe")
	require.NoError(t, err)
	defer self.Close()
	copied, err := os.OpenFile(program, os.O_CREATE|os.O_WRONLY, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(copied, self)
	require.NoError(t, err)
	require.NoError(t, copied.Close())
	require.NoError(t, os.Chown(home, uid, gid))

	out := &process{t: t, name: "dev"} // collects its output
	dev := exec.Command(program, "dev", "--command-addr", "127.0.0.1:0", "--query-addr", "127.0.0.1:0", "--rush", "--once", "--buyers", "200", "--stock", "10")
	dev.Dir, dev.Stdout, dev.Stderr = home, out, out
	dev.Env = []string{asProgram + "=1", "HOME=" + home, "PATH=" + os.Getenv("PATH")}
	dev.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, Pdeathsig: syscall.SIGKILL}
	require.NoError(t, dev.Start())
	ended := make(chan error, 1)
	go func() { ended <- dev.Wait() }()
	select {
	case err := <-ended:
		require.NoError(t, err, out.text())
	case <-time.After(2 * time.Minute):
		require.NoError(t, dev.Process.Kill())
		require.Fail(t, "it did not end", out.text())
	}
	require.Contains(t, out.text(), "\nready: ")
	env, err := os.ReadFile(filepath.Join(home, ".dopamine", "dopamine.env"))
	require.NoError(t, err, "data is in ./.dopamine")
	for line := range strings.Lines(string(env)) {
		if addr, ok := strings.CutPrefix(strings.TrimSpace(line), "DOPAMINE_QUERY_ADDR="); ok {
			testkit.Eventually(t, 5*time.Second, "its address to be free again", func() error {
				l, err := net.Listen("tcp", addr)
				if err == nil {
					err = l.Close()
				}
				return err
			})
		}
	}
}
