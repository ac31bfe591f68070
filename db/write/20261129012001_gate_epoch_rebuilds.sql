-- migrate:up

-- rebuilt_id: the id of the rebuild whose gate decided in the epoch; see
-- product_gates.rebuilt_id, which is that of the present epoch. An epoch that only gates of a
-- lost history had has the zero id. Null: not known, because a version that does not know the
-- column ended it.
--
-- Gates of a lost history may still be in some Redis, under an epoch that was given out again
-- since. Their decisions are not those of the epoch's own gate.
alter table gate_epochs add column rebuilt_id uuid;

-- migrate:down

alter table gate_epochs drop column rebuilt_id;
