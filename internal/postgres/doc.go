// Package postgres recognises connection poolers in front of a Postgres server.
//
// Advisory locks of a session, LISTEN and settings made with SET belong to a server
// connection. A pooler in transaction mode (pgbouncer's pool_mode=transaction) gives a
// client another server connection for each transaction, so they silently stop working:
// two relays would lead at once. Prepared statements have the same fault with older
// poolers. Programs therefore ask Detect once at startup.
package postgres
