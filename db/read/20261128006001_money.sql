-- migrate:up

-- Refunds with ids and states, disputes, reversals, cancelled sales and returned
-- units. New columns come last, in tables and in views, so that views of others
-- stay valid and rows of altered and of new generations look alike.

-- Adds to the tables of one generation what they lack.
CREATE FUNCTION projection_add_money(projection text, generation integer) RETURNS void
LANGUAGE plpgsql AS $fn$
DECLARE
    t text := projection || '_g' || generation;
BEGIN
    CASE projection
    WHEN 'products' THEN
        EXECUTE format($sql$ALTER TABLE %I
            ADD COLUMN IF NOT EXISTS cancelled boolean NOT NULL DEFAULT false,
            ADD COLUMN IF NOT EXISTS revision  bigint$sql$, t); -- position of the last change by an admin; null: of before this column
    WHEN 'purchase_slots' THEN
        EXECUTE format($sql$ALTER TABLE %1$I
            DROP CONSTRAINT IF EXISTS %2$I,
            ADD CONSTRAINT %2$I CHECK (status IN ('ACTIVE', 'COMPLETED', 'EXPIRED', 'RETURNED')) NOT VALID$sql$, t, t || '_status_check');
    WHEN 'purchases' THEN
        EXECUTE format($sql$ALTER TABLE %1$I
            ADD COLUMN IF NOT EXISTS refunded_amount numeric(19,4) NOT NULL DEFAULT 0 CHECK (refunded_amount >= 0),
            ADD COLUMN IF NOT EXISTS disputed        boolean       NOT NULL DEFAULT false,
            ADD COLUMN IF NOT EXISTS reversed        boolean       NOT NULL DEFAULT false,
            ADD COLUMN IF NOT EXISTS money           jsonb, -- what was taken, refunds and disputes, as the fold needs them; null: none
            DROP CONSTRAINT IF EXISTS %2$I,
            ADD CONSTRAINT %2$I CHECK (refund_status IN ('DUE', 'PENDING', 'PARTIAL', 'REFUNDED', 'FAILED')) NOT VALID$sql$, t, t || '_refund_status_check');
        EXECUTE format($sql$CREATE TABLE IF NOT EXISTS %I (
            id             uuid          NOT NULL,
            payment_id     uuid          NOT NULL,
            amount         numeric(19,4) NOT NULL CHECK (amount > 0),
            currency       text          NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
            cause          text          NOT NULL CHECK (cause IN ('LATE', 'AMOUNT_MISMATCH', 'DUPLICATE_CHARGE', 'REQUESTED', 'SALE_CANCELLED')),
            status         text          NOT NULL CHECK (status IN ('DUE', 'PENDING', 'COMPLETED', 'FAILED')),
            return_unit    boolean       NOT NULL,
            reason         text          NOT NULL,
            failure_reason text          CHECK (failure_reason IS NULL OR status = 'FAILED'),
            created_at     timestamptz   NOT NULL,
            updated_at     timestamptz   NOT NULL CHECK (updated_at >= created_at),
            last_position  bigint        NOT NULL
        ) WITH (fillfactor = 85)$sql$, 'refunds_g' || generation);
    WHEN 'slot_audit_log' THEN
        EXECUTE format($sql$ALTER TABLE %1$I
            DROP CONSTRAINT IF EXISTS %2$I,
            ADD CONSTRAINT %2$I CHECK (old_status IN ('ACTIVE', 'COMPLETED', 'EXPIRED', 'RETURNED')) NOT VALID,
            DROP CONSTRAINT IF EXISTS %3$I,
            ADD CONSTRAINT %3$I CHECK (new_status IN ('ACTIVE', 'COMPLETED', 'EXPIRED', 'RETURNED')) NOT VALID$sql$,
            t, t || '_old_status_check', t || '_new_status_check');
    END CASE;
END $fn$;

ALTER FUNCTION projection_create_tables(text, integer) RENAME TO projection_create_first_tables;

-- The tables of one generation, without keys and indexes.
CREATE FUNCTION projection_create_tables(projection text, generation integer) RETURNS void
LANGUAGE plpgsql AS $fn$
BEGIN
    PERFORM projection_create_first_tables(projection, generation);
    PERFORM projection_add_money(projection, generation);
END $fn$;

SELECT projection_add_money(projection, generation) FROM projection_generations ORDER BY projection, generation;

CREATE OR REPLACE FUNCTION projection_drop_tables(projection text, generation integer) RETURNS void
LANGUAGE plpgsql AS $fn$
BEGIN
    EXECUTE format('DROP TABLE IF EXISTS %I', projection || '_g' || generation);
    IF projection = 'purchase_slots' THEN
        EXECUTE format('DROP TABLE IF EXISTS %I', projection || '_names_g' || generation);
    ELSIF projection = 'purchases' THEN
        EXECUTE format('DROP TABLE IF EXISTS %I', 'refunds_g' || generation);
    END IF;
END $fn$;

CREATE OR REPLACE FUNCTION projection_indexes(of_projection text) RETURNS TABLE (base text, suffix text, is_unique boolean, definition text)
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
        -- kept for the version before
        ('purchases',      'purchases',            '_refund',   false, '(id) WHERE refund_status = ''DUE'''),
        ('purchases',      'refunds',              '_pkey',     true,  '(id)'),
        -- GET /v1/payments/{id}/refunds, oldest first
        ('purchases',      'refunds',              '_payment',  false, '(payment_id, created_at, id)'),
        -- stats and the dashboard: refundsDue
        ('purchases',      'refunds',              '_open',     false, '(id) WHERE status IN (''DUE'', ''PENDING'')'),

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

SELECT projection_create_indexes(projection, generation) FROM projection_generations WHERE state <> 'building' ORDER BY projection, generation;

-- Refunds of before this version: each was of a FAILED payment, and its id is the
-- payment's. Amount, reason and times are in the audit.
DO $do$
DECLARE
    g integer;
    audit text := 'slot_audit_log_g' || (SELECT generation FROM projection_generations WHERE projection = 'slot_audit_log' AND state = 'live');
BEGIN
    FOR g IN SELECT generation FROM projection_generations WHERE projection = 'purchases' AND state <> 'building' LOOP
        EXECUTE format($sql$
            INSERT INTO %1$I (id, payment_id, amount, currency, cause, status, return_unit, reason, created_at, updated_at, last_position)
            SELECT p.id, p.id, (d.metadata->>'amount')::numeric, d.metadata->>'currency',
                   CASE d.metadata->>'reason' WHEN 'AMOUNT_MISMATCH' THEN 'AMOUNT_MISMATCH' ELSE 'LATE' END,
                   CASE WHEN c.position IS NULL THEN 'DUE' ELSE 'COMPLETED' END, false, coalesce(d.metadata->>'reason', ''),
                   d.recorded_at, coalesce(c.recorded_at, d.recorded_at), coalesce(c.position, d.position)
            FROM %2$I p
            JOIN %3$I d ON d.type = 'RefundDue' AND (d.metadata->>'paymentId')::uuid = p.id
            LEFT JOIN %3$I c ON c.type = 'RefundCompleted' AND (c.metadata->>'paymentId')::uuid = p.id
            WHERE p.refund_status IS NOT NULL
            ON CONFLICT DO NOTHING$sql$, 'refunds_g' || g, 'purchases_g' || g, audit);
        EXECUTE format($sql$
            UPDATE %2$I p SET
                refunded_amount = CASE WHEN r.status = 'COMPLETED' AND r.currency = p.currency THEN r.amount ELSE 0 END,
                money = jsonb_build_object('taken', jsonb_build_object('amount', trim_scale(r.amount)::text, 'currency', r.currency),
                    'refunds', jsonb_build_array(jsonb_strip_nulls(jsonb_build_object(
                        'id', r.id, 'chargeId', p.payment_id, 'amount', jsonb_build_object('amount', trim_scale(r.amount)::text, 'currency', r.currency),
                        'cause', r.cause, 'reason', r.reason, 'status', r.status,
                        'createdAt', to_char(r.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                        'updatedAt', to_char(r.updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')))))
            FROM %1$I r WHERE r.payment_id = p.id$sql$, 'refunds_g' || g, 'purchases_g' || g);
    END LOOP;
END $do$;

-- Points the views of a projection at one generation.
CREATE OR REPLACE FUNCTION projection_set_view(projection text, generation integer) RETURNS void
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
                   sale_date, sale_end_date, paused, created_at, updated_at,
                   CASE WHEN cancelled THEN projection_cancellation(id) END AS cancellation
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
                   payment_method, confirmation_timestamp, failure_reason, refund_status, created_at, updated_at,
                   refunded_amount, disputed, reversed
            FROM %s$sql$, t);
        EXECUTE format($sql$
            CREATE OR REPLACE VIEW refunds AS
            SELECT id, payment_id, amount, currency, cause, status, return_unit, reason, failure_reason, created_at, updated_at
            FROM %I$sql$, 'refunds_g' || generation);
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

-- The counts of a cancelled sale: purchases (payments above 0 that succeeded), and
-- of these the wholly refunded or reversed, those whose refund failed, the others.
-- A function, not a join: the view of products does not depend on that of
-- purchases, which a replay replaces.
CREATE FUNCTION projection_cancellation(of_product uuid) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $fn$
BEGIN
    RETURN (
        SELECT jsonb_build_object('purchases', count(*), 'refunded', count(*) FILTER (WHERE state = 'refunded'),
                                  'failed', count(*) FILTER (WHERE state = 'failed'), 'open', count(*) FILTER (WHERE state = 'open'))
        FROM (SELECT CASE
                  WHEN p.reversed OR p.refund_status = 'REFUNDED' THEN 'refunded'
                  WHEN p.refund_status IN ('DUE', 'PENDING') THEN 'open'
                  WHEN p.refund_status = 'FAILED' OR EXISTS (
                      SELECT FROM refunds r WHERE r.payment_id = p.id AND r.status = 'FAILED' AND r.cause <> 'DUPLICATE_CHARGE') THEN 'failed'
                  ELSE 'open' END AS state
              FROM purchases p
              WHERE p.product_id = of_product AND p.payment_status = 'SUCCESS' AND p.amount > 0) s);
END $fn$;

SELECT projection_set_view(projection, generation) FROM projection_generations WHERE state = 'live' ORDER BY projection DESC;

-- migrate:down

DROP VIEW refunds;
DROP VIEW products;
DROP FUNCTION projection_cancellation(uuid);
DROP VIEW purchases;
DROP FUNCTION projection_create_tables(text, integer);
ALTER FUNCTION projection_create_first_tables(text, integer) RENAME TO projection_create_tables;
DO $do$
DECLARE
    g record;
BEGIN
    FOR g IN SELECT projection, generation FROM projection_generations LOOP
        CASE g.projection
        WHEN 'products' THEN
            EXECUTE format('ALTER TABLE %I DROP COLUMN cancelled, DROP COLUMN revision', 'products_g' || g.generation);
        WHEN 'purchases' THEN
            EXECUTE format('ALTER TABLE %I DROP COLUMN refunded_amount, DROP COLUMN disputed, DROP COLUMN reversed, DROP COLUMN money', 'purchases_g' || g.generation);
            EXECUTE format('DROP TABLE %I', 'refunds_g' || g.generation);
        ELSE
            NULL;
        END CASE;
    END LOOP;
END $do$;
DROP FUNCTION projection_add_money(text, integer);
CREATE OR REPLACE FUNCTION projection_drop_tables(projection text, generation integer) RETURNS void
LANGUAGE plpgsql AS $fn$
BEGIN
    EXECUTE format('DROP TABLE IF EXISTS %I', projection || '_g' || generation);
    IF projection = 'purchase_slots' THEN
        EXECUTE format('DROP TABLE IF EXISTS %I', projection || '_names_g' || generation);
    END IF;
END $fn$;
CREATE OR REPLACE FUNCTION projection_set_view(projection text, generation integer) RETURNS void
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
SELECT projection_set_view(projection, generation) FROM projection_generations WHERE state = 'live';
