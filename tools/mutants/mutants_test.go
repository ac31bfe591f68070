package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every edit fits the sources as they are, and what must notice it exists.
func TestMutants_FitTheSources(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(mutants), 25)
	scenarios, err := os.ReadDir(filepath.Join(root, "tools", "faults"))
	require.NoError(t, err)
	var harness strings.Builder
	for _, f := range scenarios {
		if strings.HasPrefix(f.Name(), "scenarios") {
			b, err := os.ReadFile(filepath.Join(root, "tools", "faults", f.Name()))
			require.NoError(t, err)
			harness.Write(b)
		}
	}
	names := map[string]bool{}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			require.False(t, names[m.name], "duplicate name")
			names[m.name] = true
			_, err := m.mutate(root)
			require.NoError(t, err)
			if m.scenario != "" {
				for name := range strings.SplitSeq(m.scenario, ",") {
					require.Contains(t, harness.String(), `{name: "`+name+`"`)
				}
				return
			}
			declared := false
			files, err := filepath.Glob(filepath.Join(root, m.pkg, "*_test.go"))
			require.NoError(t, err)
			test := regexp.MustCompile(`func (Test\w+)\(`)
			for _, f := range files {
				b, err := os.ReadFile(f)
				require.NoError(t, err)
				for _, found := range test.FindAllStringSubmatch(string(b), -1) {
					// The part before a slash names the test, the rest a subtest.
					first, _, _ := strings.Cut(m.test, "/")
					declared = declared || regexp.MustCompile(first).MatchString(found[1])
				}
			}
			require.True(t, declared, "no test of %s matches %q", m.pkg, m.test)
		})
	}
}
