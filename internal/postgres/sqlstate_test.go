package postgres

import (
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
)

func TestUnavailable_ByCode(t *testing.T) {
	for code, unavailable := range map[string]bool{
		pgerrcode.ConnectionFailure:      true,
		pgerrcode.TooManyConnections:     true,
		pgerrcode.QueryCanceled:          true,
		pgerrcode.AdminShutdown:          true,
		pgerrcode.CannotConnectNow:       true,
		pgerrcode.IOError:                true,
		pgerrcode.ReadOnlySQLTransaction: true,
		pgerrcode.ActiveSQLTransaction:   false, // of the same class, 25
		pgerrcode.LockNotAvailable:       false,
		pgerrcode.UniqueViolation:        false,
		pgerrcode.UndefinedTable:         false,
		"57":                             false,
	} {
		err := fmt.Errorf("read: %w", &pgconn.PgError{Code: code})
		assert.Equal(t, unavailable, Unavailable(err), code)
		assert.Equal(t, code, Code(err))
	}
	assert.False(t, Unavailable(errors.New("no answer")))
	assert.Empty(t, Code(errors.New("no answer")))
}

func TestInClass_ComparesTwoCharacters(t *testing.T) {
	custom := &pgconn.PgError{Code: "23X01"}
	assert.True(t, InClass(custom, pgerrcode.DataException, pgerrcode.IntegrityConstraintViolation))
	assert.False(t, InClass(custom, pgerrcode.DataException))
	assert.False(t, InClass(errors.New("no answer"), pgerrcode.DataException))
}
