-- migrate:up

-- One row for each payment: what is to be done about it, and when. Written in
-- the transaction of the events, which stay the truth; what only says when to
-- ask the gateway next is changed by statements of one row each, outside.
create table payments (
    payment_id         uuid          primary key,
    slot_id            uuid          not null, -- in whose stream it was begun: whatever is said of it is decided there
    product_id         uuid          not null,
    user_id            uuid          not null,
    amount             numeric(19,4) not null check (amount >= 0),
    currency           text          not null,
    method             text          not null,
    status             text          not null check (status in ('PENDING', 'SUCCESS', 'FAILED')),
    gateway_payment_id text,
    initiated_at       timestamptz   not null,
    posted_at          timestamptz   not null,               -- when the gateway was last asked for the money
    accepted           boolean       not null default false, -- it has answered that it knows of it
    ask_at             timestamptz,                          -- when it is asked next, for the money or about it; null: never
    ask_until          timestamptz,                          -- and until when, where unsettled
    unsettled          boolean       not null default false, -- FAILED, and what the gateway did is not known or not dealt with
    unreadable         text,                                 -- what it says that it took, where that is no money
    refund_status      text          check (refund_status in ('DUE', 'REFUNDED')),
    refund_amount      numeric(19,4) check (refund_amount > 0),
    refund_currency    text,
    refund_due_at      timestamptz,
    refund_ask_at      timestamptz,                          -- when the gateway is asked for the refund next
    refund_refused     text,                                 -- what it last said against it
    check (status <> 'SUCCESS' or (refund_status is null and not unsettled)), -- R7: money is in one place
    check (status <> 'PENDING' or (refund_status is null and not unsettled and ask_at is not null)),
    check ((refund_status is null) = (refund_amount is null)),
    check ((refund_status is null) = (refund_currency is null)),
    check (refund_ask_at is null or refund_status = 'DUE')
) with (fillfactor = 80);

-- One payment of a slot is pending at a time.
create unique index payments_pending_key on payments (slot_id) where status = 'PENDING';

-- What workers look for.
create index payments_ask_idx on payments (ask_at) where ask_at is not null;
create index payments_refund_idx on payments (refund_ask_at) where refund_ask_at is not null;

-- What a person looks for.
create index payments_waiting_idx on payments (initiated_at)
    where unsettled or refund_refused is not null or unreadable is not null;

-- The idempotency keys of POST /v1/payments with the answer that was given.
create table payment_keys (
    user_id         uuid        not null,
    idempotency_key uuid        not null,
    body_hash       bytea       not null check (length(body_hash) = 32),
    answer          json        not null,
    product_id      uuid        not null,
    position        bigint      not null, -- of the last event of what was answered
    created_at      timestamptz not null,
    primary key (user_id, idempotency_key)
);
create index payment_keys_created_idx on payment_keys (created_at);

-- The ids of callbacks that were heard, each once.
create table webhook_ids (
    id         text        primary key,
    product_id uuid        not null,
    position   bigint      not null, -- what the callback came to lies at or below
    seen_at    timestamptz not null
);
create index webhook_ids_seen_idx on webhook_ids (seen_at);

-- migrate:down

drop table webhook_ids;
drop table payment_keys;
drop table payments;
