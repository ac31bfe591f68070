-- migrate:up

-- A store that was restored to an earlier moment gives epochs out again, while Redis may
-- still have gates of the history that was lost. The number of an epoch therefore does not
-- identify a gate: each rebuild has an id that its gate carries.
--
-- A trigger sets it, so that rebuilds of programs that do not know the column have one, too.
alter table product_gates add column rebuilt_id uuid;

create function identify_rebuild() returns trigger language plpgsql as $$
begin
    new.rebuilt_id = gen_random_uuid();
    return new;
end
$$;

create trigger product_gates_rebuild_id
    before update of rebuilt on product_gates
    for each row when (new.rebuilt <> old.rebuilt)
    execute function identify_rebuild();

-- lossy: gates of a lost history decided in the epoch, or in one before it. suspect: the
-- epoch may have decided in the time that a restore lost. Its log is whole only if its gate
-- was seen afterwards, and shipped it.
alter table gate_epochs
    add column lossy   boolean not null default false,
    add column suspect boolean not null default false;

-- broken: the gate had trimmed lines that the store does not have.
alter table gate_shipments add column broken boolean not null default false;

create or replace view gate_epochs_complete as
    select e.product_id, e.epoch,
           not e.lossy and not coalesce(s.broken, false) and (not e.suspect or coalesce(s.whole, false))
           and (e.leased_at is null or e.whole or coalesce(s.whole, false)
                or coalesce(s.covered >= e.leased_at and (e.lease_beat is null or s.covered_beat >= e.lease_beat), false)
                or coalesce(e.carried_at >= e.leased_at + interval '3 s', false)) as complete
    from gate_epochs e
    left join gate_shipments s using (product_id, epoch)
    where e.ended_at is not null
    union all
    select g.product_id, g.epoch,
           not coalesce(e.lossy, false) and not coalesce(s.broken, false)
           and (g.leased_at is null or g.lease_epoch <> g.epoch or coalesce(s.whole, false)
                or coalesce(s.covered >= g.leased_at and s.covered_beat >= g.lease_beat, false)
                or coalesce(coalesce(greatest(s.shipped_at, e.carried_at), g.raised_at) > clock_timestamp() - interval '5 s', false))
    from product_gates g
    left join gate_shipments s using (product_id, epoch)
    left join gate_epochs e using (product_id, epoch)
    where g.epoch >= 0;

-- migrate:down

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
alter table gate_shipments drop column broken;
alter table gate_epochs drop column lossy, drop column suspect;
drop trigger product_gates_rebuild_id on product_gates;
drop function identify_rebuild();
alter table product_gates drop column rebuilt_id;
