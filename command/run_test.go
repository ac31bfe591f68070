package command

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestRun_ServesUntilContextEnds(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testkit.Redis(t))
	var cfg Config
	n := s.node(t, func(c *Config) { cfg = *c })
	cfg.Addr, cfg.Registry, cfg.Payments = "127.0.0.1:0", registry(), n.payments
	api, err := New(cfg)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- api.Run(ctx) }()
	select {
	case <-api.Ready():
	case err := <-ended:
		t.Fatal(err)
	}
	r, err := http.Get("http://" + api.Addr().String() + "/health/live")
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	require.Equal(t, 200, r.StatusCode)
	http.DefaultClient.CloseIdleConnections()
	stop()
	select {
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
}

func TestConfig_ReportsMissingFields(t *testing.T) {
	_, err := New(Config{})
	require.ErrorContains(t, err, "are required")
	s := newSystem(t, testkit.Redis(t))
	for want, change := range map[string]func(*Config){
		"append queue": func(c *Config) { c.AppendQueue = 0 },
		"slot TTL":     func(c *Config) { c.SlotTTL = 0 },
		"warning":      func(c *Config) { c.SlotWarning = -1 },
		"no webhook":   func(c *Config) { c.WebhookSecrets = nil },
		"secret 1 of":  func(c *Config) { c.WebhookSecrets = []string{"whsec_?"} },
	} {
		var cfg Config
		n := s.node(t, func(c *Config) { cfg = *c })
		cfg.Payments = n.payments
		change(&cfg)
		_, err := New(cfg)
		require.ErrorContains(t, err, want)
	}
}
