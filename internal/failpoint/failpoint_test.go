package failpoint

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	armed, err := parse("eventstore/before-commit=kill@3;gate/after-decide=error\nrelay/before-publish=delay(200ms)@*; gate/before-sync=stop")
	require.NoError(t, err)
	require.Equal(t, map[Point]action{
		AppendBeforeCommit: {kind: "kill", nth: 3},
		DecideAfter:        {kind: "error", nth: 1},
		PublishBefore:      {kind: "delay", delay: 200 * time.Millisecond},
		SyncBefore:         {kind: "stop", nth: 1},
	}, armed)
	for _, bad := range []string{"nowhere=kill", "eventstore/before-commit", "eventstore/before-commit=explode", "gate/before-sync=stop@0", "gate/before-sync=delay(x)"} {
		_, err := parse(bad)
		require.Error(t, err, bad)
	}
}

// Every declared point is listed once and is used in the program.
func TestPoints_AreUsed(t *testing.T) {
	source, err := os.ReadFile("points.go")
	require.NoError(t, err)
	declared := regexp.MustCompile(`(?m)^\t(\w+)\s+Point = "([^"]+)"`).FindAllStringSubmatch(string(source), -1)
	require.Len(t, Names(), len(declared))
	var all strings.Builder
	err = filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") ||
			strings.Contains(path, "internal/failpoint/") || strings.Contains(path, "tools/") {
			return err
		}
		b, err := os.ReadFile(path)
		all.Write(b)
		return err
	})
	require.NoError(t, err)
	for _, d := range declared {
		require.True(t, slices.Contains(Names(), Point(d[2])), "%s is not listed", d[1])
		require.Contains(t, all.String(), "(failpoint."+d[1]+")", "%s is not used", d[1])
	}
}
