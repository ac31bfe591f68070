-- migrate:up

-- The incarnation of the event store that the live generations were built from.
-- Raised by `dopamine recover` once it has rebuilt them all.
ALTER TABLE projection_source ADD COLUMN incarnation bigint NOT NULL DEFAULT 1;

-- migrate:down

ALTER TABLE projection_source DROP COLUMN incarnation;
