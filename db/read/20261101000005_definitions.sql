-- migrate:up

-- Which definition of the projection made the rows of a generation: a projector
-- with another one must not write them.
ALTER TABLE projection_generations ADD COLUMN definition integer NOT NULL DEFAULT 1 CHECK (definition >= 1);

-- migrate:down

ALTER TABLE projection_generations DROP COLUMN definition;
