-- migrate:up

-- GET /v1/slots/my-slots?status=: a buyer who acquires and releases without end has any number of
-- EXPIRED slots, among which the few others would be searched row by row. EXPIRED ones themselves
-- are found by the index on (user_id, created_at, id). The predicate adds no cost to updates: the
-- indexes _live and _ending depend on status already.
ALTER FUNCTION projection_indexes(text) RENAME TO projection_first_indexes;

CREATE FUNCTION projection_indexes(of_projection text) RETURNS TABLE (base text, suffix text, is_unique boolean, definition text)
LANGUAGE sql IMMUTABLE AS $fn$
    SELECT * FROM projection_first_indexes(of_projection)
    UNION ALL
    SELECT 'purchase_slots', '_kept', false, '(user_id, status, created_at DESC, id DESC) WHERE status <> ''EXPIRED'''
    WHERE of_projection = 'purchase_slots'
$fn$;

SELECT projection_create_indexes(projection, generation) FROM projection_generations
WHERE projection = 'purchase_slots' AND state <> 'building' ORDER BY generation;

-- migrate:down

DO $do$
DECLARE
    g integer;
BEGIN
    FOR g IN SELECT generation FROM projection_generations WHERE projection = 'purchase_slots' LOOP
        EXECUTE format('DROP INDEX IF EXISTS %I', 'purchase_slots_g' || g || '_kept');
    END LOOP;
END $do$;
DROP FUNCTION projection_indexes(text);
ALTER FUNCTION projection_first_indexes(text) RENAME TO projection_indexes;
