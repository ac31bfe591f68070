package eventstore

import (
	"fmt"
	"time"
)

// AppendLock is the key of the advisory lock that every append holds, from before
// its first read until its commit ("dopamine" in ASCII). It is per database.
const AppendLock int64 = 0x646f70616d696e65

// Channel is the NOTIFY channel of appends; the payload is the
// position of the last event.
const Channel = "dopamine_events"

// Bounds of a batch. An append waits for at most a few of them.
const (
	connectTimeout = 2 * time.Second
	// lockTimeout is longer than idleTimeout, so that a process that stopped
	// inside its append loses the lock before the others give up waiting.
	lockTimeout = 2500 * time.Millisecond
	idleTimeout = 1500 * time.Millisecond
	// rowLockTimeout bounds the wait for a row while the append lock is held, because every
	// append of every product waits behind it. A statement keeps such a row only briefly,
	// unless its session hangs.
	rowLockTimeout = 250 * time.Millisecond
	// halfRowLockTimeout is the same for the parts of a batch that met such a row.
	halfRowLockTimeout = 25 * time.Millisecond
	// halvingTimeout bounds the search for the appends that wait for a locked row: if
	// it is a table that is locked, each one does.
	halvingTimeout = time.Second
	// roundTripTimeout bounds each of a batch's two round trips.
	roundTripTimeout = 3 * time.Second
	// resolveTimeout bounds resolving a commit that was not answered.
	resolveTimeout = 3 * time.Second
)

// READ COMMITTED is explicit, whatever the server's default is: a snapshot taken before
// the wait for the lock would show the log as it was then.
const beginSQL = "begin isolation level read committed read write"

// settingsSQL is for the appender's connection, once (with false), or for each of its
// transactions (with true) behind a pooler that changes connections:
//   - the timeouts of the wait for the lock and of a stop while holding it;
//     if Postgres has one (17 and later), also one for the whole transaction,
//     since a client that stops while it is sending is not "idle";
//   - custom plans, since a generic plan made while the log was empty would read
//     a full log from its beginning for each batch;
//   - no commit that is answered before it is on the disk of this server and, if
//     there are synchronous standbys, on theirs;
//   - TCP keepalives and a timeout for unacknowledged data, so that Postgres drops
//     a backend, and with it the append lock, if its client was disconnected while the
//     backend was working. They do not end a commit that waits for a standby.
func settingsSQL(transaction bool) string {
	return fmt.Sprintf(`
select set_config('lock_timeout', '%[1]d', %[4]t),
       set_config('idle_in_transaction_session_timeout', '%[2]d', %[4]t),
       case when current_setting('server_version_num')::int >= 170000
            then set_config('transaction_timeout', '%[3]d', %[4]t) end,
       set_config('plan_cache_mode', 'force_custom_plan', %[4]t),
       case when current_setting('synchronous_commit') in ('off', 'local')
            then set_config('synchronous_commit', 'on', %[4]t) end,
       set_config('tcp_keepalives_idle', '5', %[4]t), set_config('tcp_keepalives_interval', '2', %[4]t), set_config('tcp_keepalives_count', '3', %[4]t),
       set_config('tcp_user_timeout', '%[3]d', %[4]t)`,
		lockTimeout.Milliseconds(), idleTimeout.Milliseconds(), transactionTimeout.Milliseconds(), transaction)
}

// transactionTimeout bounds an append's transaction, including its wait for the lock.
const transactionTimeout = lockTimeout + 2*roundTripTimeout

// freeLockSQL disconnects a backend that holds the append lock for longer than an append
// may last and waits for its client: a client that stopped while it was sending,
// which no other timeout covers before Postgres 17. A backend that works, or waits
// for a standby, is not affected.
var freeLockSQL = fmt.Sprintf(`
select pg_terminate_backend(l.pid)
from pg_locks l join pg_stat_activity a using (pid)
where l.locktype = 'advisory' and l.granted and l.objsubid = 1
  and l.classid::bigint = %d and l.objid::bigint = %d
  and l.database = (select oid from pg_database where datname = current_database())
  and a.wait_event_type = 'Client' and a.usename = current_user
  and a.xact_start < clock_timestamp() - interval '%d milliseconds'`,
	AppendLock>>32, AppendLock&0xffffffff, transactionTimeout.Milliseconds())

// awaitStandbysSQL makes a transaction that writes nothing wait for synchronous
// standbys when it commits, and so for everything that was committed before.
// Without such standbys the commit costs nothing.
const awaitStandbysSQL = `
select case when current_setting('synchronous_standby_names') <> ''
            then pg_logical_emit_message(true, 'dopamine', '') end`

// lockSQL is a separate statement: the next one's snapshot is taken after it.
var lockSQL = fmt.Sprintf("select pg_advisory_xact_lock(%d)", AppendLock)

// headSQL returns the last position and the time of this append, and stores the time
// for event_now(). The subselect is evaluated once: Postgres does not
// flatten a volatile one. From here on a lock is waited for only for $1 milliseconds.
//
// It also returns the store's incarnation, whether commits wait for standbys, and
// by how many seconds the time is ahead of the clock: more than a moment if an
// event was recorded while the clock was wrong.
const headSQL = `
select coalesce((select position from events order by position desc limit 1), 0), at,
       (select incarnation from store_incarnations order by incarnation desc limit 1),
       current_setting('synchronous_standby_names') <> '',
       extract(epoch from at - date_trunc('milliseconds', clock_timestamp()))::float8,
       set_config('dopamine.event_now', to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), true),
       set_config('lock_timeout', $1, true)
from (select greatest(date_trunc('milliseconds', clock_timestamp()),
                      (select recorded_at from events order by position desc limit 1)) as at) as now`

// existingSQL selects the events that have one of the ids.
const existingSQL = `
select id, position, stream, type, schema_version, payload::text, recorded_at
from events where id = any($1)`

// versionsSQL selects each stream's version with one index lookup.
const versionsSQL = `
select s.stream, coalesce((select e.version from events e
                           where e.stream = s.stream order by e.version desc limit 1), 0)
from unnest($1::uuid[]) as s(stream)`

const insertSQL = `
insert into events (position, id, stream, version, key, type, schema_version, payload,
                    traceparent, correlation_id, causation_id, actor, recorded_at)
select $1 + e.n, e.id, e.stream, e.version, e.key, e.type, e.schema_version, e.payload::json,
       e.traceparent, e.correlation_id, e.causation_id, e.actor, $13
from unnest($2::uuid[], $3::uuid[], $4::int[], $5::uuid[], $6::text[], $7::int[], $8::text[],
            $9::text[], $10::text[], $11::text[], $12::text[])
     with ordinality as e(id, stream, version, key, type, schema_version, payload,
                          traceparent, correlation_id, causation_id, actor, n)`

const notifySQL = "select pg_notify('" + Channel + "', $1)"
