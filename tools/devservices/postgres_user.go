package devservices

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// movedNote is the file that names the data's location if it is not in the given folder.
const movedNote = "MOVED.txt"

// serverUser is the user that Postgres runs as: it refuses root.
type serverUser struct {
	name string
	cred *syscall.Credential // nil: the current user
}

// postgresUser returns the current user, or, if that is root, postgres or else nobody.
func postgresUser() (*serverUser, error) {
	if os.Geteuid() != 0 {
		return &serverUser{name: strconv.Itoa(os.Geteuid())}, nil
	}
	for _, name := range lesserUsers {
		if u, err := lesserUser(name); err == nil {
			return u, nil
		}
	}
	return nil, errors.New("postgres does not run as root, and there is neither a user postgres nor nobody: add one, or start as an ordinary user")
}

// lesserUsers are the users that root runs Postgres as, in order of preference.
var lesserUsers = []string{"postgres", "nobody"}

func lesserUser(name string) (*serverUser, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, errU := strconv.ParseUint(u.Uid, 10, 32)
	gid, errG := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(errU, errG); err != nil {
		return nil, err
	}
	return &serverUser{name: name, cred: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
}

// env returns this process's environment without variables that point another user to this one's
// home, or libpq to another server.
func (u *serverUser) env() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PG") && !strings.HasPrefix(kv, "HOME=") {
			env = append(env, kv)
		}
	}
	return env
}

// mayEnter tries it, because access lists and mounts matter too.
func (u *serverUser) mayEnter(ctx context.Context, dir string) bool {
	if u.cred == nil {
		return true
	}
	return run(ctx, u.cred, dir, u.env(), "/bin/sh", "-c", "true") == nil
}

// give changes a file's or folder's owner to the server's user.
func (u *serverUser) give(path string) error {
	if u.cred == nil {
		return nil
	}
	if err := os.Chown(path, int(u.cred.Uid), int(u.cred.Gid)); err != nil {
		return fmt.Errorf("give %s to user %s: %w", path, u.name, err)
	}
	return nil
}

// homeFor returns the folder for data and password: inside dir if the server's user can reach it,
// otherwise a folder under /var/tmp whose name is derived from dir. Existing data in one of them
// decides.
func (u *serverUser) homeFor(ctx context.Context, dir string) (string, error) {
	inside, outside := homes(dir)
	if u.cred == nil {
		return inside, u.makeHome(inside)
	}
	if hasData(inside) || !hasData(outside) {
		if err := u.makeHome(inside); err != nil {
			return "", err
		}
		if u.mayEnter(ctx, inside) {
			return inside, nil
		}
		if hasData(inside) {
			return "", fmt.Errorf("user %s, as whom Postgres runs, can no longer enter %s, where its data lies: make each folder above it enterable again (chmod o+x)", u.name, inside)
		}
		_ = os.Remove(inside) // empty: it would only mislead
	}
	if err := u.makeHome(outside); err != nil {
		return "", err
	}
	if !u.mayEnter(ctx, outside) {
		return "", fmt.Errorf("user %s, as whom Postgres runs, can enter neither %s nor %s: make one of them enterable (chmod o+x on each folder above), or give another data folder", u.name, dir, outside)
	}
	note := fmt.Sprintf("Postgres runs as user %s, who may not enter this folder (see the rights of the folders above it).\nIts data lies in\n%s\n", u.name, outside)
	if err := os.WriteFile(filepath.Join(dir, movedNote), []byte(note), 0o644); err != nil {
		return "", fmt.Errorf("record the location of Postgres' data: %w", err)
	}
	return outside, nil
}

// homes returns the two possible locations for the data of dir.
func homes(dir string) (inside, outside string) {
	return filepath.Join(dir, "server"), filepath.Join("/var/tmp", fmt.Sprintf("dopamine-%.12x", sha256.Sum256([]byte(dir))))
}

func removeHomes(dir string) error {
	inside, outside := homes(dir)
	if err := errors.Join(os.RemoveAll(inside), os.RemoveAll(outside)); err != nil {
		return fmt.Errorf("remove what an earlier Postgres left: %w", err)
	}
	return nil
}

func hasData(home string) bool {
	_, err := os.Stat(filepath.Join(home, "data", "PG_VERSION"))
	return err == nil
}

// makeHome creates the folder, accessible only to the server's user. If it exists, it must belong
// to a user that Postgres may run as (/var/tmp is writable for all), and that user becomes the
// server's user: root may have had only nobody before a package created the user postgres.
func (u *serverUser) makeHome(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		return u.give(dir)
	}
	if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("folder for Postgres' data: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("folder for Postgres' data: %w", err)
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	refused := fmt.Errorf("%s is not a folder of user %s (its owner is %d): move it away, or start as that user", dir, u.name, owner)
	switch {
	case !info.IsDir():
		return refused
	case u.cred == nil:
		if owner != uint32(os.Geteuid()) {
			return refused
		}
		return nil
	case owner == 0:
		return u.give(dir) // created as root and interrupted before its owner was changed
	}
	for _, name := range lesserUsers {
		if other, err := lesserUser(name); err == nil && other.cred.Uid == owner {
			*u = *other
			return nil
		}
	}
	return refused
}

func passwordFile(home string) string { return filepath.Join(home, "password") }

// passwordIn reads the superuser's password, or makes one at the first start.
func (u *serverUser) passwordIn(home string) (string, error) {
	file := passwordFile(home)
	b, err := os.ReadFile(file)
	if err == nil && len(b) > 0 {
		return strings.TrimSpace(string(b)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("password of Postgres: %w", err)
	}
	password := randomHex(16)
	return password, u.keepPassword(home, password)
}

// keepPassword writes the superuser's password to the file that passwordIn reads.
func (u *serverUser) keepPassword(home, password string) error {
	file := passwordFile(home)
	part := file + ".part"
	if err := os.WriteFile(part, []byte(password+"\n"), 0o600); err != nil {
		return fmt.Errorf("password of Postgres: %w", err)
	}
	if err := u.give(part); err != nil {
		return err
	}
	if err := os.Rename(part, file); err != nil {
		return fmt.Errorf("password of Postgres: %w", err)
	}
	return nil
}

// runsFor returns the output of `program --version` as the server's user, "" if that user cannot
// run it.
func (u *serverUser) runsFor(ctx context.Context, program string) string {
	cmd := exec.CommandContext(ctx, program, "--version")
	cmd.Dir, cmd.Env = "/", u.env()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: u.cred}
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
