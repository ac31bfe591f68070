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
	errNoProduct = problem.New(problem.ProductNotFound, "there is no product of this id")
	errNoSlot    = problem.New(problem.SlotNotFound, "there is no slot of this id")
	errNoPayment = problem.New(problem.PaymentNotFound, "there is no payment of this id")
	errNotYours  = problem.New(problem.Forbidden, "it belongs to somebody else")
	errBehind    = problem.New(problem.ReadModelBehind, "the read model has not reached the position asked for")
	errAway      = problem.New(problem.Unavailable, "the data cannot be read at the moment")
	errNoWrites  = problem.New(problem.Unavailable, "the event store cannot be read from here")
)

// SQLSTATE codes; see https://www.postgresql.org/docs/current/errcodes-appendix.html.
const (
	undefinedTable = "42P01"
	internalError  = "XX000" // "could not open relation": dropped after the statement was planned
	queryCanceled  = "57014" // statement_timeout
)

// failed turns an error of a database into the answer: what a database that is
// away, starting, stopping or too slow says is unavailable, anything else is ours.
func failed(what string, err error) error {
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
		return errAway.Wrap(err) // no answer came: refused, reset, timed out
	}
	switch {
	case pg.Code == queryCanceled,
		strings.HasPrefix(pg.Code, "08"),  // connection
		strings.HasPrefix(pg.Code, "53"),  // resources
		strings.HasPrefix(pg.Code, "57P"): // shut down, starting
		return errAway.Wrap(err)
	}
	return err
}

// gone says that a table was not there, or not any more.
func gone(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == undefinedTable || pg.Code == internalError && strings.Contains(pg.Message, "relation"))
}
