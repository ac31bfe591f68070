package topology

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestParseURLs(t *testing.T) {
	for name, c := range map[string]struct {
		urls       []string
		seeds      []string
		master     string
		user, pass string
		sentinel   string
		db         int
		tls        bool
	}{
		"one":                         {urls: []string{"redis://h:1/2"}, seeds: []string{"h:1"}, db: 2},
		"the usual port":              {urls: []string{"redis://h"}, seeds: []string{"h:6379"}},
		"a socket":                    {urls: []string{"unix:///run/redis.sock"}, seeds: []string{"/run/redis.sock"}},
		"a cluster":                   {urls: []string{"redis://u:p%40%2C@a:1", "redis://b:2", "redis://a:1", "redis://[::1]:3"}, seeds: []string{"a:1", "b:2", "[::1]:3"}, user: "u", pass: "p@,"},
		"a password alone":            {urls: []string{"redis://:p@a:1", "redis://:p@b:2/0"}, seeds: []string{"a:1", "b:2"}, pass: "p"},
		"credentials in the last one": {urls: []string{"redis://a:1", "redis://u:p@b:2"}, seeds: []string{"a:1", "b:2"}, user: "u", pass: "p"},
		"Sentinels":                   {urls: []string{"redis://u:p@a:1/3?master_name=m&sentinel_password=s", "redis://b:2"}, seeds: []string{"a:1", "b:2"}, master: "m", db: 3, user: "u", pass: "p", sentinel: "s"},
		"Sentinels, name last":        {urls: []string{"redis://a:1", "redis://b:2/3?master_name=m"}, seeds: []string{"a:1", "b:2"}, master: "m", db: 3},
		"TLS":                         {urls: []string{"rediss://a:1", "rediss://b:2"}, seeds: []string{"a:1", "b:2"}, tls: true},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, CheckURLs(c.urls))
			a, err := ParseURLs(c.urls)
			require.NoError(t, err)
			require.Equal(t, c.seeds, a.seeds)
			require.Equal(t, c.master, a.master)
			opt := a.of(c.seeds[len(c.seeds)-1])
			require.Equal(t, c.seeds[len(c.seeds)-1], opt.Addr)
			require.Equal(t, []any{c.user, c.pass, c.db}, []any{opt.Username, opt.Password, opt.DB})
			require.Equal(t, c.sentinel, a.ofSentinel("x:1").Password)
			require.Equal(t, c.tls, opt.TLSConfig != nil)
			if c.tls {
				require.Equal(t, "a", a.of("a:1").TLSConfig.ServerName)
				require.Equal(t, "b", a.of("b:2").TLSConfig.ServerName)
				require.Equal(t, "a", a.of("10.0.0.1:2").TLSConfig.ServerName)
			}
		})
	}
}

func TestParseURLs_Rejections(t *testing.T) {
	for says, urls := range map[string][]string{
		"only database 0":                       {"redis://a:1/1", "redis://b:2/1"},
		"different databases":                   {"redis://a:1/1?master_name=m", "redis://b:2/2"},
		"different masters":                     {"redis://a:1?master_name=m", "redis://b:2?master_name=n"},
		"master_name is empty":                  {"redis://a:1?master_name="},
		"different user names or passwords":     {"redis://u:secret@a:1", "redis://u:secrets@b:2"},
		"different values of sentinel_password": {"redis://a:1?master_name=m&sentinel_password=secret", "redis://b:2?sentinel_password=secrets"},
		"need master_name":                      {"redis://a:1?sentinel_password=secret"},
		"must use the same":                     {"redis://a:1", "rediss://b:2"},
		"a socket":                              {"redis://a:1", "unix:///run/redis.sock"},
		"different options":                     {"redis://a:1?protocol=2", "redis://b:2?protocol=3"},
		"URL 2 of 2 is invalid":                 {"redis://a:1", "redis://:secret@b:x"},
		"must look like":                        {"redis://:secret@a:1/x"},
		"unexpected option":                     {"redis://:secret@a:1?what=1"},
		"no URL":                                nil,
	} {
		err := CheckURLs(urls)
		require.ErrorIs(t, err, ErrAddress, says)
		require.ErrorContains(t, err, says)
		require.NotContains(t, err.Error(), "secret")
	}
}

func TestSlotOf(t *testing.T) {
	require.Equal(t, 0x31c3, slotOf("123456789"), "the example of the specification")
	c := goredis.NewClient(&goredis.Options{Addr: strings.TrimSuffix(strings.TrimPrefix(testkit.RedisCluster(t, 1, 0).Nodes[0].URL(), "redis://"), "/0")})
	defer func() { _ = c.Close() }()
	for _, key := range []string{"", "a", "{}", "{}a", "a{b}c{d}", "{{a}}", "a{", "a}b{c}", "product:{7d8c}:stock", "product:{7d8c}:log"} {
		want, err := c.ClusterKeySlot(t.Context(), key).Result()
		require.NoError(t, err)
		require.EqualValues(t, want, slotOf(key), "%q", key)
	}
}

// If two nodes claim a slot, the one with the later configuration epoch owns it.
func TestSlotMap(t *testing.T) {
	old := `a 10.0.0.1:1@2,name myself,master - 0 0 1 connected 0-99 200 [100->-c]
b :2@3 master,fail - 0 0 2 connected 100-199
e 10.0.0.5:5@6 slave a 0 0 1 connected
x :0@0 master,noaddr - 0 0 9 disconnected 100-199
`
	later := `c 10.0.0.3:3@4,,tls-port=0 myself,master - 0 0 7 connected 0-99
a 10.0.0.1:1@2 slave c 0 0 7 connected
d :4@5,named master - 0 0 8 connected 300
`
	for _, views := range [][2]string{{old, later}, {later, old}} {
		m := &slotMap{}
		for _, view := range views {
			require.NoError(t, m.add(view, "10.0.0.9:9"))
		}
		require.Equal(t, []string{"10.0.0.3:3", "10.0.0.3:3", "10.0.0.9:2", "10.0.0.1:1", "named:4", ""},
			[]string{m.owner[0], m.owner[99], m.owner[100], m.owner[200], m.owner[300], m.owner[301]})
		require.True(t, slices.Contains(m.nodes, "10.0.0.5:5"))
	}
	require.Error(t, (&slotMap{}).add("", "h:1"))
	require.Error(t, (&slotMap{}).add("a h:1@2 master - 0 0 1 connected 0-16384\n", "h:1"))
	require.Error(t, (&slotMap{}).add("a h:1@2 master - 0 0 x connected 0-1\n", "h:1"))
}

// A rebuild's calls do not wait behind requests for one of the connections.
func TestForBuild_DoesNotWaitForAConnection(t *testing.T) {
	where, err := ParseURLs([]string{testkit.Redis(t)})
	require.NoError(t, err)
	masters, err := Open(t.Context(), where, Options{
		Conns: 1, ConnsMax: 1, Builds: 1, Prepare: func(*goredis.Client) error { return nil }, Called: func(string, int, time.Duration, error) {},
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, masters.Close()) }()
	nothing := func(*Conn) error { return nil }
	require.NoError(t, masters.Run(t.Context(), "key", func(*Conn) error {
		short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, masters.Run(short, "key", nothing), context.DeadlineExceeded)
		return masters.Run(ForBuild(t.Context()), "key", nothing)
	}))
}
