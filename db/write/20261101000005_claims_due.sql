-- migrate:up

-- What workers look for: slots that end by themselves, and slots that wait for a
-- payment. One index for both had each look walk over all that the other wants,
-- which is a whole drop where all of it is due, or being paid, at the same time.
drop index slot_claims_due_idx;
create index slot_claims_ends_idx on slot_claims (due_at) where due_at = deadline;
create index slot_claims_timed_out_idx on slot_claims (due_at) where due_at > deadline;

-- Whether a product has an ACTIVE slot, however many are COMPLETED.
create index slot_claims_active_idx on slot_claims (product_id, due_at) where due_at is not null;

-- migrate:down

drop index slot_claims_active_idx;
drop index slot_claims_timed_out_idx;
drop index slot_claims_ends_idx;
create index slot_claims_due_idx on slot_claims (due_at) where due_at is not null;
