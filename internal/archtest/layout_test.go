package archtest

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/dopaminestore/dopamine"

// mayImport lists for each top-level folder which of the project's folders its code may import.
// Subpackages belong to their folder. Tests are not restricted.
var mayImport = map[string][]string{
	"domain":      {},
	"eventstore":  {"internal"},
	"avsc":        {"domain", "eventstore"},
	"redis":       {"domain", "internal"},
	"db":          {},
	"command":     {"domain", "eventstore", "redis", "avsc", "internal"},
	"query":       {"domain", "eventstore", "avsc", "projections", "redis", "internal"},
	"relay":       {"domain", "eventstore", "avsc", "internal"},
	"projections": {"domain", "eventstore", "avsc", "internal"},
	"recovery":    {"domain", "eventstore", "redis", "avsc", "relay", "projections", "internal"},
	"worker":      {"domain", "eventstore", "redis", "avsc", "command/claims", "command/deadlines", "command/gatestore", "command/origin", "command/payments", "internal"},
	"internal":    {"domain"},
	"cmd":         {"*"},
	"tools":       {"*"},
	"examples":    {},
}

// domainMay lists all packages that the domain may import: none of them does I/O.
var domainMay = []string{
	"bytes", "cmp", "encoding/binary", "encoding/json", "errors", "fmt", "io", "bufio", "iter", "maps", "math", "math/big", "regexp", "slices", "sort", "strconv", "strings", "time", "unicode", "unicode/utf8",
	"github.com/bojanz/currency", "github.com/google/uuid", "github.com/shopspring/decimal",
}

type file struct {
	pkg     string // folder below the module, slash-separated
	imports []string
}

func sources(t *testing.T) []file {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	var files []file
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && p != root {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		f := file{pkg: filepath.ToSlash(rel)}
		for _, i := range parsed.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			f.imports = append(f.imports, name)
		}
		files = append(files, f)
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, len(files), 50, "the sources were not found")
	return files
}

// TestPostgres_PoolsAndTransactionsAreBounded checks that every pool of a process is opened by
// internal/postgres, which bounds its sessions, and that transactions of several round trips on the
// write side are in the files that set their timeouts. If a process dies inside any other
// transaction, its row locks remain, and the holder of the append lock might wait for them.
func TestPostgres_PoolsAndTransactionsAreBounded(t *testing.T) {
	mayOpen := []string{"internal/postgres", "tools"}
	writeSide := []string{"command", "worker", "redis", "eventstore", "relay", "query", "cmd"}
	mayBegin := []string{"command/gatestore/snapshot.go", "command/gatestore/raise.go"}
	for name, text := range texts(t) {
		under := func(folder string) bool { return strings.HasPrefix(name, folder+"/") }
		if strings.Contains(text, "pgxpool.New") && !slices.ContainsFunc(mayOpen, under) {
			t.Errorf("%s opens a pool without internal/postgres", name)
		}
		for _, begins := range []string{"pgx.BeginFunc(", "pgx.BeginTxFunc(", ".BeginTx(", ".Begin(ctx)"} {
			if strings.Contains(text, begins) && slices.ContainsFunc(writeSide, under) && !slices.Contains(mayBegin, name) {
				t.Errorf("%s begins a transaction (%s); use one statement, or bound it and list it here", name, begins)
			}
		}
	}
}

// texts returns the program's sources by their path below the module.
func texts(t *testing.T) map[string]string {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	found := map[string]string{}
	require.NoError(t, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return err
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		found[filepath.ToSlash(rel)] = string(text)
		return err
	}))
	return found
}

func top(pkg string) string { return strings.Split(pkg, "/")[0] }

// testOnly reports whether a package is imported by tests only. Such a package may import what it
// tests.
func testOnly(pkg string) bool { return strings.HasSuffix(pkg, "test") || pkg == "tools/testkit" }

func TestImports_PointOneWay(t *testing.T) {
	for _, f := range sources(t) {
		allowed, known := mayImport[top(f.pkg)]
		if !known {
			t.Errorf("%s: a folder that the layout does not know", f.pkg)
			continue
		}
		for _, name := range f.imports {
			ours, ok := strings.CutPrefix(name, module+"/")
			if !ok || top(ours) == top(f.pkg) || testOnly(f.pkg) || slices.Contains(allowed, "*") {
				continue
			}
			if !slices.ContainsFunc(allowed, func(a string) bool { return ours == a || strings.HasPrefix(ours, a+"/") }) {
				t.Errorf("%s imports %s; it may import %v", f.pkg, ours, allowed)
			}
		}
	}
}

// Nothing that runs in production depends on a tool.
func TestTools_AreImportedByCommandsAndTestsOnly(t *testing.T) {
	for _, f := range sources(t) {
		if top(f.pkg) == "tools" || top(f.pkg) == "cmd" {
			continue
		}
		for _, name := range f.imports {
			if strings.HasPrefix(name, module+"/tools/") {
				t.Errorf("%s imports %s, which is a tool", f.pkg, name)
			}
		}
	}
}

// Read models, replays and readers share the contract in projections, not the running projector.
func TestProjector_IsImportedByCommandsAndTestsOnly(t *testing.T) {
	const projector = "projections/projector"
	for _, f := range sources(t) {
		if f.pkg != projector && top(f.pkg) != "cmd" && !testOnly(f.pkg) && slices.Contains(f.imports, module+"/"+projector) {
			t.Errorf("%s imports %s; what they share belongs into projections", f.pkg, projector)
		}
	}
}

func TestDomain_DoesNoIO(t *testing.T) {
	for _, f := range sources(t) {
		if top(f.pkg) != "domain" {
			continue
		}
		for _, name := range f.imports {
			if !slices.Contains(domainMay, name) && !strings.HasPrefix(name, path.Join(module, "domain")) {
				t.Errorf("%s imports %s", f.pkg, name)
			}
		}
	}
}

func TestTestOnlyPackages_AreNotInTheProgram(t *testing.T) {
	for _, f := range sources(t) {
		for _, name := range f.imports {
			if ours, ok := strings.CutPrefix(name, module+"/"); ok && testOnly(ours) && !testOnly(f.pkg) {
				t.Errorf("%s imports %s, which is for tests", f.pkg, ours)
			}
		}
	}
}

// A panic in a goroutine ends the process. Therefore each goroutine without an error result, in
// packages that production runs, first logs what it was doing. (An error group passes a panic to
// its Wait.)
func TestGoroutines_LogTheirPanics(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	guarded := 0
	seen := map[string]bool{}
	for _, f := range sources(t) {
		if seen[f.pkg] {
			continue
		}
		seen[f.pkg] = true
		if top, _, _ := strings.Cut(f.pkg, "/"); top == "tools" || slices.Contains([]string{"internal/guard", "internal/postgres"}, f.pkg) {
			continue
		}
		for name, literal := range goroutines(t, filepath.Join(root, f.pkg)) {
			first := ""
			if len(literal.Body.List) > 0 {
				if d, ok := literal.Body.List[0].(*ast.DeferStmt); ok {
					if s, ok := d.Call.Fun.(*ast.SelectorExpr); ok {
						if x, ok := s.X.(*ast.Ident); ok {
							first = x.Name + "." + s.Sel.Name
						}
					}
				}
			}
			assert.Equal(t, "guard.Log", first, "%s: a goroutine must begin with defer guard.Log(\"what it does\")", name)
			guarded++
		}
	}
	require.Greater(t, guarded, 20)
}

// goroutines returns the function literals without results that a folder starts as goroutines, by
// their location.
func goroutines(t *testing.T, dir string) map[string]*ast.FuncLit {
	found := map[string]*ast.FuncLit{}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, name, nil, 0)
		require.NoError(t, err)
		note := func(e ast.Expr) {
			if literal, ok := e.(*ast.FuncLit); ok && literal.Type.Results == nil {
				found[set.Position(literal.Pos()).String()] = literal
			}
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				note(n.Call.Fun)
			case *ast.CallExpr:
				if s, ok := n.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Go" && len(n.Args) == 1 {
					note(n.Args[0])
				}
			}
			return true
		})
	}
	return found
}

// code returns the text of all files of the code with one of the extensions, without tests.
func code(t *testing.T, extensions ...string) string {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	var all strings.Builder
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && p != root {
			return filepath.SkipDir
		}
		if !slices.Contains(extensions, filepath.Ext(p)) || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(p)
		all.Write(text)
		return err
	})
	require.NoError(t, err)
	return all.String()
}

// section returns the part of a document from a heading to the next one of its level.
func section(t *testing.T, document, heading string) string {
	text, err := os.ReadFile("../../" + document)
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "\n"+heading+"\n")
	require.True(t, found, "%s: %s", document, heading)
	rest, _, _ = strings.Cut(rest, "\n## ")
	return rest
}

// table returns the rows of a section that have as many cells.
func table(t *testing.T, document, heading string, cells int) (rows [][]string) {
	for line := range strings.Lines(section(t, document, heading)) {
		if row := strings.Split(strings.TrimSpace(line), " | "); len(row) == cells {
			rows = append(rows, row)
		}
	}
	return rows
}

var quoted = regexp.MustCompile("`([^`]+)`")

// TestGlossary_NamesCodeThatExists: each name in the last column of the glossary occurs in the code.
// Of a qualified name the last part counts; a name that ends with … is a prefix.
func TestGlossary_NamesCodeThatExists(t *testing.T) {
	words := map[string]bool{}
	for _, word := range regexp.MustCompile(`\w+`).FindAllString(code(t, ".go", ".sql", ".lua"), -1) {
		words[word] = true
	}
	glossary := table(t, "docs/architecture.md", "## 5. Glossary", 3)
	for _, cells := range glossary {
		for _, m := range quoted.FindAllStringSubmatch(cells[2], -1) {
			name := m[1][strings.LastIndexByte(m[1], '.')+1:]
			exists := words[name]
			if prefix, cut := strings.CutSuffix(name, "…"); cut {
				for word := range words {
					exists = exists || strings.HasPrefix(word, prefix)
				}
			}
			assert.True(t, exists, "%s: %s is not in the code", cells[0], m[1])
		}
	}
	require.Greater(t, len(glossary), 30)
}

// TestOperations_NamesMessagesThatExist: each message in the table of what makes a read model lag
// occurs in the code, and so does each metric.
func TestOperations_NamesMessagesThatExist(t *testing.T) {
	all := code(t, ".go") + context.DeadlineExceeded.Error()
	causes := table(t, "docs/operations.md", "## Why a read model lags", 4)
	for _, cells := range causes {
		for _, m := range quoted.FindAllStringSubmatch(cells[1], -1) {
			for part := range strings.SplitSeq(m[1], "…") {
				assert.True(t, strings.Contains(all, strings.TrimSpace(part)), "%s: %s is not in the code", cells[0], part)
			}
		}
		for _, m := range regexp.MustCompile(`dopamine_(?:relay|projector)_(\w+)`).FindAllStringSubmatch(cells[2], -1) {
			assert.True(t, strings.Contains(all, `"`+m[1]+`"`), "%s: %s is not in the code", cells[0], m[0])
		}
	}
	require.Greater(t, len(causes), 20)
}
