-- migrate:up

-- How far the relay has got. Saved by the relay that leads, only past what
-- Kafka has acknowledged without a gap.
CREATE TABLE relay_place (
    one        boolean     PRIMARY KEY DEFAULT true CHECK (one),
    cluster_id text        NOT NULL,                      -- of the Kafka that was written to
    topic_id   text        NOT NULL,                      -- another one starts at 0
    position   bigint      NOT NULL CHECK (position >= 0),
    event_id   uuid,                                      -- of the event at that position; null at 0
    last       bigint[]    NOT NULL,                      -- the last position of each partition, from partition 0
    saved_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((position = 0) = (event_id IS NULL))
);

-- migrate:down

DROP TABLE relay_place;
