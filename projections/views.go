package projections

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// viewTimeout is how long readers of a view may have to wait for it.
	viewTimeout = "100ms"
	// heldLong is after how long a transaction that holds a view is taken for one
	// that will not end soon.
	heldLong = "1s"
	// lockMissing is Postgres' code for a lock that was not to be had in time.
	lockMissing = "55P03"
)

var errHeld = errors.New("a transaction that has gone on for long holds the view")

// LockedOut says of an error that a lock was not to be had in time.
func LockedOut(err error) bool {
	var pg *pgconn.PgError
	return errors.Is(err, errHeld) || errors.As(err, &pg) && pg.Code == lockMissing
}

// CheckView fails, LockedOut, where a long transaction holds the projection's
// view. Asking for the lock would not get it, and make every new reader of the
// view wait as long as it asks. Where the role may not see when others'
// transactions began, there is nothing to go by.
func CheckView(ctx context.Context, q Querier, projection string) error {
	rows, err := q.Query(ctx, `
		SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE l.locktype = 'relation' AND l.relation = to_regclass(quote_ident($1)) AND l.granted
		  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		  AND a.xact_start < clock_timestamp() - $2::text::interval`, projection, heldLong)
	if err != nil {
		return fmt.Errorf("look who holds the view %s: %w", projection, err)
	}
	held := rows.Next()
	rows.Close()
	if err := rows.Err(); err != nil {
		return fmt.Errorf("look who holds the view %s: %w", projection, err)
	}
	if held {
		return errHeld
	}
	return nil
}

// SetView points the view at a generation, or fails, LockedOut, where somebody
// reads it for longer than readers may be made to wait.
func SetView(ctx context.Context, tx pgx.Tx, projection string, generation int) error {
	if _, err := tx.Exec(ctx, `SELECT set_config('lock_timeout', $1, true)`, viewTimeout); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `SELECT projection_set_view($1, $2)`, projection, generation)
	return err
}

// FollowView points the view at the live generation where it shows another one:
// a swap goes ahead without it where somebody reads it for long. The error is
// LockedOut where somebody still does.
func FollowView(ctx context.Context, pool *pgxpool.Pool, projection string) error {
	const shows = `EXISTS (
		SELECT FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid
		WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
		  AND w.ev_class = to_regclass(quote_ident(g.projection))
		  AND d.refobjid = to_regclass(quote_ident(g.projection || '_g' || g.generation)))`
	var right bool
	err := pool.QueryRow(ctx, `SELECT `+shows+` FROM projection_generations g WHERE g.projection = $1 AND g.state = 'live'`, projection).Scan(&right)
	if err != nil || right {
		return err
	}
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if err := CheckView(ctx, tx, projection); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SELECT set_config('lock_timeout', $1, true)`, viewTimeout); err != nil {
			return err
		}
		// The lock on the row keeps a swap from making another one live meanwhile.
		var live int
		err := tx.QueryRow(ctx, `SELECT g.generation FROM projection_generations g
			WHERE g.projection = $1 AND g.state = 'live' AND NOT `+shows+` FOR SHARE OF g`, projection).Scan(&live)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // somebody else was faster
		}
		if err != nil {
			return err
		}
		return SetView(ctx, tx, projection, live)
	})
}

// followViews looks after the views: a replay that was to do so may have been
// killed meanwhile.
func (r *Runner) followViews(ctx context.Context) {
	for _, p := range r.cfg.Projections {
		if err := FollowView(ctx, r.cfg.ReadPool, p.Name()); err != nil && !LockedOut(err) && ctx.Err() == nil {
			r.log.Warn("the view may not show the live generation", "view", p.Name(), "error", err)
		}
	}
}
