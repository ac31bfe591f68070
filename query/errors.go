package query

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dopaminestore/dopamine/internal/problem"
)

var (
	errNoProduct   = problem.New(problem.ProductNotFound, "there is no product with this id")
	errNoSlot      = problem.New(problem.SlotNotFound, "there is no slot with this id")
	errNoPayment   = problem.New(problem.PaymentNotFound, "there is no payment with this id")
	errNotYours    = problem.New(problem.Forbidden, "it belongs to another user")
	errBehind      = problem.New(problem.ReadModelBehind, "the read model has not reached the requested position")
	errUnavailable = problem.New(problem.Unavailable, "the data cannot be read at the moment")
	errNoWrites    = problem.New(problem.Unavailable, "the event store cannot be read from here")
)

// SQLSTATE codes; see https://www.postgresql.org/docs/current/errcodes-appendix.html.
const (
	undefinedTable = "42P01"
	internalError  = "XX000" // "could not open relation": dropped after the statement was planned
	queryCanceled  = "57014" // statement_timeout
)

// dbError converts a database error into the error response. If the database is down, starting,
// stopping or too slow, the response is unavailable; any other error is internal.
func dbError(what string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", what, err)
	var known *problem.Error
	if errors.As(err, &known) {
		return err
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		if errors.Is(err, context.Canceled) {
			return err // the client left
		}
		return errUnavailable.Wrap(err) // no response: refused, reset or timed out
	}
	switch {
	case pg.Code == queryCanceled,
		strings.HasPrefix(pg.Code, "08"),  // connection
		strings.HasPrefix(pg.Code, "53"),  // resources
		strings.HasPrefix(pg.Code, "57P"): // shut down, starting
		return errUnavailable.Wrap(err)
	}
	return err
}

// isMissingTable reports whether a table does not exist or exists no longer.
func isMissingTable(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == undefinedTable || pg.Code == internalError && strings.Contains(pg.Message, "relation"))
}
