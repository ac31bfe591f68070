-- migrate:up

-- The histories of this store (contract 1, incarnation). A restore to an earlier
-- moment forgets events that others have seen; `dopamine recover` then begins the
-- next incarnation. Positions up to shared_position mean the same event in this
-- incarnation as in the one before; above it they were given out again.
--
-- A row is added under the append lock, so an append knows its incarnation as
-- surely as its position. The highest number is the current one.
CREATE TABLE store_incarnations (
    incarnation     bigint      PRIMARY KEY CHECK (incarnation >= 1),
    shared_position bigint      NOT NULL CHECK (shared_position >= 0),
    began_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    marked_at       timestamptz, -- when the topic had the record of its beginning in every partition
    recovered_at    timestamptz  -- when the read models were those of this incarnation
);
INSERT INTO store_incarnations (incarnation, shared_position, marked_at, recovered_at)
VALUES (1, 0, clock_timestamp(), clock_timestamp());

-- The incarnation that the relay's checkpoint belongs to. A relay of the version
-- before leaves it alone.
ALTER TABLE relay_place ADD COLUMN incarnation bigint NOT NULL DEFAULT 1;

-- migrate:down

ALTER TABLE relay_place DROP COLUMN incarnation;
DROP TABLE store_incarnations;
