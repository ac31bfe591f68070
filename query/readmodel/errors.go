package readmodel

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dopaminestore/dopamine/internal/postgres"
	"github.com/dopaminestore/dopamine/internal/problem"
)

// Errors that are sent as responses.
var (
	ErrNoProduct   = problem.New(problem.ProductNotFound, "there is no product with this id")
	ErrNoSlot      = problem.New(problem.SlotNotFound, "there is no slot with this id")
	errBehind      = problem.New(problem.ReadModelBehind, "the read model has not reached the requested position")
	ErrUnavailable = problem.New(problem.Unavailable, "the data cannot be read at the moment")
	ErrNoWrites    = problem.New(problem.Unavailable, "the event store cannot be read from here")
)

// DatabaseError converts a database error into the error response. If the database is down,
// starting, stopping or too slow, the response is unavailable; any other error is internal.
func DatabaseError(what string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", what, err)
	var known *problem.Error
	if errors.As(err, &known) {
		return err
	}
	if postgres.Code(err) == "" {
		if errors.Is(err, context.Canceled) {
			return err // the client left
		}
		return ErrUnavailable.Wrap(err) // no response: refused, reset or timed out
	}
	if postgres.Unavailable(err) {
		return ErrUnavailable.Wrap(err)
	}
	return err
}

// isMissingTable reports whether a table does not exist or exists no longer. Postgres reports
// "could not open relation" for one that was dropped after the statement was planned.
func isMissingTable(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == pgerrcode.UndefinedTable ||
		pg.Code == pgerrcode.InternalError && strings.Contains(pg.Message, "relation"))
}

// NotFound replaces pgx.ErrNoRows by none.
func NotFound(err, none error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return none
	}
	return err
}
