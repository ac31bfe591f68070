-- migrate:up

-- Up to where the replay that made a generation had applied everything when it
-- went live: a partition without a checkpoint begins there. 0: no replay.
ALTER TABLE projection_generations
    ADD COLUMN position bigint NOT NULL DEFAULT 0 CHECK (position >= 0),
    ADD COLUMN event_id uuid, -- of the event at that position
    ADD CHECK ((position = 0) = (event_id IS NULL));

-- Adds to one table of a generation, unless it has it, that by which a fold
-- finds its rows. A replay needs it early only where rows that it has written
-- already change again.
CREATE FUNCTION projection_create_key(base text, generation integer) RETURNS void
LANGUAGE plpgsql AS $fn$
DECLARE
    t text := base || '_g' || generation;
BEGIN
    IF base = 'slot_audit_log' THEN
        -- GET /v1/audit by slot, and the status of a slot for its next event
        EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON %I (slot_id, position)', t || '_slot', t);
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = format('%I', t)::regclass AND contype = 'p') THEN
        EXECUTE format('ALTER TABLE %I ADD PRIMARY KEY (%I)', t,
            CASE base WHEN 'purchase_slots_names' THEN 'product_id' ELSE 'id' END);
    END IF;
END $fn$;

-- The keys and indexes of one generation that are not there yet, one for each
-- query of the query API.
CREATE OR REPLACE FUNCTION projection_create_indexes(projection text, generation integer) RETURNS void
LANGUAGE plpgsql AS $fn$
DECLARE
    t text := projection || '_g' || generation;
BEGIN
    PERFORM projection_create_key(projection, generation);
    CASE projection
    WHEN 'products' THEN
        -- GET /v1/products
        EXECUTE format('CREATE INDEX %I ON %I (sale_date, id)', t || '_sale', t);
    WHEN 'purchase_slots' THEN
        PERFORM projection_create_key('purchase_slots_names', generation);
        -- R3: one live slot per buyer and product
        EXECUTE format($sql$CREATE UNIQUE INDEX %I ON %I (product_id, user_id) WHERE status IN ('ACTIVE', 'COMPLETED')$sql$, t || '_live', t);
        -- GET /v1/slots/my-slots, newest first; a buyer has few, so the status is filtered
        EXECUTE format('CREATE INDEX %I ON %I (user_id, created_at DESC, id DESC)', t || '_user', t);
    WHEN 'purchases' THEN
        -- GET /v1/purchases, newest first, by each of its filters
        EXECUTE format('CREATE INDEX %I ON %I (created_at DESC, id DESC)', t || '_created', t);
        EXECUTE format('CREATE INDEX %I ON %I (user_id, created_at DESC, id DESC)', t || '_user', t);
        EXECUTE format('CREATE INDEX %I ON %I (product_id, created_at DESC, id DESC)', t || '_product', t);
        EXECUTE format('CREATE INDEX %I ON %I (payment_status, created_at DESC, id DESC)', t || '_status', t);
    WHEN 'slot_audit_log' THEN
        EXECUTE format('ALTER TABLE %1$I ADD PRIMARY KEY (event_id)', t);
        -- GET /v1/audit, oldest first (position order is recorded_at order), by each of its filters
        EXECUTE format('CREATE UNIQUE INDEX %I ON %I (position)', t || '_position', t);
        EXECUTE format('CREATE INDEX %I ON %I (product_id, position)', t || '_product', t);
        EXECUTE format('CREATE INDEX %I ON %I (user_id, position)', t || '_user', t);
        EXECUTE format('CREATE INDEX %I ON %I (type, position)', t || '_type', t);
        EXECUTE format('CREATE INDEX %I ON %I (recorded_at, position)', t || '_recorded', t);
    ELSE
        RAISE EXCEPTION 'unknown projection %', projection;
    END CASE;
END $fn$;

-- migrate:down

-- The function of before asks for nothing that this one does not do.
CREATE OR REPLACE FUNCTION projection_create_indexes(projection text, generation integer) RETURNS void
LANGUAGE plpgsql AS $fn$
BEGIN
    RAISE EXCEPTION 'the schema was taken half down: migrate again';
END $fn$;
DROP FUNCTION projection_create_key(text, integer);
ALTER TABLE projection_generations DROP COLUMN position, DROP COLUMN event_id;
