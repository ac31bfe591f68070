package devservices

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// folder returns a folder that the server's user may enter, unlike t.TempDir's.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	require.NoError(t, os.Chmod(dir, 0o755))
	return dir
}

func startPostgresIn(t *testing.T, dir string) *Postgres {
	t.Helper()
	p, err := StartPostgres(t.Context(), PostgresOptions{Dir: dir})
	skipWhereMissing(t, err)
	stopped(t, p)
	return p
}

func ask[T any](t *testing.T, url, sql string) (answer T) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&answer))
	return answer
}

const someRows = "select count(*)::int from sale"

func makeSale(t *testing.T, url string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "create table sale as select * from generate_series(1, 1000)")
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
}

func TestPostgres_KeepsItsDataAcrossEveryEnd(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	p := startPostgresIn(t, dir)
	makeSale(t, p.URL())
	require.Equal(t, "on", ask[string](t, p.URL(), "show fsync"))

	url := p.URL()
	require.NoError(t, p.Restart(t.Context()), "after kill -9")
	require.Equal(t, url, p.URL())
	require.Equal(t, 1000, ask[int](t, url, someRows))

	_, err := StartPostgres(t.Context(), PostgresOptions{Dir: dir})
	require.ErrorIs(t, err, ErrInUse)

	require.NoError(t, p.Stop(t.Context()))
	require.NoError(t, p.Stop(t.Context()), "twice")

	again := startPostgresIn(t, dir)
	require.Equal(t, 1000, ask[int](t, again.URL(), someRows))
}

func TestPostgres_RestartsAfterItsParentWasKilled(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	p := startPostgresIn(t, dir)
	makeSale(t, p.URL())
	require.NoError(t, p.Stop(t.Context()))
	killProgram(t, "postgres="+dir)
	again := startPostgresIn(t, dir)
	require.Equal(t, 1000, ask[int](t, again.URL(), someRows))
}

func TestPostgres_IgnoresAReusedProcessID(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	p := startPostgresIn(t, dir)
	makeSale(t, p.URL())
	file := filepath.Join(p.data(), "postmaster.pid")
	p.Kill9()
	require.NoError(t, p.Stop(t.Context()))
	// Its process id now belongs to another live process: this test's parent.
	_, rest, err := postmaster(file)
	require.NoError(t, err)
	require.NotEmpty(t, rest)
	require.NoError(t, os.WriteFile(file, []byte(strconv.Itoa(os.Getppid())+"\n"+rest), 0o600))

	again := startPostgresIn(t, dir)
	require.Equal(t, 1000, ask[int](t, again.URL(), someRows))
}

func TestPostgres_RefusesDataOfAnotherVersion(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	p := startPostgresIn(t, dir)
	require.NoError(t, p.Stop(t.Context()))
	require.NoError(t, os.WriteFile(filepath.Join(p.data(), "PG_VERSION"), []byte("9\n"), 0o600))
	_, err := StartPostgres(t.Context(), PostgresOptions{Dir: dir})
	require.ErrorContains(t, err, p.data())
	require.ErrorContains(t, err, "created by PostgreSQL 9")
	require.ErrorContains(t, err, "move the folder away")
}

func TestPostgres_DisposableLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	for range 2 {
		p, err := StartPostgres(t.Context(), PostgresOptions{Dir: dir, Disposable: true, NoFsync: true})
		skipWhereMissing(t, err)
		stopped(t, p)
		makeSale(t, p.URL()) // fails if the table exists
		require.Equal(t, "off", ask[string](t, p.URL(), "show fsync"))
		require.NoError(t, p.Stop(t.Context()))
		require.NoDirExists(t, p.home)
	}
}

// A clone below /root: the server's user may not enter it.
func TestPostgres_UsesAFolderThatItsUserMayEnter(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root runs Postgres as another user")
	}
	closed := t.TempDir()
	require.NoError(t, os.Chmod(closed, 0o700))
	dir := filepath.Join(closed, "data")
	p := startPostgresIn(t, dir)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(p.home)) })
	makeSale(t, p.URL())
	require.Contains(t, p.home, "/var/tmp/dopamine-")
	note, err := os.ReadFile(filepath.Join(dir, movedNote))
	require.NoError(t, err)
	require.Contains(t, string(note), p.home)
	require.NoError(t, p.Stop(t.Context()))

	again := startPostgresIn(t, dir)
	require.Equal(t, 1000, ask[int](t, again.URL(), someRows))
}

// Root may have had only the user nobody before a package created the user postgres.
func TestPostgres_RunsAsTheOwnerOfItsData(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root runs Postgres as another user")
	}
	nobody, err := lesserUser("nobody")
	require.NoError(t, err)
	dir := folder(t)
	home := filepath.Join(dir, "server")
	require.NoError(t, os.Mkdir(home, 0o700))
	require.NoError(t, nobody.give(home))
	p := startPostgresIn(t, dir)
	require.Equal(t, "nobody", p.user.name)
	require.Equal(t, home, p.home)
	makeSale(t, p.URL())
}
