-- migrate:up

-- Units may fall while a product has never had a slot, as the guard of the append has it: a
-- number that was withdrawn was none.
create or replace function refuse_fall() returns trigger language plpgsql as $$
begin
    if new.units < old.units and new.epoch >= old.epoch and (new.deleted or not old.deleted)
       and not exists (select from slot_numbers where product_id = old.product_id and state = 'claimed') then
        return new;
    end if;
    raise exception 'epoch and units of product % only rise', old.product_id
        using errcode = 'restrict_violation';
end
$$;

-- migrate:down

create or replace function refuse_fall() returns trigger language plpgsql as $$
begin
    if new.units < old.units and new.epoch >= old.epoch and (new.deleted or not old.deleted)
       and not exists (select from slot_numbers where product_id = old.product_id) then
        return new;
    end if;
    raise exception 'epoch and units of product % only rise', old.product_id
        using errcode = 'restrict_violation';
end
$$;
