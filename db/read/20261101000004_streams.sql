-- migrate:up

-- What stats and the dashboard ask for each second: few rows each, however long
-- the tables are. Replays build these with a generation's other indexes.
CREATE FUNCTION projection_create_stats_indexes(projection text, generation integer) RETURNS void
LANGUAGE plpgsql AS $fn$
DECLARE
    t text := projection || '_g' || generation;
BEGIN
    CASE projection
    WHEN 'purchase_slots' THEN
        -- the slots that end next
        EXECUTE format($sql$CREATE INDEX %I ON %I (expiration_timestamp) WHERE status = 'ACTIVE'$sql$, t || '_ending', t);
    WHEN 'purchases' THEN
        -- refundsDue
        EXECUTE format($sql$CREATE INDEX %I ON %I (id) WHERE refund_status = 'DUE'$sql$, t || '_refund', t);
    ELSE
        NULL;
    END CASE;
END $fn$;

ALTER FUNCTION projection_create_indexes(text, integer) RENAME TO projection_create_query_indexes;

-- The keys and indexes of one generation that are not there yet.
CREATE FUNCTION projection_create_indexes(projection text, generation integer) RETURNS void
LANGUAGE plpgsql AS $fn$
BEGIN
    PERFORM projection_create_query_indexes(projection, generation);
    PERFORM projection_create_stats_indexes(projection, generation);
END $fn$;

SELECT projection_create_stats_indexes(projection, generation) FROM projection_generations WHERE state <> 'building';

-- migrate:down

DROP FUNCTION projection_create_indexes(text, integer);
ALTER FUNCTION projection_create_query_indexes(text, integer) RENAME TO projection_create_indexes;
DROP FUNCTION projection_create_stats_indexes(text, integer);
DO $do$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT projection || '_g' || generation || suffix
                FROM projection_generations, unnest(ARRAY['_ending', '_refund']) suffix LOOP
        EXECUTE format('DROP INDEX IF EXISTS %I', name);
    END LOOP;
END $do$;
