-- migrate:up

-- The generations of each projection. The generation that is live is the one
-- that the views show and the projectors write; a replay builds the next.
CREATE TABLE projection_generations (
    projection text        NOT NULL,
    generation integer     NOT NULL CHECK (generation >= 1),
    state      text        NOT NULL CHECK (state IN ('building', 'live', 'old')),
    created_at timestamptz NOT NULL DEFAULT now(),
    live_at    timestamptz,
    PRIMARY KEY (projection, generation)
);
CREATE UNIQUE INDEX projection_generations_live ON projection_generations (projection) WHERE state = 'live';
CREATE UNIQUE INDEX projection_generations_building ON projection_generations (projection) WHERE state = 'building';

-- Which event store the rows were made of: another one, or this one restored
-- to an earlier moment, is refused.
CREATE TABLE projection_source (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    store_id uuid NOT NULL
);

-- How far each projection has got in each partition. A batch advances it by
-- compare and swap in the transaction of its rows.
CREATE TABLE projection_checkpoints (
    projection  text        NOT NULL,
    generation  integer     NOT NULL,
    topic       text        NOT NULL,
    partition   integer     NOT NULL CHECK (partition >= 0),
    partitions  integer     NOT NULL CHECK (partitions > partition), -- of the topic, when this row was made
    topic_id    text        NOT NULL,                                -- offsets are those of this topic
    next_offset bigint      NOT NULL CHECK (next_offset >= 0),
    position    bigint      NOT NULL CHECK (position >= 0),          -- of the last event applied, parked or skipped
    event_id    uuid,                                                -- of the event at that position; null at 0
    version     bigint      NOT NULL DEFAULT 0,                      -- raised by orders and by a new topic: fences a deposed owner
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, generation, topic, partition),
    FOREIGN KEY (projection, generation) REFERENCES projection_generations ON DELETE CASCADE,
    CHECK ((position = 0) = (event_id IS NULL))
) WITH (fillfactor = 50);

-- Events that could not be applied, and those behind them on the same row key.
CREATE TABLE parked_events (
    projection text        NOT NULL,
    generation integer     NOT NULL,
    row_key    uuid        NOT NULL, -- the projection's own: product, slot or payment
    position   bigint      NOT NULL, -- 0: a record that is no event of the store
    topic      text        NOT NULL,
    partition  integer     NOT NULL,
    kafka_offset bigint,             -- null where the event came from the store
    event_id   uuid,
    event_type text        NOT NULL DEFAULT '',
    product_id uuid,                 -- null only where the record does not tell
    stream_id  uuid,
    record     bytea,                -- the value as Kafka had it
    headers    jsonb       NOT NULL DEFAULT '{}',
    error      text        NOT NULL, -- of the last try, or which event it waits behind
    behind     boolean     NOT NULL, -- true: only waits for an earlier event of its key
    attempts   integer     NOT NULL DEFAULT 1,
    parked_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, generation, row_key, position),
    FOREIGN KEY (projection, generation) REFERENCES projection_generations ON DELETE CASCADE
);
-- X-Min-Position: is an event of this product set aside at or below a position?
CREATE INDEX parked_events_product ON parked_events (projection, generation, product_id, position);
-- The parked keys of a partition, read by each batch: each key has one head.
CREATE INDEX parked_events_heads ON parked_events (projection, generation, topic, partition, row_key) WHERE NOT behind;

-- What a person ordered for a parked key. The partition's owner carries it out
-- in its own checkpointed transaction; the row stays as the account of it.
CREATE TABLE parked_orders (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    projection text        NOT NULL,
    generation integer     NOT NULL,
    row_key    uuid        NOT NULL,
    topic      text        NOT NULL,
    partition  integer     NOT NULL,
    action     text        NOT NULL CHECK (action IN ('retry', 'skip')),
    position   bigint      NOT NULL, -- of the head of the key when the order was given: skip means that one
    ordered_by text        NOT NULL,
    ordered_at timestamptz NOT NULL DEFAULT now(),
    done_at    timestamptz,
    outcome    text,
    CHECK ((done_at IS NULL) = (outcome IS NULL))
);
CREATE UNIQUE INDEX parked_orders_open ON parked_orders (projection, generation, row_key) WHERE done_at IS NULL;

-- Events that a person skipped: per projection, for every generation.
CREATE TABLE skipped_events (
    projection text        NOT NULL,
    position   bigint      NOT NULL,
    event_id   uuid,
    event_type text        NOT NULL,
    row_key    uuid        NOT NULL,
    product_id uuid,
    error      text        NOT NULL,
    skipped_by text        NOT NULL,
    skipped_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, position)
);

-- The tables of one generation, without keys and indexes, so that a replay can
-- fill them with COPY first. One definition for generation 1 and all later ones.
CREATE FUNCTION projection_create_tables(projection text, generation integer) RETURNS void
LANGUAGE plpgsql AS $fn$
DECLARE
    t text := quote_ident(projection || '_g' || generation);
    n text := quote_ident(projection || '_names_g' || generation);
BEGIN
    CASE projection
    WHEN 'products' THEN
        EXECUTE format($sql$
            CREATE TABLE %s (
                id            uuid          NOT NULL,
                name          text          NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
                description   text          NOT NULL CHECK (char_length(description) BETWEEN 1 AND 2000),
                price         numeric(19,4) NOT NULL CHECK (price >= 0),
                currency      text          NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
                stock         integer       NOT NULL CHECK (stock BETWEEN 0 AND total_stock),
                initial_stock integer       NOT NULL CHECK (initial_stock >= 1),
                total_stock   integer       NOT NULL CHECK (total_stock BETWEEN initial_stock AND 10000000),
                sale_date     timestamptz   NOT NULL,
                sale_end_date timestamptz   CHECK (sale_end_date > sale_date),
                paused        boolean       NOT NULL,
                created_at    timestamptz   NOT NULL,
                updated_at    timestamptz   NOT NULL CHECK (updated_at >= created_at),
                last_position bigint        NOT NULL
            ) WITH (fillfactor = 70)$sql$, t);
    WHEN 'purchase_slots' THEN
        EXECUTE format($sql$
            CREATE TABLE %s (
                id                    uuid        NOT NULL,
                product_id            uuid        NOT NULL,
                user_id               uuid        NOT NULL,
                unit                  integer     NOT NULL CHECK (unit BETWEEN 1 AND 10000000),
                arrival_sequence      bigint      NOT NULL CHECK (arrival_sequence >= 1),
                acquisition_timestamp timestamptz NOT NULL,
                expiration_timestamp  timestamptz NOT NULL CHECK (expiration_timestamp > acquisition_timestamp),
                status                text        NOT NULL CHECK (status IN ('ACTIVE', 'COMPLETED', 'EXPIRED')),
                created_at            timestamptz NOT NULL,
                regrant_of            uuid,
                ended_at              timestamptz CHECK ((ended_at IS NULL) = (status = 'ACTIVE')),
                reclaim_status        text        CHECK (reclaim_status IN ('AUTO_EXPIRED', 'MANUAL_RECLAIMED', 'BUYER_RELEASED')),
                last_position         bigint      NOT NULL,
                CHECK ((reclaim_status IS NOT NULL) = (status = 'EXPIRED'))
            ) WITH (fillfactor = 85)$sql$, t);
        -- A slot shows its product's name as it is now, also after a deletion.
        EXECUTE format($sql$
            CREATE TABLE %s (
                product_id    uuid   NOT NULL,
                name          text   NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
                last_position bigint NOT NULL
            )$sql$, n);
    WHEN 'purchases' THEN
        EXECUTE format($sql$
            CREATE TABLE %s (
                id                     uuid          NOT NULL,
                purchase_slot_id       uuid          NOT NULL,
                product_id             uuid          NOT NULL,
                user_id                uuid          NOT NULL,
                payment_id             text          CHECK (payment_id <> ''),
                payment_status         text          NOT NULL CHECK (payment_status IN ('PENDING', 'SUCCESS', 'FAILED')),
                amount                 numeric(19,4) NOT NULL CHECK (amount >= 0),
                currency               text          NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
                payment_method         text          NOT NULL CHECK (payment_method IN ('CARD', 'BANK_TRANSFER', 'WALLET')),
                confirmation_timestamp timestamptz   CHECK ((confirmation_timestamp IS NOT NULL) = (payment_status = 'SUCCESS')),
                failure_reason         text          CHECK (failure_reason IS NULL OR payment_status = 'FAILED'),
                refund_status          text          CHECK (refund_status IN ('DUE', 'REFUNDED')),
                created_at             timestamptz   NOT NULL,
                updated_at             timestamptz   NOT NULL CHECK (updated_at >= created_at),
                last_position          bigint        NOT NULL
            ) WITH (fillfactor = 85)$sql$, t);
    WHEN 'slot_audit_log' THEN
        EXECUTE format($sql$
            CREATE TABLE %s (
                event_id      uuid        NOT NULL,
                type          text        NOT NULL CHECK (type <> ''),
                slot_id       uuid        NOT NULL,
                product_id    uuid        NOT NULL,
                user_id       uuid        NOT NULL,
                old_status    text        CHECK (old_status IN ('ACTIVE', 'COMPLETED', 'EXPIRED')),
                new_status    text        NOT NULL CHECK (new_status IN ('ACTIVE', 'COMPLETED', 'EXPIRED')),
                trace_id      text        NOT NULL,
                actor         text        NOT NULL,
                recorded_at   timestamptz NOT NULL,
                position      bigint      NOT NULL CHECK (position >= 1),
                metadata      jsonb       NOT NULL CHECK (jsonb_typeof(metadata) = 'object'),
                last_position bigint      NOT NULL GENERATED ALWAYS AS (position) STORED
            )$sql$, t);
    ELSE
        RAISE EXCEPTION 'unknown projection %', projection;
    END CASE;
END $fn$;

-- The keys and indexes of one generation, one for each query of the query API.
CREATE FUNCTION projection_create_indexes(projection text, generation integer) RETURNS void
LANGUAGE plpgsql AS $fn$
DECLARE
    t text := projection || '_g' || generation;
    n text := projection || '_names_g' || generation;
BEGIN
    CASE projection
    WHEN 'products' THEN
        EXECUTE format('ALTER TABLE %1$I ADD PRIMARY KEY (id)', t);
        -- GET /v1/products
        EXECUTE format('CREATE INDEX %I ON %I (sale_date, id)', t || '_sale', t);
    WHEN 'purchase_slots' THEN
        EXECUTE format('ALTER TABLE %1$I ADD PRIMARY KEY (id)', t);
        EXECUTE format('ALTER TABLE %1$I ADD PRIMARY KEY (product_id)', n);
        -- R3: one live slot per buyer and product
        EXECUTE format($sql$CREATE UNIQUE INDEX %I ON %I (product_id, user_id) WHERE status IN ('ACTIVE', 'COMPLETED')$sql$, t || '_live', t);
        -- GET /v1/slots/my-slots, newest first; a buyer has few, so the status is filtered
        EXECUTE format('CREATE INDEX %I ON %I (user_id, created_at DESC, id DESC)', t || '_user', t);
    WHEN 'purchases' THEN
        EXECUTE format('ALTER TABLE %1$I ADD PRIMARY KEY (id)', t);
        -- GET /v1/purchases, newest first, by each of its filters
        EXECUTE format('CREATE INDEX %I ON %I (created_at DESC, id DESC)', t || '_created', t);
        EXECUTE format('CREATE INDEX %I ON %I (user_id, created_at DESC, id DESC)', t || '_user', t);
        EXECUTE format('CREATE INDEX %I ON %I (product_id, created_at DESC, id DESC)', t || '_product', t);
        EXECUTE format('CREATE INDEX %I ON %I (payment_status, created_at DESC, id DESC)', t || '_status', t);
    WHEN 'slot_audit_log' THEN
        EXECUTE format('ALTER TABLE %1$I ADD PRIMARY KEY (event_id)', t);
        -- GET /v1/audit, oldest first (position order is recorded_at order), by each of its filters
        EXECUTE format('CREATE UNIQUE INDEX %I ON %I (position)', t || '_position', t);
        EXECUTE format('CREATE INDEX %I ON %I (slot_id, position)', t || '_slot', t);
        EXECUTE format('CREATE INDEX %I ON %I (product_id, position)', t || '_product', t);
        EXECUTE format('CREATE INDEX %I ON %I (user_id, position)', t || '_user', t);
        EXECUTE format('CREATE INDEX %I ON %I (type, position)', t || '_type', t);
        EXECUTE format('CREATE INDEX %I ON %I (recorded_at, position)', t || '_recorded', t);
    ELSE
        RAISE EXCEPTION 'unknown projection %', projection;
    END CASE;
END $fn$;

-- The next generation in one go: tables, keys and indexes.
CREATE FUNCTION projection_create_generation(projection text, generation integer) RETURNS void
LANGUAGE plpgsql AS $fn$
BEGIN
    PERFORM projection_create_tables(projection, generation);
    PERFORM projection_create_indexes(projection, generation);
END $fn$;

-- The tables of a generation that is not needed any more.
CREATE FUNCTION projection_drop_tables(projection text, generation integer) RETURNS void
LANGUAGE plpgsql AS $fn$
BEGIN
    EXECUTE format('DROP TABLE IF EXISTS %I', projection || '_g' || generation);
    IF projection = 'purchase_slots' THEN
        EXECUTE format('DROP TABLE IF EXISTS %I', projection || '_names_g' || generation);
    END IF;
END $fn$;

-- Points the view of a projection's name at one generation.
CREATE FUNCTION projection_set_view(projection text, generation integer) RETURNS void
LANGUAGE plpgsql AS $fn$
DECLARE
    t text := quote_ident(projection || '_g' || generation);
    n text := quote_ident(projection || '_names_g' || generation);
BEGIN
    CASE projection
    WHEN 'products' THEN
        EXECUTE format($sql$
            CREATE OR REPLACE VIEW products AS
            SELECT id, name, description, price, currency, stock, initial_stock, total_stock,
                   sale_date, sale_end_date, paused, created_at, updated_at
            FROM %s$sql$, t);
    WHEN 'purchase_slots' THEN
        EXECUTE format($sql$
            CREATE OR REPLACE VIEW purchase_slots AS
            SELECT s.id, s.product_id, n.name AS product_name, s.user_id, s.unit, s.arrival_sequence,
                   s.acquisition_timestamp, s.expiration_timestamp, s.status, s.created_at,
                   s.regrant_of, s.ended_at, s.reclaim_status
            FROM %s s LEFT JOIN %s n ON n.product_id = s.product_id$sql$, t, n);
    WHEN 'purchases' THEN
        EXECUTE format($sql$
            CREATE OR REPLACE VIEW purchases AS
            SELECT id, purchase_slot_id, product_id, user_id, payment_id, payment_status, amount, currency,
                   payment_method, confirmation_timestamp, failure_reason, refund_status, created_at, updated_at
            FROM %s$sql$, t);
    WHEN 'slot_audit_log' THEN
        EXECUTE format($sql$
            CREATE OR REPLACE VIEW slot_audit_log AS
            SELECT event_id, type, slot_id, product_id, user_id, old_status, new_status, trace_id, actor,
                   recorded_at, position, metadata
            FROM %s$sql$, t);
    ELSE
        RAISE EXCEPTION 'unknown projection %', projection;
    END CASE;
END $fn$;

INSERT INTO projection_generations (projection, generation, state, live_at)
SELECT p, 1, 'live', now() FROM unnest(ARRAY['products', 'purchase_slots', 'purchases', 'slot_audit_log']) p;
SELECT projection_create_generation(projection, generation), projection_set_view(projection, generation)
FROM projection_generations ORDER BY projection;

-- migrate:down

DROP VIEW products, purchase_slots, purchases, slot_audit_log;
SELECT projection_drop_tables(projection, generation) FROM projection_generations;
DROP FUNCTION projection_set_view(text, integer);
DROP FUNCTION projection_drop_tables(text, integer);
DROP FUNCTION projection_create_generation(text, integer);
DROP FUNCTION projection_create_indexes(text, integer);
DROP FUNCTION projection_create_tables(text, integer);
DROP TABLE skipped_events, parked_orders, parked_events, projection_checkpoints, projection_source, projection_generations;
