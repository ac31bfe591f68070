package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v3"
	"gopkg.in/yaml.v3"
)

// composed is the part of docker-compose.yml that must match the program.
type composed struct {
	Services map[string]struct {
		Image       string            `yaml:"image"`
		Command     []string          `yaml:"command"`
		Environment map[string]string `yaml:"environment"`
		Volumes     []string          `yaml:"volumes"`
	} `yaml:"services"`
}

// unusedBy has variables that compose sets for all services and a service does not use.
var unusedBy = map[string][]string{}

// requiredVariables are the variables without which a command does not start.
var requiredVariables = map[string][]string{
	"command-api": {"DOPAMINE_DATABASE_URL", "DOPAMINE_REDIS_URL", "DOPAMINE_JWT_KEY", "DOPAMINE_WEBHOOK_SECRETS", "DOPAMINE_GATEWAY_URL"},
	"query-api":   {"DOPAMINE_DATABASE_URL", "DOPAMINE_JWT_KEY"},
	"relay":       {"DOPAMINE_DATABASE_URL", "DOPAMINE_KAFKA_BROKERS"},
	"projector":   {"DOPAMINE_DATABASE_URL", "DOPAMINE_KAFKA_BROKERS"},
	"worker":      {"DOPAMINE_DATABASE_URL", "DOPAMINE_REDIS_URL", "DOPAMINE_GATEWAY_URL"},
	"gateway-sim": {"DOPAMINE_WEBHOOK_SECRETS"},
	"migrate":     {"DOPAMINE_DATABASE_URL"},
}

func TestCompose_MatchesTheProgramsSettings(t *testing.T) {
	raw, err := os.ReadFile("../../docker-compose.yml")
	require.NoError(t, err)
	var file composed
	require.NoError(t, yaml.Unmarshal(raw, &file))
	known := map[string]bool{} // variables that some command takes
	for _, c := range subcommands() {
		for v := range variables(c) {
			known[v] = true
		}
	}
	var run []string
	for name, s := range file.Services {
		if s.Image != "dopamine" {
			continue
		}
		require.NotEmpty(t, s.Command, name)
		c := commandNamed(t, s.Command[0])
		run = append(run, c.Name)
		for _, arg := range s.Command[1:] {
			if flag, ok := strings.CutPrefix(arg, "--"); ok {
				flag, _, _ = strings.Cut(flag, "=")
				require.True(t, slices.ContainsFunc(c.Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), flag) }), "%s: --%s", name, flag)
			}
		}
		takes := variables(c)
		for v, value := range s.Environment {
			if !strings.HasPrefix(v, "DOPAMINE_") {
				continue
			}
			require.True(t, known[v], "%s: no command takes %s", name, v)
			require.NotEmpty(t, value, "%s: %s", name, v)
			_, own := takes[v]
			shared := strings.HasPrefix(v, "DOPAMINE_DATABASE") || strings.HasPrefix(v, "DOPAMINE_REDIS") ||
				strings.HasPrefix(v, "DOPAMINE_KAFKA") || strings.HasPrefix(v, "DOPAMINE_SCHEMA_REGISTRY") || v == "DOPAMINE_METRICS_ADDR" || slices.Contains(unusedBy[name], v)
			require.True(t, own || shared, "%s: %s does not take %s", name, c.Name, v)
		}
		// Every required variable is set.
		for _, v := range requiredVariables[c.Name] {
			require.Contains(t, s.Environment, v, name)
		}
	}
	require.Subset(t, run, []string{"migrate", "command-api", "query-api", "relay", "projector", "worker", "gateway-sim"}, "each process as a separate service")
}

// variables returns the variables of a command's flags.
func variables(c *cli.Command) map[string]bool {
	all := map[string]bool{}
	for _, f := range c.Flags {
		if d, ok := f.(cli.DocGenerationFlag); ok {
			for _, v := range d.GetEnvVars() {
				all[v] = true
			}
		}
	}
	return all
}
