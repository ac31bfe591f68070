// Package db holds the two sets of migrations and brings a database to them:
// the write side's (event store, claims, gates) and the read side's
// (projections). Both may live in one database, which is the default, or in two;
// each records what it has applied in a table of its own, schema_migrations and
// read_schema_migrations, in the schema that comes first in the URL's
// search_path ("public" unless told otherwise).
//
// A file's name begins with 14 digits, its version: the date, three digits for the change, which are the
// same on both sides, and three for its files in order. Files are applied in the order of versions, and
// a new one must be above all that were released.
//
// The files are dbmate's, and dbmate runs them, each in one transaction with its
// own record. Around it this package does what dbmate leaves out: it connects
// with pgx, so that every URL the program accepts is also good for migrating; it
// makes the database if there is none; it holds an advisory lock, so that
// processes that start together migrate once; and it refuses a schema that is
// newer than the program, which dbmate would accept without a word.
package db
