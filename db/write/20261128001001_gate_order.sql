-- migrate:up

-- What nodes compare to order themselves without any clock of Postgres. The two
-- counters are read twice: one that stands still between the two reads, on the
-- reader's own clock, belongs to a process that does nothing.
--
-- Additive: a program that does not know the columns leaves them as they are, and
-- then leased_at and raised_at, which change with them, show the same.
alter table product_gates
    add column lease_beat    bigint not null default 0, -- renewals of the lease
    add column lease_view    bigint not null default 0, -- configuration epoch of the Redis on which it was taken; 0: it has none
    add column rebuild_beat  bigint not null default 0, -- signs of life of the last rebuild
    add column rebuild_owner uuid;                      -- the node that began it

-- migrate:down

alter table product_gates
    drop column lease_beat, drop column lease_view, drop column rebuild_beat, drop column rebuild_owner;
