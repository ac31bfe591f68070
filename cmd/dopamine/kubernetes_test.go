package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

type manifest struct {
	Kind     string
	Metadata struct{ Name string }
	Data     map[string]string
	Spec     struct {
		Template struct {
			Spec struct {
				TerminationGracePeriodSeconds int `yaml:"terminationGracePeriodSeconds"`
				Containers                    []struct {
					Args []string
					Env  []struct{ Name, Value string }
				}
			}
		}
	}
}

// TestKubernetesManifests_FitTheProgram: each container calls a command that exists, with
// variables that it takes and all that it requires; a process has time to stop.
func TestKubernetesManifests_FitTheProgram(t *testing.T) {
	files, err := filepath.Glob("../../deploy/kubernetes/*.yaml")
	require.NoError(t, err)
	known := map[string]bool{}
	for _, c := range subcommands() {
		for v := range variables(c) {
			known[v] = true
		}
	}
	var shared map[string]string
	var manifests []manifest
	for _, file := range files {
		if strings.HasSuffix(file, "kustomization.yaml") {
			continue
		}
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		for documents := yaml.NewDecoder(bytes.NewReader(raw)); ; {
			var m manifest
			err := documents.Decode(&m)
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err, file)
			if m.Kind == "ConfigMap" {
				shared = m.Data
			}
			manifests = append(manifests, m)
		}
	}
	for v := range shared {
		require.True(t, known[v], "no command takes %s", v)
	}
	var run []string
	for _, m := range manifests {
		for _, c := range m.Spec.Template.Spec.Containers {
			cmd := commandNamed(t, c.Args[0])
			run = append(run, cmd.Name)
			given := map[string]bool{}
			for v := range shared {
				given[v] = true
			}
			takes := variables(cmd)
			for _, e := range c.Env {
				require.True(t, takes[e.Name], "%s does not take %s", cmd.Name, e.Name)
				given[strings.TrimSuffix(e.Name, "_FILE")] = true
			}
			for _, s := range requiredVariables[cmd.Name] {
				require.True(t, given[s], "%s needs %s", cmd.Name, s)
			}
			if m.Kind == "Deployment" {
				require.Greater(t, m.Spec.Template.Spec.TerminationGracePeriodSeconds, 10, cmd.Name)
			}
		}
	}
	require.ElementsMatch(t, []string{"migrate", "command-api", "query-api", "relay", "projector", "worker"}, run)
}
