package postgres

import (
	"errors"
	"slices"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
)

// Code returns the SQLSTATE with which Postgres answered; "" if err is none of its errors. The
// names of the codes are those of pgerrcode.
func Code(err error) string {
	var answered *pgconn.PgError
	if !errors.As(err, &answered) {
		return ""
	}
	return answered.Code
}

// InClass reports whether Postgres answered with a code of the same class (its first two
// characters) as one of the codes.
func InClass(err error, codes ...string) bool {
	code := Code(err)
	return len(code) == 5 && slices.ContainsFunc(codes, func(c string) bool { return c[:2] == code[:2] })
}

// Unavailable reports whether Postgres answered that it cannot serve now, whatever the statement
// was: connection lost, out of resources, cancelled, starting or stopping, system error, or a
// standby that was not promoted yet. An error without an answer of Postgres is not Unavailable.
func Unavailable(err error) bool {
	return Code(err) == pgerrcode.ReadOnlySQLTransaction || InClass(err, pgerrcode.ConnectionException,
		pgerrcode.InsufficientResources, pgerrcode.OperatorIntervention, pgerrcode.SystemError)
}
