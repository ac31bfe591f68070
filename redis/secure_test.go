package redis_test

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/redis"
	"github.com/dopaminestore/dopamine/redis/topology"
	"github.com/dopaminestore/dopamine/tools/devservices"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// TestOpen_TLSUserAndKeyPrefix runs a gate on a Redis with TLS, as a user with access
// only to keys with the prefix.
func TestOpen_TLSUserAndKeyPrefix(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.OwnRedis(t))
	certs := testkit.NewCertificates(t)
	port, err := devservices.FreePort()
	require.NoError(t, err)
	for _, set := range [][2]string{{"tls-cert-file", certs.Cert}, {"tls-key-file", certs.Key}, {"tls-ca-cert-file", certs.CA},
		{"tls-auth-clients", "no"}, {"tls-port", fmt.Sprint(port)}} {
		require.NoError(t, w.raw.ConfigSet(w.ctx, set[0], set[1]).Err(), set[0])
	}
	require.NoError(t, w.raw.Do(w.ctx, "acl", "setuser", "shop", "on", ">secret", "~shop1:*", "+@all").Err())
	u := url.URL{Scheme: "rediss", User: url.UserPassword("shop", "secret"), Host: net.JoinHostPort("127.0.0.1", fmt.Sprint(port)), Path: "/0"}

	pem, err := os.ReadFile(certs.CA)
	require.NoError(t, err)
	opts := redis.Options{CA: x509.NewCertPool(), KeyPrefix: "shop1:"}
	require.True(t, opts.CA.AppendCertsFromPEM(pem))

	t.Run("works", func(t *testing.T) {
		g, err := redis.Open(w.ctx, []string{u.String()}, w.gateStore, opts)
		require.NoError(t, err)
		defer func() { require.NoError(t, g.Close()) }()
		product := w.product(1)
		_, err = g.Decide(w.ctx, redis.Request{Product: product, Buyer: uuid.New()})
		require.NoError(t, err)
		keys, err := w.raw.Keys(w.ctx, "*").Result()
		require.NoError(t, err)
		require.NotEmpty(t, keys)
		for _, key := range keys {
			require.Contains(t, key, "shop1:product:{"+product.String()+"}:")
		}
		serving, all, err := redis.CheckHealth(w.ctx, []string{u.String()}, opts)
		require.NoError(t, err)
		require.Equal(t, []int{1, 1}, []int{serving, all})
	})
	t.Run("an unknown authority is refused", func(t *testing.T) {
		_, err := redis.Open(w.ctx, []string{u.String()}, w.gateStore, redis.Options{KeyPrefix: "shop1:"})
		require.ErrorContains(t, err, "certificate")
	})
	t.Run("an authority without TLS is refused", func(t *testing.T) {
		_, err := redis.Open(w.ctx, []string{w.url}, w.gateStore, opts)
		require.ErrorIs(t, err, topology.ErrAddress)
		require.ErrorContains(t, err, "rediss://")
	})
	t.Run("a wrong password is named", func(t *testing.T) {
		wrong := u
		wrong.User = url.UserPassword("shop", "wrong")
		_, err := redis.Open(w.ctx, []string{wrong.String()}, w.gateStore, opts)
		require.ErrorIs(t, err, topology.ErrAddress)
		require.ErrorContains(t, err, "user name, password or permissions")
		require.NotContains(t, err.Error(), "wrong:")
	})
}

func TestCheckKeyPrefix(t *testing.T) {
	for prefix, ok := range map[string]bool{"": true, "shop1:": true, "a/b": true, "{shop}": false, "a b": false, "é": false} {
		require.Equal(t, ok, redis.CheckKeyPrefix(prefix) == nil, prefix)
	}
}
