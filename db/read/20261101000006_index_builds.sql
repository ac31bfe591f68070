-- migrate:up

-- The keys and indexes of each generation, one for each query of the query API,
-- each of which a replay can build beside another one of the same table.
CREATE FUNCTION projection_indexes(of_projection text) RETURNS TABLE (base text, suffix text, is_unique boolean, definition text)
LANGUAGE sql IMMUTABLE AS $fn$
    SELECT v.base, v.suffix, v.is_unique, v.definition
    FROM (VALUES
        ('products',       'products',             '_pkey',     true,  '(id)'),
        -- GET /v1/products
        ('products',       'products',             '_sale',     false, '(sale_date, id)'),

        ('purchase_slots', 'purchase_slots',       '_pkey',     true,  '(id)'),
        ('purchase_slots', 'purchase_slots_names', '_pkey',     true,  '(product_id)'),
        -- R3: one live slot per buyer and product
        ('purchase_slots', 'purchase_slots',       '_live',     true,  '(product_id, user_id) WHERE status IN (''ACTIVE'', ''COMPLETED'')'),
        -- GET /v1/slots/my-slots, newest first; a buyer has few, so the status is filtered
        ('purchase_slots', 'purchase_slots',       '_user',     false, '(user_id, created_at DESC, id DESC)'),
        -- stats and the dashboard: the slots that end next
        ('purchase_slots', 'purchase_slots',       '_ending',   false, '(expiration_timestamp) WHERE status = ''ACTIVE'''),

        ('purchases',      'purchases',            '_pkey',     true,  '(id)'),
        -- GET /v1/purchases, newest first, by each of its filters
        ('purchases',      'purchases',            '_created',  false, '(created_at DESC, id DESC)'),
        ('purchases',      'purchases',            '_user',     false, '(user_id, created_at DESC, id DESC)'),
        ('purchases',      'purchases',            '_product',  false, '(product_id, created_at DESC, id DESC)'),
        ('purchases',      'purchases',            '_status',   false, '(payment_status, created_at DESC, id DESC)'),
        -- stats and the dashboard: refundsDue
        ('purchases',      'purchases',            '_refund',   false, '(id) WHERE refund_status = ''DUE'''),

        ('slot_audit_log', 'slot_audit_log',       '_pkey',     true,  '(event_id)'),
        -- GET /v1/audit, oldest first (position order is recorded_at order), by each of its filters
        ('slot_audit_log', 'slot_audit_log',       '_position', true,  '(position)'),
        ('slot_audit_log', 'slot_audit_log',       '_slot',     false, '(slot_id, position)'),
        ('slot_audit_log', 'slot_audit_log',       '_product',  false, '(product_id, position)'),
        ('slot_audit_log', 'slot_audit_log',       '_user',     false, '(user_id, position)'),
        ('slot_audit_log', 'slot_audit_log',       '_type',     false, '(type, position)'),
        ('slot_audit_log', 'slot_audit_log',       '_recorded', false, '(recorded_at, position)')
    ) AS v(projection, base, suffix, is_unique, definition)
    WHERE v.projection = of_projection
$fn$;

-- One index of a generation, unless it is there. It does not make a primary key
-- of it: that would wait for the other builds.
CREATE FUNCTION projection_create_indexes(projection text, generation integer, of_base text, of_suffix text) RETURNS void
LANGUAGE plpgsql AS $fn$
DECLARE
    i record;
    t text := of_base || '_g' || generation;
BEGIN
    SELECT * INTO STRICT i FROM projection_indexes(projection) WHERE base = of_base AND suffix = of_suffix;
    EXECUTE format('CREATE %s INDEX IF NOT EXISTS %I ON %I %s', CASE WHEN i.is_unique THEN 'UNIQUE' END, t || of_suffix, t, i.definition);
END $fn$;

-- The keys and indexes of one generation that are not there yet.
CREATE OR REPLACE FUNCTION projection_create_indexes(projection text, generation integer) RETURNS void
LANGUAGE plpgsql AS $fn$
DECLARE
    i record;
    t text;
BEGIN
    IF NOT EXISTS (SELECT FROM projection_indexes(projection)) THEN
        RAISE EXCEPTION 'unknown projection %', projection;
    END IF;
    FOR i IN SELECT * FROM projection_indexes(projection) LOOP
        t := i.base || '_g' || generation;
        IF to_regclass(format('%I', t || i.suffix)) IS NULL THEN
            PERFORM projection_create_indexes(projection, generation, i.base, i.suffix);
        END IF;
        IF i.suffix = '_pkey' AND NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = format('%I', t)::regclass AND contype = 'p') THEN
            EXECUTE format('ALTER TABLE %1$I ADD CONSTRAINT %2$I PRIMARY KEY USING INDEX %2$I', t, t || i.suffix);
        END IF;
    END LOOP;
END $fn$;

DROP FUNCTION projection_create_query_indexes(text, integer);
DROP FUNCTION projection_create_stats_indexes(text, integer);

-- migrate:down

-- The functions of before are made anew when it is migrated again.
DROP FUNCTION projection_create_indexes(text, integer, text, text);
DROP FUNCTION projection_indexes(text);
CREATE OR REPLACE FUNCTION projection_create_indexes(projection text, generation integer) RETURNS void
LANGUAGE plpgsql AS $fn$
BEGIN
    RAISE EXCEPTION 'the schema was taken half down: migrate again';
END $fn$;
CREATE FUNCTION projection_create_query_indexes(projection text, generation integer) RETURNS void
LANGUAGE sql AS 'SELECT projection_create_indexes(projection, generation)';
CREATE FUNCTION projection_create_stats_indexes(projection text, generation integer) RETURNS void
LANGUAGE sql AS 'SELECT projection_create_indexes(projection, generation)';
