-- migrate:up

-- The log. A position is the last one plus one, given out under the append lock
-- (package eventstore), so positions have no gap and their order is the order of
-- commits. Whoever would write without the lock runs into the primary key
-- instead of into somebody's reader.
--
-- Ready to be partitioned by range of position, for which "one event of an id"
-- and "one event of a stream's version" must then be kept in tables of their own.
create table events (
    position       bigint      not null,
    id             uuid        not null,
    stream         uuid        not null,
    version        integer     not null check (version > 0),
    key            uuid        not null,
    type           text        not null,
    schema_version integer     not null,
    payload        json        not null, -- json, not jsonb: kept as it was written
    traceparent    text        not null,
    correlation_id text        not null,
    causation_id   text        not null,
    actor          text        not null,
    recorded_at    timestamptz not null, -- whole milliseconds, never below the last one's
    constraint events_pkey primary key (position),
    constraint events_id_key unique (id),
    constraint events_stream_version_key unique (stream, version),
    constraint events_position_check check (position > 0)
);

-- One product's events in order: what feeds its gate.
create index events_key_position_idx on events (key, position);

-- The store's own id, so that whoever keeps a place in the log knows whose log it was.
create table store_identity (
    id         uuid        not null default gen_random_uuid() primary key,
    created_at timestamptz not null default clock_timestamp(),
    only_one   boolean     not null default true unique check (only_one)
);
insert into store_identity default values;

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append only: % refused', tg_table_name, tg_op
        using errcode = 'restrict_violation';
end
$$;

-- For each statement, so that one that would hit no row is refused too; "always",
-- so that session_replication_role does not open a back door.
create trigger events_append_only
    before update or delete or truncate on events
    for each statement execute function refuse_change();
alter table events enable always trigger events_append_only;

create trigger store_identity_append_only
    before update or delete or truncate on store_identity
    for each statement execute function refuse_change();
alter table store_identity enable always trigger store_identity_append_only;

-- The time of the append under way: set by the store under the append lock, the
-- same for all that a batch reads and writes. An error outside of an append.
create function event_now() returns timestamptz language sql stable parallel restricted as $$
    select current_setting('dopamine.event_now')::timestamptz
$$;

-- migrate:down

drop function event_now();
drop table store_identity;
drop table events;
drop function refuse_change();
