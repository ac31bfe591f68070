-- migrate:up

-- Why projectors apply nothing, if that needs a person: for `dopamine status`.
-- Written by a projector that found it out, deleted by one that goes on.
CREATE TABLE projector_blocked (
    one     boolean     PRIMARY KEY DEFAULT true CHECK (one),
    reason  text        NOT NULL,
    since   timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp() -- repeated every few seconds
);

-- migrate:down

DROP TABLE projector_blocked;
