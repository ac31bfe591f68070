package main

import (
	"errors"
	"log/slog"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

func TestAwait_RetriesWhatIsAwayUntilTheTimeout(t *testing.T) {
	t.Parallel()
	away := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for name, c := range map[string]struct {
		errs    []error // of each try; the last one of all later ones
		timeout time.Duration
		tries   int // at least
		err     error
	}{
		"becomes available":              {[]error{away, &pgconn.PgError{Code: "57P03"}, nil}, time.Minute, 3, nil},
		"stays unavailable":              {[]error{away}, 500 * time.Millisecond, 2, away},
		"a terminated session":           {[]error{&pgconn.PgError{Code: "57P01"}, nil}, time.Minute, 2, nil},
		"no timeout":                     {[]error{away, nil}, 0, 1, away},
		"a wrong password is not waited": {[]error{&pgconn.PgError{Code: "28P01"}, nil}, time.Minute, 1, &pgconn.PgError{Code: "28P01"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &parts{log: slog.New(slog.DiscardHandler), startBy: time.Now().Add(c.timeout)}
			tries := 0
			err := p.await(t.Context(), "Postgres", func() error {
				tries++
				return c.errs[min(tries, len(c.errs))-1]
			})
			require.Equal(t, c.err, err)
			require.GreaterOrEqual(t, tries, c.tries)
			if c.err == nil || !errors.Is(c.err, away) {
				require.Equal(t, c.tries, tries)
			}
		})
	}
}
