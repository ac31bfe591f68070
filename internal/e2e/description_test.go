package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/auth"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

const (
	// schemathesisVersion and oapiCodegenVersion are those whose results are known.
	schemathesisVersion = "4.32.5"
	oapiCodegenVersion  = "v2.8.2"
	// installTimeout bounds downloads from a registry.
	installTimeout = 5 * time.Minute
	// testerTimeout bounds one run of the schema-driven tester.
	testerTimeout = 4 * time.Minute
)

// runIn runs a program in a folder and returns its output.
func runIn(t *testing.T, dir string, timeout time.Duration, program string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = errors.Join(err, ctx.Err())
	}
	return string(out), err
}

// describe fetches the descriptions of both APIs into a folder.
func (s *site) describe() (dir string, files map[string]string) {
	dir = s.t.TempDir()
	files = map[string]string{}
	for name, base := range map[string]string{"command": s.command, "query": s.query} {
		res, err := http.Get(base + "/openapi.yaml")
		require.NoError(s.t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(s.t, err)
		require.NoError(s.t, res.Body.Close())
		files[name] = filepath.Join(dir, name+".yaml")
		require.NoError(s.t, os.WriteFile(files[name], body, 0o600))
	}
	return dir, files
}

// TestDescription_GeneratedClient generates a Go client of each API and compiles it.
func TestDescription_GeneratedClient(t *testing.T) {
	s := openSite(t)
	_, files := s.describe()
	for name, file := range files {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module client\n\ngo 1.26\n"), 0o600))
			out, err := runIn(t, dir, installTimeout, "go", "run", "github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@"+oapiCodegenVersion,
				"-generate", "types,client", "-package", "client", "-o", "client.go", file)
			if err != nil {
				if said, away := runIn(t, dir, installTimeout, "go", "mod", "download", "github.com/oapi-codegen/oapi-codegen/v2@"+oapiCodegenVersion); away != nil {
					testkit.NotRun(t, "oapi-codegen", fmt.Errorf("%w: %s", away, said))
				}
			}
			require.NoError(t, err, out)
			if out, err = runIn(t, dir, installTimeout, "go", "mod", "tidy"); err != nil {
				testkit.NotRun(t, "the generated client's modules", fmt.Errorf("%w: %s", err, out))
			}
			out, err = runIn(t, dir, installTimeout, "go", "vet", "./...")
			require.NoError(t, err, out)
		})
	}
}

// schemathesis returns the program, installed once for this machine.
func schemathesis(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "dopamine", "schemathesis-"+schemathesisVersion)
	program := filepath.Join(dir, "bin", "schemathesis")
	if _, err := os.Stat(program); err == nil {
		return program
	}
	python := testkit.Program(t, "python3-venv", "python3")
	for _, args := range [][]string{
		{python, "-m", "venv", dir},
		{filepath.Join(dir, "bin", "pip"), "install", "-q", "schemathesis==" + schemathesisVersion},
	} {
		if out, err := runIn(t, t.TempDir(), installTimeout, args[0], args[1:]...); err != nil {
			testkit.NotRun(t, "schemathesis", fmt.Errorf("%w: %s", err, out))
		}
	}
	return program
}

// TestDescription_Schemathesis sends requests that are made from the descriptions, valid
// and not, with a token of all roles: no response is a server error, and each has a
// status, a media type, headers and a body that the description names.
func TestDescription_Schemathesis(t *testing.T) {
	program := schemathesis(t)
	s := openSite(t)
	dir, files := s.describe()
	token := "Bearer " + s.users.new(auth.Buyer|auth.Admin).token
	for name, base := range map[string]string{"command": s.command, "query": s.query} {
		t.Run(name, func(t *testing.T) {
			out, err := runIn(t, dir, testerTimeout, program, "run", files[name], "--url", base,
				"--header", "Authorization: "+token, "--max-examples", "15", "--seed", "1", "--workers", "1", "--phases", "examples,coverage,fuzzing",
				"--request-timeout", "10", "--exclude-path-regex", "stream$|/metrics",
				"--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance")
			if err != nil {
				const shown = 40_000
				t.Fatalf("%v: %s", err, out[max(0, len(out)-shown):])
			}
		})
	}
}
