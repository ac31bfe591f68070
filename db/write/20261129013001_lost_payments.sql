-- migrate:up

-- Payments that only the topic knows: their events were in what a restore of this database
-- lost. `dopamine recover` finds them for an operator, who compares them with the provider's
-- list: no process queries the gateway about them. No index but the key's: few rows, read by
-- people, and once by a recovery that is continued.
create table lost_payments (
    payment_id         uuid          primary key, -- the gateway's `reference`
    slot_id            uuid          not null,    -- the last one, if the payment was moved to another
    user_id            uuid          not null,
    product_id         uuid          not null,
    amount             numeric(19,4) not null,    -- as requested
    currency           text          not null,
    gateway_payment_id text          not null,    -- "" if no lost event names it
    outcome            text          not null check (outcome in ('PENDING', 'SUCCESS', 'FAILED')), -- the last one in the topic
    incarnation        bigint        not null,    -- which began with the recovery that found it
    found_at           timestamptz   not null default clock_timestamp()
);

-- migrate:down

drop table lost_payments;
