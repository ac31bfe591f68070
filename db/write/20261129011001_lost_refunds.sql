-- migrate:up

-- Refunds that only the topic knows: their events were in what a restore of this database
-- lost. `dopamine recover` finds them, and the worker queries the gateway about each: what it
-- made is recorded as a refund that was made at the gateway.
create table lost_refunds (
    refund_id         uuid          primary key, -- ours, under which the gateway knows it
    payment_id        uuid          not null,    -- perhaps lost, too
    charge            text          not null,    -- the gateway's id of the charge that it returns
    gateway_refund_id text          not null,    -- "" if no lost event names it
    completed         boolean       not null,    -- a lost event says that it was made
    amount            numeric(19,4) not null check (amount > 0),
    currency          text          not null,
    found_at          timestamptz   not null default clock_timestamp(),
    ask_at            timestamptz   default clock_timestamp(), -- when the gateway is queried next; null: it has an outcome
    outcome           text check (outcome in ('RECORDED', 'NOT_MADE', 'NO_PAYMENT')),
    check ((ask_at is null) = (outcome is not null))
);
-- Few rows, and none of them stays in the index.
create index lost_refunds_ask_idx on lost_refunds (ask_at) where ask_at is not null;

-- migrate:down

drop table lost_refunds;
