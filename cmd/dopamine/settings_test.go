package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v3"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/config"
)

// longLived are the commands that serve until they are stopped.
var longLived = []string{"command-api", "query-api", "relay", "projector", "worker", "gateway-sim", "dev"}

// unset removes every variable that the tests' own environment may have.
func unset(t *testing.T) {
	t.Helper()
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "DOPAMINE_") {
			t.Setenv(name, "")
		}
	}
	t.Setenv("DOPAMINE_DRAIN_DELAY", "0s")     // what is started is also stopped
	t.Setenv("DOPAMINE_STARTUP_TIMEOUT", "0s") // fail at once if a service is unavailable
}

// bounded runs dopamine for a call that should end: a process that starts although it should not is
// stopped.
func bounded(t *testing.T, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	t.Chdir(t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var out, errs bytes.Buffer
	exit = run(ctx, append([]string{"dopamine"}, args...), &out, &errs)
	require.NoError(t, ctx.Err(), "%v: it did not end; %s", args, errs.String())
	return exit, out.String(), errs.String()
}

func commandNamed(t *testing.T, name string) *cli.Command {
	t.Helper()
	all := subcommands()
	i := slices.IndexFunc(all, func(c *cli.Command) bool { return c.Name == name })
	require.GreaterOrEqual(t, i, 0, "no command %s", name)
	return all[i]
}

// Exit status 2 with the missing settings (contract 8).
func TestSettings_MissingAreReported(t *testing.T) {
	unset(t)
	for name, missing := range map[string][]*config.Setting{
		"command-api": {config.DatabaseURL, config.RedisURL, config.GatewayURL, config.WebhookSecrets, config.JWTKey},
		"query-api":   {config.DatabaseURL, config.JWTKey},
		"relay":       {config.DatabaseURL, config.KafkaBrokers},
		"projector":   {config.DatabaseURL, config.KafkaBrokers},
		"worker":      {config.DatabaseURL, config.RedisURL, config.GatewayURL},
		"gateway-sim": {config.WebhookSecrets},
		"migrate":     {config.DatabaseURL},
		"status":      {config.DatabaseURL},
		"replay":      {config.DatabaseURL},
		"token":       {config.JWTKey},
		"rush":        {config.JWTKey},
	} {
		args := []string{name}
		if commandNamed(t, name).ArgsUsage != "" {
			args = append(args, "all")
		}
		exit, _, said := bounded(t, args...)
		require.Equal(t, 2, exit, "%s: %s", name, said)
		for _, s := range missing {
			require.Contains(t, said, "--"+s.Name+" ("+s.Variable()+") is missing", name)
		}
	}
}

type wrongValue struct{ value, right string }

// wrong are invalid values, with a part of the message that describes a valid one.
var wrong = map[string]wrongValue{
	"database-url": {"mysql://h/d", "postgres://"}, "database-direct-url": {"h", "postgres://"}, "read-database-url": {"h", "postgres://"}, "redis-url": {"http://h", "redis://"}, "redis-ca": {"/no/such/file", "PEM"}, "redis-key-prefix": {"{a}", "without spaces"}, "startup-timeout": {"soon", "60s"},
	"kafka-brokers": {"kafka", "host:port"}, "command-addr": {"8080", "host:port"}, "query-addr": {"h:99999", "host:port"},
	"command-url": {"h:1", "http://"}, "query-url": {"ftp://h", "http://"}, "jwt-key": {"/no/such/file", "32 or more"},
	"jwks-url": {"h", "https://"}, "token-key": {"/no/such/file", "private"}, "webhook-secrets": {"secret", "whsec_"},
	"gateway-url": {"h", "https://"}, "callback-url": {"h", "https://"}, "slot-ttl": {"30", "30m"}, "slot-warning": {"0s", "5m"},
	"payment-timeout": {"-1s", "5m"}, "buyer-rate": {"-1", "0 to"}, "cors-origins": {"shop.example.com", "scheme://"},
	"log-format": {"xml", "json or text"}, "log-level": {"loud", "debug"}, "otlp-endpoint": {"h:4318", "http://"},
	"kafka-partitions": {"0", "1 to"}, "kafka-retention": {"a year", "forever"}, "redis-pool": {"0", "1 to"}, "redis-pool-max": {"x", "1 to"},
	"database-pool": {"0", "1 to"}, "database-pool-max": {"1.5", "1 to"}, "metrics-addr": {"9100", "host:port"}, "append-queue": {"0", "1 to"},
	"addr": {"8090", "host:port"}, "success-rate": {"1.1", "0 to 1"}, "refused": {"x", "0 to 1"}, "latency": {"-1s", "200ms"},
	"lost": {"-0.1", "0 to 1"}, "repeated": {"NaN", "0 to 1"}, "reordered": {"20%", "0 to 1"}, "schema-registry-url": {"h:8081", "http://"},
	"data":    {"/no/such/folder", "data folder"},
	"gateway": {"paypal", "http or stripe"}, "gateway-key": {"sk 1", "printable"}, "stripe-key": {"sk 1", "key of Stripe"}, "stripe-publishable-key": {"pk 1", "pk_live"},
	"return-origins": {"shop.example.com", "scheme://"}, "seed": {"-1", "from 0"}, "slow-latency": {"x", "3s"}, "misbehave": {"2", "0 to 1"}, "action-rate": {"2", "0 to 1"},
	"slow-rate": {"2", "0 to 1"}, "lost-responses": {"2", "0 to 1"}, "repeat-rejected": {"2", "0 to 1"}, "lower-case": {"2", "0 to 1"}, "duplicated": {"2", "0 to 1"},
	"disputed": {"2", "0 to 1"}, "disputes-lost": {"2", "0 to 1"}, "refunds-pending": {"2", "0 to 1"}, "refunds-failed": {"2", "0 to 1"}, "cancel-refused": {"2", "0 to 1"},
	"kafka-topic": {"a topic", "1 to 249"}, "kafka-group": {"a/group", "1 to 249"}, "kafka-sasl": {"GSSAPI", "SCRAM-SHA-512"},
	"kafka-user": {"shop", "--kafka-sasl"}, "kafka-password": {"secret", "--kafka-sasl"}, "kafka-ca": {"/no/such/file", "PEM"},
	"kafka-cert": {"/no/such/file", "--kafka-key"}, "kafka-key": {"/no/such/file", "--kafka-cert"}, "schema-registry-ca": {"/no/such/file", "PEM"},
	"anonymous-rate": {"-1", "whole number"}, "trusted-proxies": {"proxy.example.com", "CIDR"}, "max-connections": {"many", "whole number"},
	"max-connections-per-address": {"-1", "whole number"}, "drain-delay": {"11m", "duration"}, "jwt-default-roles": {"owner", auth.RolesUsage()},
	"schema-registry-user": {"shop", "--schema-registry-password"}, "schema-registry-password": {"secret", "--schema-registry-user"},
}

// anyText takes whatever is written.
var anyText = map[string]bool{"jwt-issuer": true, "jwt-audience": true, "jwt-roles-claim": true}

// Exit status 2 with what would be right (contract 8).
func TestSettings_WrongAreReportedWithARemedy(t *testing.T) {
	unset(t)
	tried := 0
	for _, c := range subcommands() {
		for _, f := range c.Flags {
			name := f.Names()[0]
			variable := "DOPAMINE_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
			if _, ours := f.(*cli.StringFlag); !ours || !visible(f) || anyText[name] || !takes(f, variable) || ((c.Name == "dev" || c.Name == "gateway-sim") && name == "data") {
				continue
			}
			w, known := wrong[name]
			if secret, isFile := strings.CutSuffix(name, "-file"); isFile && !known {
				w, known = wrongValue{"/no/such/file", "value of --" + secret}, wrong[secret] != wrongValue{}
			}
			require.True(t, known, "--%s of %s: no wrong value is known here", name, c.Name)
			args := []string{c.Name}
			if c.ArgsUsage != "" {
				args = append(args, "all")
			}
			for what, set := range map[string]func(t *testing.T) []string{
				"flag":     func(*testing.T) []string { return append(args, "--"+name, w.value) },
				"variable": func(t *testing.T) []string { t.Setenv(variable, w.value); return args },
			} {
				t.Run(c.Name+" "+name+" by "+what, func(t *testing.T) {
					exit, _, said := bounded(t, set(t)...)
					require.Equal(t, 2, exit, said)
					line := ""
					for l := range strings.Lines(said) {
						if strings.HasPrefix(l, "--"+name+" ("+variable+")") {
							line = l
						}
					}
					require.Contains(t, line, w.right, "all output: %s", said)
					tried++
				})
			}
		}
	}
	require.Greater(t, tried, 100)
}

func TestSettings_OneMissingKeyIsNamedOnce(t *testing.T) {
	unset(t)
	t.Chdir(t.TempDir())
	exit, _, errs := bounded(t, "rush", "--buyers", "10", "--stock", "1")
	require.Equal(t, 2, exit)
	require.Equal(t, 1, strings.Count(errs, "--jwt-key (DOPAMINE_JWT_KEY)"), errs)
}

func TestSettings_DatabaseURLOfAModeWithoutArraysIsRefused(t *testing.T) {
	unset(t)
	for _, mode := range []string{"exec", "simple_protocol"} {
		exit, _, errs := bounded(t, "relay", "--kafka-brokers", nobodyListens, "--database-url", "postgres://h/d?default_query_exec_mode="+mode)
		require.Equal(t, 2, exit, mode)
		require.Contains(t, errs, "--database-url (DOPAMINE_DATABASE_URL) has default_query_exec_mode="+mode)
	}
}

// takes reports whether the flag has the variable.
func takes(f cli.Flag, variable string) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && slices.Contains(d.GetEnvVars(), variable)
}

func TestSettings_AreFlagsAndVariables(t *testing.T) {
	for _, name := range longLived {
		c := commandNamed(t, name)
		for _, f := range c.Flags {
			if s, ok := f.(*cli.StringFlag); ok && visible(f) {
				require.True(t, takes(f, "DOPAMINE_"+strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))), "%s --%s", name, s.Name)
			}
		}
	}
}

func TestCommands_UnknownAreRefused(t *testing.T) {
	unset(t)
	for _, args := range [][]string{{"sell"}, {"fairness", "prove"}, {"relay", "--fast"}, {"relay", "now"}, {"dev", "--once"}, {"migrate", "--database-url"},
		{"token", "--sub", "me", "--roles", "buyer", "--jwt-key", "x"}, {"token", "--sub", uuid.NewString(), "--roles", "king", "--jwt-key", "x"},
		{"rush", "--buyers", "0"}, {"rush", "--stock", "-1"}, {"rush", "--pay", "2"}, {"fairness", "verify"}, {"fairness", "verify", "/no/such/file"}, {"replay"}} {
		exit, out, said := bounded(t, args...)
		require.Equal(t, 2, exit, "%v: %s", args, said)
		require.NotEmpty(t, said, "%v", args)
		require.NotContains(t, out, "ready", "%v", args)
	}
	exit, out, _ := bounded(t)
	require.Equal(t, 0, exit)
	for _, c := range subcommands() {
		require.Contains(t, out, c.Name)
	}
	for _, c := range subcommands() {
		exit, out, _ := bounded(t, c.Name, "--help")
		require.Equal(t, 0, exit, c.Name)
		require.Contains(t, out, c.Usage)
	}
}

func TestSettings_ShortSecretIsRefused(t *testing.T) {
	unset(t)
	file := filepath.Join(t.TempDir(), "jwt.key")
	require.NoError(t, os.WriteFile(file, []byte("short"), 0o600))
	exit, _, said := bounded(t, "token", "--jwt-key", file, "--sub", uuid.NewString(), "--roles", "buyer")
	require.Equal(t, 2, exit)
	require.Contains(t, said, "32")
}
