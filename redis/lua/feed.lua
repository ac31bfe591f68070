-- Tells the gate what happened. ARGV: stamp, its epoch, its position, the new
-- position, the epoch to open in place ('' for none) with its sale's begin, end
-- (ms; 0 for none) and pause, then the events, flat:
--   A number unit buyer hash   SlotAcquired
--   E number buyer reason      SlotExpired
--   W number                   GrantWithdrawn
--   S units                    ProductStockIncreased
if not alive(ARGV[1]) then return 'lost' end
if s[1] ~= ARGV[2] or s[23] ~= ARGV[3] then return 'moved' end

local function wrong() -- half told, it must not go on
  call('HSET', S, 'closed', '1')
  return 'lost'
end

local i = 9
while i <= #ARGV do
  local what = ARGV[i]
  if what == 'A' then
    local number, unit, buyer, hash = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
    i = i + 5
    local value = call('HGET', H, buyer)
    if not value then return wrong() end
    local kind, its, its_unit = holder(value)
    if its ~= number or its_unit ~= unit then return wrong() end
    if kind == 'P' then
      call('HSET', H, buyer, 'H' .. number .. ' ' .. unit .. ' 0 0 ' .. hash)
      call('ZREM', P, buyer)
      pending = pending - 1
      held = held + 1
    end
  elseif what == 'E' then
    local number, buyer, reason = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
    i = i + 4
    local value = call('HGET', H, buyer)
    if value then
      local kind, its, unit = holder(value)
      if kind == 'H' and its == number then
        call('HDEL', H, buyer)
        held = held - 1
        put_back(unit, reason)
      end
    end
  elseif what == 'W' then
    local number = ARGV[i + 1]
    i = i + 2
    local buyer = call('ZRANGEBYSCORE', P, number, number)[1]
    if buyer then
      local _, _, unit = holder(call('HGET', H, buyer))
      call('HDEL', H, buyer)
      call('ZREM', P, buyer)
      pending = pending - 1
      put_back(unit, 'WITHDRAWN')
    end
  else -- S: "is 150", never "plus 50"
    local total = tonumber(ARGV[i + 1])
    i = i + 2
    if total > units then
      seal()
      emit('o ' .. F(total - units))
      units = total
    end
  end
end

if ARGV[5] ~= '' then
  -- Grants on their way are void with their epoch: Postgres refuses them.
  seal()
  for _, buyer in ipairs(call('ZRANGE', P, 0, -1)) do
    local _, _, unit = holder(call('HGET', H, buyer))
    call('HDEL', H, buyer)
    call('RPUSH', Q, unit)
    returned = returned + 1
  end
  call('DEL', P)
  pending = 0
  epoch, counter, line = tonumber(ARGV[5]), 0, 0
  emit('o ' .. F(returned + units - next + 1))
  call('HSET', S, 'epoch', ARGV[5], 'lease', '0', 'begin', ARGV[6], 'end', ARGV[7], 'paused', ARGV[8])
end
save()
call('HSET', S, 'position', ARGV[4])
return 'ok'
