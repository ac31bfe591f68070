package postgres_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/dopaminestore/dopamine/internal/postgres"
	"github.com/dopaminestore/dopamine/tools/testkit"
)

func TestDetect(t *testing.T) {
	server := testkit.Postgres(t)
	for _, tc := range []struct {
		mode string
		want postgres.Pooling
	}{
		{"", postgres.Direct},
		{"session", postgres.Session},
		{"transaction", postgres.Transaction},
	} {
		name := tc.mode
		if name == "" {
			name = "direct"
		}
		t.Run(name, func(t *testing.T) {
			at := server
			if tc.mode != "" {
				at = testkit.PgBouncer(t, server, tc.mode)
			}
			config, err := pgx.ParseConfig(at)
			require.NoError(t, err)
			for range 3 { // also when the pooler has idle connections from before
				got, err := postgres.Detect(t.Context(), config)
				require.NoError(t, err)
				require.Equal(t, tc.want, got)
			}
		})
	}
}
