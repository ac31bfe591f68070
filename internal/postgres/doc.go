// Package postgres opens the processes' connection pools to Postgres, each with the limits that
// every session needs, and detects connection poolers in front of the server.
//
// Session-level advisory locks, LISTEN and settings made with SET belong to a server connection. A
// pooler in transaction mode (pgbouncer's pool_mode=transaction) uses another server connection for
// each transaction, so they silently stop working: two relays would lead at once. With older
// poolers prepared statements have the same problem. Programs therefore call Detect once at
// startup.
package postgres
