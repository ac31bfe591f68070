-- migrate:up

-- How far each epoch's decision log was shipped to gate_decisions. A table of its
-- own: shippers lock its rows, and whoever raises an epoch, which happens under the
-- append lock, never touches it. (gate_epochs.carried_at and .whole are written by
-- versions before this one only.)
create table gate_shipments (
    product_id uuid        not null,
    epoch      bigint      not null check (epoch >= 0),
    shipped_at timestamptz,                        -- all that was decided before then is in gate_decisions, by Postgres' clock
    covered    timestamptz,                        -- so is all that leases up to this leased_at allowed: they have run out
    whole      boolean     not null default false, -- so is all of the epoch, which decides no more
    primary key (product_id, epoch)
) with (fillfactor = 50);

-- Whether an epoch's log has all that its gate decided. leased_at alone proves
-- nothing: a gate may decide until 3 s after its last lease. Of the epoch that
-- decides now the log may be a few seconds behind, also that of one just built.
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

-- migrate:down

create or replace view gate_epochs_complete as
    select product_id, epoch,
           ended_at is null or whole or leased_at is null or coalesce(carried_at >= leased_at, false) as complete
    from gate_epochs;
drop table gate_shipments;
