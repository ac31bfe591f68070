-- migrate:up

-- One row for each product that ever was: which epoch's grants may be appended,
-- what is on sale, and until when a gate may decide. Changed under the append
-- lock only, but for leased_at and what stands beside it, which nodes set in
-- statements of their own about once a second; hence the fillfactor.
create table product_gates (
    product_id  uuid        primary key,
    epoch       bigint      not null default -1 check (epoch >= -1 and epoch <= 900000), -- -1: never had a gate
    rebuilt     bigint      not null default -1 check (rebuilt <= epoch), -- the last epoch that a rebuild raised to
    units       integer     not null check (units between 1 and 10000000),
    sale_date   timestamptz not null,
    sale_end    timestamptz check (sale_end > sale_date),
    paused      boolean     not null default false,
    deleted     boolean     not null default false,
    raised_at   timestamptz,                    -- last sign of life of the last rebuild
    leased_at   timestamptz,
    lease_stamp text,                           -- the process for which leased_at was last set
    lease_epoch bigint      not null default -1 -- and the epoch
) with (fillfactor = 50);

create function refuse_fall() returns trigger language plpgsql as $$
begin
    raise exception 'epoch and units of product % only rise', old.product_id
        using errcode = 'restrict_violation';
end
$$;

create trigger product_gates_only_rise
    before update of epoch, units on product_gates
    for each row when (new.epoch < old.epoch or new.units < old.units or (old.deleted and not new.deleted))
    execute function refuse_fall();

-- Each number of a grant is claimed or withdrawn, once and for ever: what is
-- claimed stays claimed when the slot has ended.
create table slot_numbers (
    product_id uuid    not null,
    number     bigint  not null check (number > 0 and number < 9007199254740992),
    state      text    not null check (state in ('claimed', 'withdrawn')),
    unit       integer not null check (unit > 0),
    primary key (product_id, number)
);

create trigger slot_numbers_append_only
    before update or delete or truncate on slot_numbers
    for each statement execute function refuse_change();

-- Who holds which unit, as ACTIVE or COMPLETED slot: the arbiter of R1 and R3.
create table slot_claims (
    product_id  uuid        not null,
    unit        integer     not null check (unit > 0),
    slot_id     uuid        not null,
    number      bigint      not null,
    buyer       uuid        not null,
    key_hash    bytea       check (length(key_hash) = 16), -- of the Idempotency-Key
    status      text        not null default 'ACTIVE' check (status in ('ACTIVE', 'COMPLETED')),
    acquired_at timestamptz not null,
    deadline    timestamptz not null check (deadline > acquired_at),
    due_at      timestamptz check (due_at >= deadline),    -- when it ends by itself; null: never
    warn_at     timestamptz check (warn_at < deadline),    -- when to warn; null: not, or done
    position    bigint      not null,                      -- of its SlotAcquired
    constraint slot_claims_pkey primary key (product_id, unit),          -- R1: a unit is held once
    constraint slot_claims_buyer_key unique (product_id, buyer),         -- R3
    constraint slot_claims_slot_key unique (slot_id),
    check ((status = 'ACTIVE') = (due_at is not null)),
    check (status = 'ACTIVE' or warn_at is null)
);

-- What workers look for.
create index slot_claims_due_idx on slot_claims (due_at) where due_at is not null;
create index slot_claims_warn_idx on slot_claims (warn_at) where warn_at is not null;

-- R1: no unit beyond the stock, none of a product that is gone, and none by a
-- grant of another epoch, whoever writes it. For each statement: it costs two
-- looks into an index per claim. Limits and setting keep it at that: the plan
-- is made once, perhaps while the tables are small, and a rush fills them.
create function refuse_wrong_claims() returns trigger language plpgsql set enable_seqscan = off as $$
declare
    wrong record;
begin
    select a.* into wrong
    from added a
    left join lateral (select epoch, units from product_gates
                       where product_id = a.product_id and not deleted limit 1) g on true
    left join lateral (select state, unit from slot_numbers
                       where product_id = a.product_id and number = a.number limit 1) n on true
    where g.epoch is distinct from a.number / 10000000000 or a.unit > g.units
       or n.state is distinct from 'claimed' or n.unit is distinct from a.unit
    limit 1;
    if found then
        raise exception 'product % has no unit % for number %', wrong.product_id, wrong.unit, wrong.number
            using errcode = 'check_violation';
    end if;
    return null;
end
$$;

create trigger slot_claims_right
    after insert on slot_claims
    referencing new table as added
    for each statement execute function refuse_wrong_claims();

create trigger slot_claims_fixed
    before update of product_id, unit, slot_id, number, buyer, acquired_at on slot_claims
    for each statement execute function refuse_change();

-- The epochs that ended or whose log was carried, and how far the carrying got.
create table gate_epochs (
    product_id uuid        not null,
    epoch      bigint      not null check (epoch >= 0),
    ended_at   timestamptz,                   -- when a later one was raised; null: it has not
    leased_at  timestamptz,                   -- the last lease of this epoch when it ended; null: it never had one
    carried_at timestamptz,                   -- all that was decided before then is in gate_decisions
    whole      boolean     not null default false, -- all that was decided is
    primary key (product_id, epoch)
);

-- The decision log, without a buyer. A line's fields are those of its type.
create table gate_decisions (
    product_id  uuid    not null,
    epoch       bigint  not null check (epoch >= 0),
    line        bigint  not null check (line > 0),     -- in its epoch
    type        text    not null check (type in ('opened', 'granted', 'returned', 'refused')),
    units       bigint,
    sequence    bigint,
    unit        integer,
    reason      text    check (reason in ('AUTO_EXPIRED', 'MANUAL_RECLAIMED', 'BUYER_RELEASED', 'WITHDRAWN')),
    from_number bigint,
    to_number   bigint,
    sold_out    bigint,
    duplicate   bigint,
    not_started bigint,
    closed      bigint,
    primary key (product_id, epoch, line),
    check (case type
        when 'opened' then units >= 0
        when 'granted' then sequence > 0 and unit > 0
        when 'returned' then unit > 0 and reason is not null
        else from_number > 0 and to_number - from_number + 1 = sold_out + duplicate + not_started + closed
    end)
);

-- Whether an epoch's log has all that its gate decided. It may lack something only
-- where the gate died after a lease that is younger than the last carrying.
create view gate_epochs_complete as
    select product_id, epoch,
           ended_at is null or whole or leased_at is null or coalesce(carried_at >= leased_at, false) as complete
    from gate_epochs;

-- migrate:down

drop view gate_epochs_complete;
drop table gate_decisions;
drop table gate_epochs;
drop table slot_claims;
drop function refuse_wrong_claims();
drop table slot_numbers;
drop table product_gates;
drop function refuse_fall();
