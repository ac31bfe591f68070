-- migrate:up

-- The ledger learns of stored requests, cancelling, disputes and reversals.
alter table payments
    add column request          bytea,                            -- the body of the POST to the gateway, repeated byte for byte; null: begun by an older version, or free
    add column attempts         integer     not null default 1,   -- POSTs that may have reached the gateway
    add column cancel_requested boolean     not null default false,
    add column cancel_at        timestamptz,                      -- when the gateway is to be asked to cancel it; null: not
    add column next_action      jsonb,                            -- what the buyer has to do next; null once there is an outcome
    add column disputed         boolean     not null default false,
    add column reversed         boolean     not null default false,
    add column settled          text        check (settled in ('refunded', 'failed')), -- of a purchase: its money went back, or its refund failed; null: neither
    add column sale_refunded    boolean     not null default false; -- what was left was made due when the sale was cancelled

-- Payments to post, and to query or cancel, each by an index of its own, so that
-- many of one kind hide none of the other.
create index payments_post_idx on payments (ask_at)
    where ask_at is not null and status = 'PENDING' and not accepted and not cancel_requested;
create index payments_query_idx on payments (ask_at)
    where ask_at is not null and not (status = 'PENDING' and not accepted and not cancel_requested);
create index payments_cancel_idx on payments (cancel_at) where cancel_at is not null;

-- Purchases of a product: the counts of its cancellation, and which of them are
-- still to be refunded for it.
create index payments_purchases_idx on payments (product_id) where status = 'SUCCESS' and amount > 0;
create index payments_pending_product_idx on payments (product_id) where status = 'PENDING';
create index payments_to_refund_idx on payments (product_id, payment_id) where status = 'SUCCESS' and amount > 0 and not sale_refunded;

-- One row for each refund: what is to be done about it, and when.
create table payment_refunds (
    refund_id         uuid          primary key, -- ours, and the idempotency key at the gateway
    payment_id        uuid          not null references payments,
    charge            text          not null default '', -- the gateway's id of the charge that is refunded
    gateway_refund_id text,
    amount            numeric(19,4) not null check (amount > 0),
    currency          text          not null,
    status            text          not null check (status in ('DUE', 'PENDING', 'COMPLETED', 'FAILED')),
    due_at            timestamptz   not null,           -- since when it waits for a final answer; a retry sets it anew
    posted_at         timestamptz,                      -- when it was last posted; null: never
    posts             integer       not null default 0, -- how often it may have reached the gateway
    ask_at            timestamptz,                      -- when it is posted or queried next; null: not
    reported          boolean       not null default false, -- that it is stuck was logged
    check (ask_at is null or status in ('DUE', 'PENDING'))
) with (fillfactor = 80);
create index payment_refunds_payment_idx on payment_refunds (payment_id);
create index payment_refunds_ask_idx on payment_refunds (ask_at) where ask_at is not null;
create index payment_refunds_open_idx on payment_refunds (due_at) where status in ('DUE', 'PENDING');

-- What of a payment waits for an operator, as its events say. What only time
-- makes (refunds that are stuck, outcomes that stay unknown) follows from the
-- tables above.
create table payment_attention (
    payment_id uuid        not null references payments,
    n          integer     not null,
    cause      text        not null check (cause in ('REFUND_FAILED', 'CONTRADICTED', 'DISPUTED', 'REVERSED')),
    refund_id  uuid,
    code       text        not null,
    since      timestamptz not null,
    primary key (payment_id, n)
);
create index payment_attention_since_idx on payment_attention (since, payment_id, n);

-- The idempotency keys of POST /v1/payments/{id}/refunds with the first response.
create table refund_keys (
    payment_id      uuid        not null,
    idempotency_key uuid        not null,
    body_hash       bytea       not null check (length(body_hash) = 32),
    answer          json        not null,
    product_id      uuid        not null,
    position        bigint      not null,
    created_at      timestamptz not null,
    primary key (payment_id, idempotency_key)
);
create index refund_keys_created_idx on refund_keys (created_at);

-- Sales that were cancelled, until their slots have ended and their purchases are
-- being refunded. A row stays: a payment may still succeed later.
create table sale_cancellations (
    product_id   uuid        primary key,
    cancelled_at timestamptz not null
);

alter table product_gates add column cancelled boolean not null default false;

-- Units may fall while a product has never had a slot.
create or replace function refuse_fall() returns trigger language plpgsql as $$
begin
    if new.units < old.units and new.epoch >= old.epoch and (new.deleted or not old.deleted)
       and not exists (select from slot_numbers where product_id = old.product_id) then
        return new;
    end if;
    raise exception 'epoch and units of product % only rise', old.product_id
        using errcode = 'restrict_violation';
end
$$;

alter table gate_decisions
    drop constraint gate_decisions_reason_check,
    add constraint gate_decisions_reason_check
        check (reason in ('AUTO_EXPIRED', 'MANUAL_RECLAIMED', 'BUYER_RELEASED', 'WITHDRAWN', 'REFUNDED')) not valid;

-- migrate:down

alter table gate_decisions
    drop constraint gate_decisions_reason_check,
    add constraint gate_decisions_reason_check check (reason in ('AUTO_EXPIRED', 'MANUAL_RECLAIMED', 'BUYER_RELEASED', 'WITHDRAWN')) not valid;
create or replace function refuse_fall() returns trigger language plpgsql as $$
begin
    raise exception 'epoch and units of product % only rise', old.product_id
        using errcode = 'restrict_violation';
end
$$;
alter table product_gates drop column cancelled;
drop table sale_cancellations, refund_keys, payment_attention, payment_refunds;
drop index payments_post_idx, payments_query_idx, payments_cancel_idx, payments_purchases_idx, payments_pending_product_idx, payments_to_refund_idx;
alter table payments drop column request, drop column attempts, drop column cancel_requested, drop column cancel_at, drop column next_action,
    drop column disputed, drop column reversed, drop column settled, drop column sale_refunded;
