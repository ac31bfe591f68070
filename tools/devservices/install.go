package devservices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// ErrNotHere means that a server, or what is needed to run it, is not on this machine and could not
// be installed. The wrapping error describes what would help.
var ErrNotHere = errors.New("not on this machine")

// installWithin bounds one installation, downloads included.
const installWithin = 10 * time.Minute

// aptInstall installs Debian packages as root, non-interactively, unless present reports that they
// have been installed meanwhile. One process of the machine does it at a time. Package lists are
// updated only if the packages are not found in the current ones.
func aptInstall(ctx context.Context, log *slog.Logger, present func() bool, packages ...string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("apt-get needs root: %w", ErrNotHere)
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		return fmt.Errorf("no apt-get: %w", ErrNotHere)
	}
	ctx, cancel := context.WithTimeout(ctx, installWithin)
	defer cancel()
	cache, err := cacheFolder()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return fmt.Errorf("cache folder: %w", err)
	}
	lock, err := awaitLock(ctx, filepath.Join(cache, "apt.lock"))
	if err != nil {
		return err
	}
	defer lock.unlock()
	if present() {
		return nil
	}
	env := append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	install := append([]string{"-q", "-y", "-o", "DPkg::Lock::Timeout=120",
		"install", "--no-install-recommends"}, packages...)
	log.Info("installing with apt-get, once for this machine", "packages", packages)
	if run(ctx, nil, "/", env, apt, install...) == nil {
		return nil
	}
	log.Info("fetching apt-get's package lists")
	if err := run(ctx, nil, "/", env, apt, "-q", "update"); err != nil {
		log.Warn("package lists could not be fetched", "error", err)
	}
	if err := run(ctx, nil, "/", env, apt, install...); err != nil {
		return fmt.Errorf("install %v: %w", packages, err)
	}
	return nil
}

// onPath returns the program's full path, "" if it is not in PATH.
func onPath(program string) string {
	path, err := exec.LookPath(program)
	if err != nil {
		return ""
	}
	return path
}

// quiet returns log, or a logger that discards everything if log is nil.
func quiet(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}

// cacheFolder is the folder for downloaded servers: the user's cache folder, but for root one that
// other users may enter, because Postgres then runs as another user.
func cacheFolder() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/cache/dopamine", nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no folder to keep downloads in: %w", err)
	}
	return filepath.Join(cache, "dopamine"), nil
}

// fetchOnce creates the folder name under the cache folder, once for all processes: fetch fills a
// temporary folder, which is renamed when it is complete.
func fetchOnce(ctx context.Context, name string, fetch func(ctx context.Context, into string) error) (string, error) {
	cache, err := cacheFolder()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("cache folder: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, installWithin)
	defer cancel()
	lock, err := awaitLock(ctx, filepath.Join(cache, name+".lock"))
	if err != nil {
		return "", err
	}
	defer lock.unlock()
	dir := filepath.Join(cache, name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	part := dir + ".part"
	if err := os.RemoveAll(part); err != nil {
		return "", fmt.Errorf("remove an unfinished download: %w", err)
	}
	if err := os.MkdirAll(part, 0o755); err != nil {
		return "", fmt.Errorf("cache folder: %w", err)
	}
	if err := fetch(ctx, part); err != nil {
		_ = os.RemoveAll(part)
		return "", err
	}
	if err := os.Rename(part, dir); err != nil {
		return "", fmt.Errorf("keep what was downloaded: %w", err)
	}
	return dir, nil
}

// Chromium returns the path of a Chromium, for the tests of pages; see Program.
func Chromium(ctx context.Context, log *slog.Logger) (string, error) {
	return Program(ctx, log, "chromium", "chromium", "chromium-browser", "google-chrome")
}

// Program returns the path of the first of the named programs that the machine has. If it
// has none, the Debian package that contains it is installed, provided that we are root;
// otherwise the error matches ErrNotHere and names the package.
func Program(ctx context.Context, log *slog.Logger, debianPackage string, names ...string) (string, error) {
	find := func() string {
		for _, name := range names {
			for _, candidate := range []string{name, "/usr/sbin/" + name} { // sbin is not in every PATH
				if path := onPath(candidate); path != "" {
					return path
				}
			}
		}
		return ""
	}
	if path := find(); path != "" {
		return path, nil
	}
	if err := aptInstall(ctx, quiet(log), func() bool { return find() != "" }, debianPackage); err != nil {
		return "", fmt.Errorf("no %s; install the package %s: %w", names[0], debianPackage, err)
	}
	return find(), nil
}
