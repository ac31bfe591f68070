package devservices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// postgresBin is a folder with the server's programs.
type postgresBin struct {
	dir     string
	version string // "15.18"
}

func (b postgresBin) path(program string) string { return filepath.Join(b.dir, program) }

// major returns the major version; data folders are compatible only within it.
func (b postgresBin) major() string {
	major, _, _ := strings.Cut(b.version, ".")
	return major
}

// findPostgres returns binaries that the server's user can run and that match the data's major
// version ("": any), installed on the machine or fetched.
func findPostgres(ctx context.Context, u *serverUser, wanted string, noInstall bool, log *slog.Logger) (postgresBin, error) {
	found := postgresHere(ctx, u)
	if bin, ok := fitting(found, wanted); ok {
		return bin, nil
	}
	var tried error
	if !noInstall && (wanted == "" || wanted == broughtMajor) {
		var bin postgresBin
		if bin, tried = bringPostgres(ctx, u, wanted, log); tried == nil {
			return bin, nil
		}
	}
	if len(found) > 0 {
		var has []string
		for _, b := range found {
			has = append(has, b.version+" in "+b.dir)
		}
		return postgresBin{}, errors.Join(fmt.Errorf("it was created by PostgreSQL %s, but only %s is installed: install PostgreSQL %s (Debian: apt-get install postgresql-%s), or move the folder away to begin empty",
			wanted, strings.Join(has, ", "), wanted, wanted), tried)
	}
	return postgresBin{}, fmt.Errorf("a Postgres server is %w: install one (Debian: apt-get install postgresql), or Maven or npm so that it can be downloaded, or point to a running one with --database-url (tried: %w)",
		ErrNotHere, errors.Join(errors.New("pg_config --bindir, /usr/lib/postgresql/*/bin, PATH"), tried))
}

func fitting(found []postgresBin, wanted string) (postgresBin, bool) {
	for _, b := range found {
		if wanted == "" || b.major() == wanted {
			return b, true
		}
	}
	return postgresBin{}, false
}

// postgresHere lists the servers of the machine in order of preference: pg_config's, Debian's from
// the newest, PATH's, fetched ones.
func postgresHere(ctx context.Context, u *serverUser) []postgresBin {
	var dirs []string
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	debian, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is well-formed
	slices.SortFunc(debian, func(a, b string) int { return debianMajor(b) - debianMajor(a) })
	dirs = append(dirs, debian...)
	if path := onPath("postgres"); path != "" {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	if cache, err := cacheFolder(); err == nil {
		for _, s := range broughtAlong() {
			dirs = append(dirs, filepath.Join(cache, s.folder, s.bin))
		}
	}
	var found []postgresBin
	seen := map[string]bool{}
	for _, dir := range dirs {
		if seen[dir] {
			continue
		}
		seen[dir] = true
		if b, ok := postgresIn(ctx, u, dir); ok {
			found = append(found, b)
		}
	}
	return found
}

func debianMajor(bin string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(bin))) // not a number: last
	return n
}

// postgresIn checks a folder for the two programs that a server needs.
func postgresIn(ctx context.Context, u *serverUser, dir string) (postgresBin, bool) {
	b := postgresBin{dir: dir}
	for _, program := range []string{"initdb", "postgres"} {
		if _, err := os.Stat(b.path(program)); err != nil {
			return b, false
		}
	}
	// "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
	said := strings.Fields(u.runsFor(ctx, b.path("postgres")))
	if len(said) < 3 || u.runsFor(ctx, b.path("initdb")) == "" {
		return b, false
	}
	b.version = said[2]
	return b, true
}
