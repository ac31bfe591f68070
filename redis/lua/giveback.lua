-- Frees a grant that was never appended and was delivered once. ARGV: instance id,
-- buyer, number. Returns 1 if it did.
if not alive(ARGV[1]) then return 0 end
local value = call('HGET', H, ARGV[2])
if not value then return 0 end
local kind, number, unit, handed = holder(value)
if kind ~= 'P' or number ~= ARGV[3] or handed ~= '1' then return 0 end
call('HDEL', H, ARGV[2])
call('ZREM', P, ARGV[2])
pending = pending - 1
put_back(unit, 'WITHDRAWN')
save()
return 1
