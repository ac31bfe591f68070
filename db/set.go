package db

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"regexp"
)

//go:embed write/*.sql read/*.sql
var files embed.FS

// set is one side's migrations.
type set struct {
	name  string // of its folder, and in messages
	table string // where dbmate records what it has applied
	probe string // a table that is there exactly when the first migration has run
}

var (
	writeSet = set{name: "write", table: "schema_migrations", probe: "events"}
	readSet  = set{name: "read", table: "read_schema_migrations", probe: "projection_generations"}
)

// fileVersion is how dbmate takes a version from a file's name.
var fileVersion = regexp.MustCompile(`^(\d+).*\.sql$`)

// versions are the versions of the set's files, ascending.
func (s set) versions() ([]string, error) {
	entries, err := fs.ReadDir(files, s.name) // sorted by name
	if err != nil {
		return nil, fmt.Errorf("read the embedded %s migrations: %w", s.name, err)
	}
	var versions []string
	for _, entry := range entries {
		if match := fileVersion.FindStringSubmatch(entry.Name()); match != nil {
			versions = append(versions, match[1])
		}
	}
	return versions, nil
}

// Digest is a hash over all migrations, in hex: it changes when one does, so a
// database made from it can be told from one made from others.
func Digest() string {
	sum := sha256.New()
	err := fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := files.ReadFile(path)
		fmt.Fprintf(sum, "%s %d\n%s", path, len(content), content)
		return err
	})
	if err != nil {
		panic("db: the embedded migrations cannot be read: " + err.Error()) // they are in the binary
	}
	return hex.EncodeToString(sum.Sum(nil))
}
