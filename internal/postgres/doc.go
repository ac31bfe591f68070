// Package postgres opens the pools of connections to Postgres that the processes work
// with, each with the bounds that every session needs, and recognises connection poolers
// in front of the server.
//
// Advisory locks of a session, LISTEN and settings made with SET belong to a server
// connection. A pooler in transaction mode (pgbouncer's pool_mode=transaction) gives a
// client another server connection for each transaction, so they silently stop working:
// two relays would lead at once. Prepared statements have the same fault with older
// poolers. Programs therefore ask Detect once at startup.
package postgres
