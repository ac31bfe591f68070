-- migrate:up

-- The processes that live: each counts its row up twice a second. Others judge by
-- their own clocks how long a row has stood still.
create table processes (
    id          bigint  generated always as identity primary key,
    beats       bigint  not null default 0,
    works       boolean not null,              -- shares the products with other workers
    unreachable text[]  not null default '{}', -- the Redis masters that it cannot reach
    started_at  timestamptz not null default clock_timestamp()
) with (fillfactor = 50);

-- Whether grants were on their way when the log was last shipped, so that whoever
-- takes over from a worker that died looks for them.
alter table gate_shipments add column unsettled boolean not null default false;

-- Leases are told apart by their count, too: leased_at is a clock's.
alter table gate_shipments add column covered_beat bigint;
alter table gate_epochs add column lease_beat bigint; -- the last lease's when it ended; null: an earlier version ended it

create or replace view gate_epochs_complete as
    select e.product_id, e.epoch,
           e.leased_at is null or e.whole or coalesce(s.whole, false)
           or coalesce(s.covered >= e.leased_at and (e.lease_beat is null or s.covered_beat >= e.lease_beat), false)
           or coalesce(e.carried_at >= e.leased_at + interval '3 s', false) as complete
    from gate_epochs e
    left join gate_shipments s using (product_id, epoch)
    where e.ended_at is not null
    union all
    select g.product_id, g.epoch,
           g.leased_at is null or g.lease_epoch <> g.epoch or coalesce(s.whole, false)
           or coalesce(s.covered >= g.leased_at and s.covered_beat >= g.lease_beat, false)
           or coalesce(coalesce(greatest(s.shipped_at, e.carried_at), g.raised_at) > clock_timestamp() - interval '5 s', false)
    from product_gates g
    left join gate_shipments s using (product_id, epoch)
    left join gate_epochs e using (product_id, epoch)
    where g.epoch >= 0;

-- migrate:down

create or replace view gate_epochs_complete as
    select e.product_id, e.epoch,
           e.leased_at is null or e.whole or coalesce(s.whole, false) or coalesce(s.covered >= e.leased_at, false)
           or coalesce(e.carried_at >= e.leased_at + interval '3 s', false) as complete
    from gate_epochs e
    left join gate_shipments s using (product_id, epoch)
    where e.ended_at is not null
    union all
    select g.product_id, g.epoch,
           g.leased_at is null or g.lease_epoch <> g.epoch or coalesce(s.whole, false) or coalesce(s.covered >= g.leased_at, false)
           or coalesce(coalesce(greatest(s.shipped_at, e.carried_at), g.raised_at) > clock_timestamp() - interval '5 s', false)
    from product_gates g
    left join gate_shipments s using (product_id, epoch)
    left join gate_epochs e using (product_id, epoch)
    where g.epoch >= 0;
alter table gate_epochs drop column lease_beat;
alter table gate_shipments drop column covered_beat;
alter table gate_shipments drop column unsettled;
drop table processes;
