package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

// released is the configuration of goreleaser. Its keys are all that the file may have, since
// `task lint:release` has found them valid.
type released struct {
	Version     int    `yaml:"version"`
	ProjectName string `yaml:"project_name"`
	Before      struct {
		Hooks []string `yaml:"hooks"`
	} `yaml:"before"`
	Builds []struct {
		Main         string   `yaml:"main"`
		Binary       string   `yaml:"binary"`
		Env          []string `yaml:"env"`
		Goos         []string `yaml:"goos"`
		Goarch       []string `yaml:"goarch"`
		Flags        []string `yaml:"flags"`
		Ldflags      []string `yaml:"ldflags"`
		ModTimestamp string   `yaml:"mod_timestamp"`
	} `yaml:"builds"`
	Archives []struct {
		Formats      []string `yaml:"formats"`
		NameTemplate string   `yaml:"name_template"`
		Files        []string `yaml:"files"`
	} `yaml:"archives"`
	Checksum struct {
		NameTemplate string `yaml:"name_template"`
	} `yaml:"checksum"`
	Changelog struct {
		Use  string `yaml:"use"`
		Sort string `yaml:"sort"`
	} `yaml:"changelog"`
}

// TestRelease_NamesWhatTheRepositoryHas checks what goreleaser would notice only in a release: a
// variable of the linker's flags that does not exist is ignored by Go.
func TestRelease_NamesWhatTheRepositoryHas(t *testing.T) {
	const root = "../.."
	raw, err := os.ReadFile(filepath.Join(root, ".goreleaser.yaml"))
	require.NoError(t, err)
	var r released
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	decoder.KnownFields(true)
	require.NoError(t, decoder.Decode(&r))
	require.Equal(t, 2, r.Version)
	for _, b := range r.Builds {
		require.FileExists(t, filepath.Join(root, b.Main, "main.go"))
		flags := strings.Fields(strings.Join(b.Ldflags, " "))
		for i, flag := range flags {
			if flag != "-X" {
				continue
			}
			variable, _, _ := strings.Cut(flags[i+1], "=")
			dir, name := filepath.Split(strings.TrimPrefix(variable, "github.com/dopaminestore/dopamine/"))
			pkg, name, _ := strings.Cut(name, ".")
			require.True(t, declares(t, filepath.Join(root, dir, pkg), name), variable)
		}
	}
	for _, a := range r.Archives {
		for _, file := range a.Files {
			require.FileExists(t, filepath.Join(root, file))
		}
	}
}

// declares reports whether a package has a variable of that name.
func declares(t *testing.T, dir, name string) bool {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	for _, file := range files {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		if bytes.Contains(source, []byte("\nvar "+name+" ")) || bytes.Contains(source, []byte("\n\t"+name+" ")) {
			return true
		}
	}
	return false
}
