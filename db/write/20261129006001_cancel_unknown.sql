-- migrate:up

-- The gateway did not know a payment that it was to cancel: a post that was still
-- under way may create it, and then it is cancelled.
alter table payments add column cancel_unknown boolean not null default false;

-- migrate:down

alter table payments drop column cancel_unknown;
