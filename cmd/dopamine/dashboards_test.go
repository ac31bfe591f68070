package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/dopaminestore/dopamine/command"
	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/internal/config"
	"github.com/dopaminestore/dopamine/internal/httpapi"
	"github.com/dopaminestore/dopamine/internal/kafka"
	"github.com/dopaminestore/dopamine/internal/telemetry"
	"github.com/dopaminestore/dopamine/query"
	"github.com/dopaminestore/dopamine/tools/dbtest"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

const root = "../../"

// readYAML reads a file; strict refuses names that into does not have.
func readYAML(t *testing.T, file string, into any, strict bool) {
	t.Helper()
	raw, err := os.ReadFile(root + file)
	require.NoError(t, err)
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(strict)
	require.NoError(t, dec.Decode(into), file)
}

func TestCompose_HasAllServicesAndMountedFiles(t *testing.T) {
	var file composed
	readYAML(t, "docker-compose.yml", &file, false)
	images := map[string]string{}
	for name, s := range file.Services {
		image, version, _ := strings.Cut(s.Image, ":")
		images[image] = name
		if image != "dopamine" {
			require.NotEmpty(t, version, "%s: an image without a version can change", name)
		}
		for _, v := range s.Volumes {
			source, _, _ := strings.Cut(v, ":")
			if strings.HasPrefix(source, ".") {
				require.FileExists(t, filepath.Join(root, source), name)
			}
		}
	}
	for _, image := range []string{"postgres", "redis", "apache/kafka", "confluentinc/cp-schema-registry", "prom/prometheus", "grafana/grafana", "otel/opentelemetry-collector"} {
		require.Contains(t, images, image)
	}
	for _, process := range []string{"relay", "projector", "worker", "command-api", "query-api"} {
		require.Equal(t, "http://otel-collector:4318", file.Services[process].Environment["DOPAMINE_OTLP_ENDPOINT"], process)
		require.Equal(t, "http://schema-registry:8081", file.Services[process].Environment["DOPAMINE_SCHEMA_REGISTRY_URL"], process)
	}
}

func TestPrometheus_ScrapesTheProcesses(t *testing.T) {
	var compose composed
	readYAML(t, "docker-compose.yml", &compose, false)
	t.Run("Prometheus scrapes each process at its metrics address", func(t *testing.T) {
		var scraped struct {
			RuleFiles []string `yaml:"rule_files"`
			Configs   []struct {
				Job   string `yaml:"job_name"`
				Found []struct {
					Names []string `yaml:"names"`
					Port  int      `yaml:"port"`
				} `yaml:"dns_sd_configs"`
			} `yaml:"scrape_configs"`
		}
		readYAML(t, "docs/dashboards/prometheus.yml", &scraped, false)
		require.Equal(t, []string{"/etc/prometheus/alerts.yml"}, scraped.RuleFiles)
		asked := map[string]int{}
		for _, c := range scraped.Configs {
			require.Equal(t, []string{c.Job}, c.Found[0].Names)
			asked[c.Job] = c.Found[0].Port
		}
		// With --metrics-addr the APIs do not serve metrics at their public address.
		for _, process := range []string{"command-api", "query-api", "relay", "projector", "worker"} {
			require.Equal(t, "0.0.0.0:"+strconv.Itoa(asked[process]), compose.Services[process].Environment["DOPAMINE_METRICS_ADDR"], process)
		}
	})
	t.Run("the collector passes traces on", func(t *testing.T) {
		var collector struct {
			Receivers map[string]struct {
				Protocols map[string]struct {
					Endpoint string `yaml:"endpoint"`
				} `yaml:"protocols"`
			} `yaml:"receivers"`
			Exporters map[string]any `yaml:"exporters"`
			Service   struct {
				Pipelines map[string]struct {
					Receivers []string `yaml:"receivers"`
					Exporters []string `yaml:"exporters"`
				} `yaml:"pipelines"`
			} `yaml:"service"`
		}
		readYAML(t, "docs/dashboards/otel-collector.yml", &collector, false)
		require.Equal(t, "0.0.0.0:4318", collector.Receivers["otlp"].Protocols["http"].Endpoint)
		require.Equal(t, []string{"otlp"}, collector.Service.Pipelines["traces"].Receivers)
		for _, e := range collector.Service.Pipelines["traces"].Exporters {
			require.Contains(t, collector.Exporters, e)
		}
	})
	t.Run("Grafana reads Prometheus", func(t *testing.T) {
		var sources struct {
			Datasources []struct{ UID, URL, Type string }
		}
		readYAML(t, "docs/dashboards/grafana/datasources.yml", &sources, false)
		require.Equal(t, []struct{ UID, URL, Type string }{{"prometheus", "http://prometheus:9090", "prometheus"}}, sources.Datasources)
	})
	t.Run("Grafana loads the dashboard", func(t *testing.T) {
		var providers struct {
			Providers []struct{ Options struct{ Path string } }
		}
		readYAML(t, "docs/dashboards/grafana/dashboards.yml", &providers, false)
		dir := providers.Providers[0].Options.Path
		require.Contains(t, compose.Services["grafana"].Volumes, "./docs/dashboards/dopamine.json:"+dir+"/dopamine.json:ro")
	})
}

// everyMetric is registries that hold what all processes register.
func everyMetric(t *testing.T) []*prometheus.Registry {
	t.Helper()
	d, ctx := dbtest.Both(t), t.Context()
	verifier, err := auth.New(ctx, auth.Config{KeyFile: keyFile(t)})
	require.NoError(t, err)
	p := &parts{name: "test", log: slog.New(slog.NewTextHandler(io.Discard, nil)), registry: telemetry.NewRegistry(), tracing: &telemetry.Tracing{}}
	t.Cleanup(p.close)
	two := config.Pool{Max: 2}
	require.NoError(t, p.openWrite(ctx, d.URL, two))
	require.NoError(t, p.openRead(ctx, d.URL, two))
	require.NoError(t, p.openPresence(ctx, true))
	require.NoError(t, p.openStore(ctx, 1))
	require.NoError(t, p.openGate(ctx, redisServer{urls: []string{testkit.Redis(t)}}, two))
	require.NoError(t, p.openPayments(t.Context(), paymentSettings{gatewaySettings{url: "http://" + nobodyListens}, "http://" + nobodyListens, 1e9, 1e9, 1e9}))
	_, err = newCommandAPI(p, command.Config{Addr: "127.0.0.1:0", Verifier: verifier, AppendQueue: 1, SlotTTL: 1e9, WebhookSecrets: []string{secrets}, Registry: p.registry})
	require.NoError(t, err)
	workerService(p)
	clockChecks(p.registry, p.probe, p.probe, p.gate)
	k := kafkaSettings{cluster: kafka.Cluster{Brokers: []string{nobodyListens}}, wanted: kafka.TopicSettings{Partitions: 1}}
	newRelay(p, k, nil)
	newProjector(p, k, nil)
	queries := telemetry.NewRegistry()
	_, err = query.New(query.Config{Server: httpapi.Options{Addr: "127.0.0.1:0", Verifier: verifier, Registry: queries}, ReadPool: p.readPool, WritePool: p.writePool})
	require.NoError(t, err)
	return []*prometheus.Registry{p.registry, queries}
}

// has reports whether a metric of that name is registered, with or without a value.
func has(r *prometheus.Registry, name string) bool {
	probe := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: "only here", ConstLabels: prometheus.Labels{"only": "here"}})
	if r.Register(probe) != nil {
		return true
	}
	r.Unregister(probe)
	return false
}

func TestDashboards_UseExistingMetrics(t *testing.T) {
	registries := everyMetric(t)
	parts := regexp.MustCompile(`_(bucket|sum|count)$`)
	names := regexp.MustCompile(`\b(dopamine|go|process)_[a-z_]+`)
	served := func(name string) bool {
		for _, r := range registries {
			if has(r, name) || has(r, parts.ReplaceAllString(name, "")) {
				return true
			}
		}
		return false
	}
	require.False(t, served("dopamine_no_such_total"))

	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	raw, err := os.ReadFile(root + "docs/dashboards/dopamine.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &board))
	var alerts struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr string
				For         time.Duration
				Annotations map[string]string
			}
		}
	}
	readYAML(t, "docs/dashboards/alerts.yml", &alerts, true)
	runbook, err := os.ReadFile(root + "docs/operations.md")
	require.NoError(t, err)
	asked := map[string]string{}
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			asked["panel "+p.Title+": "+target.Expr] = target.Expr
		}
	}
	for _, g := range alerts.Groups {
		for _, r := range g.Rules {
			asked["alert "+r.Alert] = r.Expr
			require.Len(t, r.Annotations, 2, r.Alert)
			require.NotEmpty(t, r.Annotations["summary"], r.Alert)
			require.Equal(t, "docs/operations.md#"+strings.ToLower(r.Alert), r.Annotations["runbook"])
			require.Contains(t, string(runbook), "### "+r.Alert+"\n\n- Sign: `"+r.Expr+"`", "the runbook has another sign")
		}
	}
	require.Greater(t, len(asked), 40)
	for where, expr := range asked {
		found := names.FindAllString(expr, -1)
		for _, pair := range []string{"()", "{}", "[]"} {
			require.Equal(t, strings.Count(expr, pair[:1]), strings.Count(expr, pair[1:]), where)
		}
		if !strings.HasPrefix(expr, "up ") {
			require.NotEmpty(t, found, where)
		}
		for _, name := range found {
			require.True(t, served(name), "%s: no process serves %s", where, name)
		}
	}
}

func TestAlerts_FireUnderTheFaultsThatTheyAreFor(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		testkit.NotRun(t, "promtool", err)
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = root + "docs/dashboards"
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%v: %s", args, out)
	}
}
