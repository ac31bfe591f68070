-- migrate:up

-- Each replay and how far it is, for anyone to look at. A replay that runs holds
-- the advisory lock (1146049863, hashtext(projection)); a row without ended_at
-- whose lock nobody holds is one that was killed.
CREATE TABLE projection_replays (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    projection text        NOT NULL,
    generation integer     NOT NULL, -- that it builds
    source     text        NOT NULL CHECK (source IN ('store', 'kafka')),
    phase      text        NOT NULL CHECK (phase IN ('reading', 'indexing', 'catching up', 'comparing', 'swapping',
                                                     'swapped', 'differs', 'failed', 'interrupted')),
    events     bigint      NOT NULL DEFAULT 0, -- read so far
    position   bigint      NOT NULL DEFAULT 0, -- everything up to it is in the generation's tables
    target     bigint      NOT NULL,           -- the event store's head when last looked at
    rate       double precision NOT NULL DEFAULT 0, -- events a second, of late
    error      text,
    started_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz,
    CHECK ((ended_at IS NOT NULL) = (phase IN ('swapped', 'differs', 'failed', 'interrupted')))
) WITH (fillfactor = 50);
CREATE INDEX projection_replays_projection ON projection_replays (projection, id);

-- migrate:down

DROP TABLE projection_replays;
