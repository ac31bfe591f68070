package projections

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dopaminestore/dopamine/internal/postgres"
)

const (
	// viewTimeout is how long readers of a view may be blocked by its replacement.
	viewTimeout = "100ms"
	// heldLong is the age from which a transaction that holds a view is not expected to end soon.
	heldLong = "1s"
)

var errHeld = errors.New("a transaction that has gone on for long holds the view")

// LockedOut reports whether err means that a lock could not be acquired in time.
func LockedOut(err error) bool {
	return errors.Is(err, errHeld) || postgres.Code(err) == pgerrcode.LockNotAvailable
}

// CheckView returns an error for which LockedOut is true if a long transaction holds the
// projection's view. Requesting the lock would fail, and would block every new reader of the view
// meanwhile. If the role may not see the start of others' transactions, CheckView returns nil.
func CheckView(ctx context.Context, q Querier, projection string) error {
	rows, err := q.Query(ctx, `
		SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE l.locktype = 'relation' AND l.relation = to_regclass(quote_ident($1)) AND l.granted
		  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		  AND a.xact_start < clock_timestamp() - $2::text::interval`, projection, heldLong)
	if err != nil {
		return fmt.Errorf("check for transactions that hold the view %s: %w", projection, err)
	}
	held := rows.Next()
	rows.Close()
	if err := rows.Err(); err != nil {
		return fmt.Errorf("check for transactions that hold the view %s: %w", projection, err)
	}
	if held {
		return errHeld
	}
	return nil
}

// SetView points the view at a generation. It returns an error for which LockedOut is true if a
// reader holds the view for longer than other readers may be blocked.
func SetView(ctx context.Context, tx pgx.Tx, projection string, generation int) error {
	if _, err := tx.Exec(ctx, `SELECT set_config('lock_timeout', $1, true)`, viewTimeout); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `SELECT projection_set_view($1, $2)`, projection, generation)
	return err
}

// FollowView points the view at the live generation if it shows another one, because a swap does
// not wait for a reader that holds the view for long. It returns an error for which LockedOut is
// true if a reader still holds it.
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
		// The lock on the row prevents a swap from making another generation live meanwhile.
		var live int
		err := tx.QueryRow(ctx, `SELECT g.generation FROM projection_generations g
			WHERE g.projection = $1 AND g.state = 'live' AND NOT `+shows+` FOR SHARE OF g`, projection).Scan(&live)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // another process was faster
		}
		if err != nil {
			return err
		}
		return SetView(ctx, tx, projection, live)
	})
}
