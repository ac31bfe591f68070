package main

import (
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

// secureRegistry is a registry behind TLS, with a certificate of an authority that no machine
// knows, and with a user and a password.
func secureRegistry(t *testing.T, user, password string) (address, ca string) {
	t.Helper()
	registry := srfake.New()
	t.Cleanup(registry.Close)
	target, err := url.Parse(registry.URL())
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, ok := r.BasicAuth(); !ok || u != user || p != password {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error_code":40101,"message":"Unauthorized"}`))
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	files := testkit.NewCertificates(t)
	certificate, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	require.NoError(t, err)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL, files.CA
}

func TestRegistry_WithTLSAndCredentials(t *testing.T) {
	unset(t)
	address, ca := secureRegistry(t, "shop", "registry-secret")
	d, brokers := dbtest.Both(t), testkit.FakeKafka(t)
	password := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(password, []byte("registry-secret\n"), 0o600))
	product := uuid.New()
	appendTo(t, d, product, product, lamp(t))
	args := func(more ...string) []string {
		return append([]string{"relay", "--database-url", d.URL, "--kafka-brokers", strings.Join(brokers, ","), "--schema-registry-url", address}, more...)
	}

	for name, tt := range map[string]struct {
		more []string
		logs string
	}{
		"another authority": {[]string{"--schema-registry-user", "shop", "--schema-registry-password-file", password}, "certificate"},
		"wrong password":    {[]string{"--schema-registry-ca", ca, "--schema-registry-user", "shop", "--schema-registry-password", "wrong-secret"}, "Unauthorized"},
		"no credentials":    {[]string{"--schema-registry-ca", ca}, "Unauthorized"},
	} {
		t.Run(name, func(t *testing.T) {
			relay := start(t, args(tt.more...)...)
			testkit.Eventually(t, 20*time.Second, "the reason in the log", func() error {
				if text := relay.text(); !strings.Contains(text, "schema registry: ") || !strings.Contains(text, tt.logs) {
					return errors.New(text)
				}
				return nil
			})
			require.Equal(t, 0, relay.end(), relay.text())
			require.NotContains(t, relay.text(), "wrong-secret")
		})
	}
	t.Run("right", func(t *testing.T) {
		relay := start(t, args("--schema-registry-ca", ca, "--schema-registry-user", "shop", "--schema-registry-password-file", password)...)
		require.Equal(t, byte(0), valuesOf(t, brokers, 1)[0][0], "Confluent wire format")
		require.Equal(t, 0, relay.end(), relay.text())
	})
}
