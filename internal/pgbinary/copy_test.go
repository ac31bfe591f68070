package pgbinary_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/pgbinary"
	"github.com/dopaminestore/dopamine/tools/dbtest"
)

type copied struct {
	ID   uuid.UUID
	Text string
	None *string
	Int  int32
	Long int64
	Yes  bool
	At   time.Time
	JSON string
	Dec  string
}

func TestCopyRows_RoundTrip(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	conn, err := dbtest.Read(t).Acquire(ctx)
	require.NoError(t, err)
	t.Cleanup(conn.Release)
	dbtest.Exec(t, conn, `CREATE TEMP TABLE copied (id uuid, text text, none text, int int, long bigint, yes boolean, at timestamptz, json jsonb, dec numeric(19,4))`)
	columns := []string{"id", "text", "none", "int", "long", "yes", "at", "json", "dec"}
	write := func(w *pgbinary.Row, r copied) {
		w.ID(r.ID)
		w.Text(r.Text)
		pgbinary.Optional(w, r.None, (*pgbinary.Row).Text)
		w.Int(r.Int)
		w.Long(r.Long)
		w.Bool(r.Yes)
		w.Time(r.At)
		w.JSON([]byte(r.JSON))
		w.Decimal(r.Dec)
	}
	some := "some"
	rows := []copied{
		{uuid.New(), "", nil, -1, -1 << 63, false, time.Date(1, 1, 1, 0, 0, 0, 1e6, time.UTC), `{}`, "0"},
		{uuid.New(), "é\n\t\\", &some, 1<<31 - 1, 1<<63 - 1, true, time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC), `{"a": [1, "b"]}`, "999999999999999.9999"},
		{uuid.New(), strings.Repeat("x", 200_000), nil, 0, 0, true, time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), `{}`, "0.0001"}, // larger than copyPiece
		{uuid.New(), "last", nil, 7, 7, false, time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC), `{}`, "259000"},
	}
	for name, reader := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader,
	} {
		t.Run(name, func(t *testing.T) {
			c := pgbinary.CopyRows("copied", columns, rows, write)
			_, err = conn.Conn().PgConn().CopyFrom(ctx, reader(c.Rows), "COPY copied FROM STDIN (FORMAT binary)")
			require.NoError(t, err)
			got, err := conn.Query(ctx, `DELETE FROM copied RETURNING id, text, none, int, long, yes, at, json::text, trim_scale(dec)::text`)
			require.NoError(t, err)
			all, err := pgx.CollectRows(got, pgx.RowToStructByPos[copied])
			require.NoError(t, err)
			for i := range all {
				all[i].At = all[i].At.UTC()
			}
			require.Equal(t, rows, all)
		})
	}

	none := pgbinary.CopyRows("copied", columns, nil, write)
	tag, err := conn.Conn().PgConn().CopyFrom(ctx, none.Rows, "COPY copied FROM STDIN (FORMAT binary)")
	require.NoError(t, err)
	require.Zero(t, tag.RowsAffected())

	bad := pgbinary.CopyRows("copied", columns, []copied{{Dec: "much"}}, write)
	_, err = conn.Conn().PgConn().CopyFrom(ctx, bad.Rows, "COPY copied FROM STDIN (FORMAT binary)")
	require.ErrorContains(t, err, `the decimal "much"`)
}
