package db

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// What a check finds wrong with a schema, each wrapped with what to do.
var (
	ErrSchemaMissing     = errors.New("the schema is missing")
	ErrSchemaOlder       = errors.New("the schema is older than this program")
	ErrSchemaNewer       = errors.New("the schema is newer than this program")
	ErrSchemaHalfApplied = errors.New("the schema is applied in part")
)

// CheckWrite says whether the database at url has exactly the write side's
// schema that this program was built with; if not, its error matches one of the
// ErrSchema… and says what to do.
func CheckWrite(ctx context.Context, url string) error { return writeSet.check(ctx, url) }

// CheckRead is CheckWrite for the read side's schema.
func CheckRead(ctx context.Context, url string) error { return readSet.check(ctx, url) }

func (s set) check(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	conn, err := connect(ctx, url, checkConnectTimeout)
	if isCode(err, pgerrcode.InvalidCatalogName) {
		return fmt.Errorf("%s side: %w, and so is the database: check its name in the URL, or run `dopamine migrate --create-database`", s.name, ErrSchemaMissing)
	}
	if err != nil {
		return fmt.Errorf("check the %s side's schema: %w", s.name, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	pending, err := s.inspect(ctx, conn)
	switch {
	case err != nil:
		return err
	case len(pending) == 0:
		return nil
	}
	all, err := s.versions()
	switch {
	case err != nil:
		return err
	case len(pending) == len(all):
		return fmt.Errorf("%s side: %w: run `dopamine migrate`", s.name, ErrSchemaMissing)
	case !slices.Equal(pending, all[len(all)-len(pending):]):
		return fmt.Errorf("%s side: %w: %s is not applied, later ones are: run `dopamine migrate`",
			s.name, ErrSchemaHalfApplied, strings.Join(pending, ", "))
	}
	return fmt.Errorf("%s side: %w: %s is not applied: run `dopamine migrate`",
		s.name, ErrSchemaOlder, strings.Join(pending, ", "))
}

// inspect gives the versions that are not applied yet, ascending. A schema that
// no migrating can put right is an error: one with migrations that this program
// does not know, or whose record and tables contradict each other.
func (s set) inspect(ctx context.Context, conn *pgx.Conn) (pending []string, err error) {
	all, err := s.versions()
	if err != nil {
		return nil, err
	}
	var schema string // where new tables go; "" where no schema of the search_path exists
	if err := conn.QueryRow(ctx, "select coalesce(current_schema(), '')").Scan(&schema); err != nil {
		return nil, fmt.Errorf("look for the schema of the %s side: %w", s.name, err)
	}
	applied, err := s.applied(ctx, conn, schema)
	if err != nil {
		return nil, err
	}
	var unknown []string
	for _, version := range applied {
		if !slices.Contains(all, version) {
			unknown = append(unknown, version)
		}
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("%s side: %w, which does not know migration %s: run the program that made it, or a later one",
			s.name, ErrSchemaNewer, strings.Join(unknown, ", "))
	}
	for _, version := range all {
		if !slices.Contains(applied, version) {
			pending = append(pending, version)
		}
	}
	var there bool
	err = conn.QueryRow(ctx, "select exists (select from pg_tables where schemaname = $1 and tablename = $2)",
		schema, s.probe).Scan(&there)
	if err != nil {
		return nil, fmt.Errorf("look for table %s: %w", s.probe, err)
	}
	if recorded := slices.Contains(applied, all[0]); recorded != there {
		return nil, fmt.Errorf("%s side: %w: migration %s is recorded in %s: %t, its table %s is there: %t; "+
			"restore the database from a backup, or begin with an empty one",
			s.name, ErrSchemaHalfApplied, all[0], s.table, recorded, s.probe, there)
	}
	return pending, nil
}

// applied gives the versions on record, ascending; none where there is no record.
func (s set) applied(ctx context.Context, conn *pgx.Conn, schema string) ([]string, error) {
	// An error of Query comes out of CollectRows again.
	rows, _ := conn.Query(ctx, "select version from "+pgx.Identifier{schema, s.table}.Sanitize()+" order by version")
	versions, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if isCode(err, pgerrcode.UndefinedTable) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.table, err)
	}
	return versions, nil
}

// isCode reports whether err is Postgres' error of that SQLSTATE.
func isCode(err error, code string) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == code
}
