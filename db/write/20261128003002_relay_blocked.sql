-- migrate:up

-- Why the relay publishes nothing, if that needs a person: for `dopamine status`.
-- Written by a relay that found it out, deleted by one that leads.
CREATE TABLE relay_blocked (
    one     boolean     PRIMARY KEY DEFAULT true CHECK (one),
    reason  text        NOT NULL,
    since   timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp() -- repeated every few seconds
);

-- migrate:down

DROP TABLE relay_blocked;
