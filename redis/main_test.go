package redis_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dopaminestore/dopamine/tools/devservices"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// theCluster is shared by all tests that break none of its servers.
var theCluster struct {
	once  sync.Once
	group *devservices.RedisGroup
	err   error
}

func clusterWorld(t testing.TB) *world {
	theCluster.once.Do(func() {
		theCluster.group, theCluster.err = devservices.StartRedisCluster(context.Background(), 3, 0, devservices.RedisOptions{})
	})
	if errors.Is(theCluster.err, devservices.ErrNotHere) {
		testkit.RedisCluster(t, 3, 0) // skips the test if no cluster can be started
	}
	require.NoError(t, theCluster.err)
	return newClusterWorld(t, theCluster.group)
}

func newClusterWorld(t testing.TB, g *devservices.RedisGroup) *world {
	var addrs []string
	for _, r := range g.Nodes {
		addrs = append(addrs, addrOf(r))
	}
	raw := goredis.NewClusterClient(&goredis.ClusterOptions{Addrs: addrs})
	t.Cleanup(func() { _ = raw.Close() })
	return newWorldAt(t, g.URL(), raw)
}

// addrOf returns the server's host:port.
func addrOf(r *devservices.Redis) string {
	return strings.TrimSuffix(strings.TrimPrefix(r.URL(), "redis://"), "/0")
}

// withCluster stops the cluster before the check for leaked goroutines.
type withCluster struct{ *testing.M }

func (m withCluster) Run() int {
	code := m.M.Run()
	if theCluster.group != nil {
		if err := theCluster.group.Stop(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "stop the cluster:", err)
			return 1
		}
	}
	return code
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(withCluster{m}) }
