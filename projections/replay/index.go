package replay

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/dopaminestore/dopamine/projections"
)

// indexConcurrency is the number of indexes built at a time, over all projections. Each is built by
// one process: Postgres' parallel workers for one index cost a fifth more processor time than the
// same number of indexes built in parallel.
const indexConcurrency = 2

// indexBuild configures the transaction that builds an index. If this process is killed, Postgres
// would complete the build and meanwhile keep the tables from the next replay, which drops them.
// Therefore it checks the client connection periodically.
const indexBuild = asyncCommit + `; SET LOCAL maintenance_work_mem = '128MB'; SET LOCAL max_parallel_maintenance_workers = 0;
	SET LOCAL client_connection_check_interval = '1s'`

// index builds the indexes of the generation in parallel, turns some of them into keys, and
// analyzes the tables.
func (t *target) index(ctx context.Context) error {
	rows, err := t.r.ReadPool.Query(ctx, `SELECT base, suffix FROM projection_indexes($1)`, t.Name())
	if err != nil {
		return err
	}
	type index struct{ Base, Suffix string }
	indexes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[index])
	if err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for _, i := range indexes {
		group.Go(func() error {
			return t.execIndexing(groupCtx, `SELECT projection_create_indexes($1, $2, $3, $4)`, t.Name(), t.generation, i.Base, i.Suffix)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := t.execIndexing(ctx, `SELECT projection_create_indexes($1, $2)`, t.Name(), t.generation); err != nil {
		return err
	}
	for _, table := range t.Tables() {
		if err := t.execIndexing(ctx, `ANALYZE `+projections.Table(table.Base, t.generation)); err != nil {
			return err
		}
	}
	return nil
}

// execIndexing executes a statement when one of the index slots is free.
func (t *target) execIndexing(ctx context.Context, sql string, args ...any) error {
	select {
	case t.r.indexing <- struct{}{}:
		defer func() { <-t.r.indexing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return pgx.BeginFunc(ctx, t.r.ReadPool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, indexBuild); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, sql, args...); err != nil {
			return fmt.Errorf("%s %v: %w", sql, args, err)
		}
		return nil
	})
}
