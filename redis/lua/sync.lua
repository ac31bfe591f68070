-- Applies events. ARGV: instance id, the gate's epoch, its position, the new position,
-- the id of the event there ('' if it is not known), the epoch to open in place ('' for
-- none) with its sale's begin, end (ms; 0 for none) and pause, then the events, flat:
--   A number unit buyer hash   SlotAcquired
--   E number buyer reason      SlotExpired, SlotReturned
--   W number                   GrantWithdrawn
--   S units                    ProductStockIncreased
--   D units                    ProductStockDecreased: before any slot; only with the epoch to
--                              open in place, which opens what remains
-- Returns 'ok', 'lost', 'moved' if epoch or position differ, or 'more' if opening in
-- place has pending grants left to free: then call again, without events.
if not alive(ARGV[1]) then return 'lost' end
if s[1] ~= ARGV[2] or s[23] ~= ARGV[3] then return 'moved' end

local function wrong() -- partly applied, or not applicable: the gate must not continue
  call('HSET', S, 'closed', '1')
  return 'lost'
end

local i = 10
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
  elseif what == 'D' then
    units = tonumber(ARGV[i + 1])
    i = i + 2
    if next > units + 1 then return wrong() end -- units that are no more may be among the returned ones
  else -- S: the total, never the difference
    local total = tonumber(ARGV[i + 1])
    i = i + 2
    if total > units then
      seal()
      emit('o ' .. F(total - units))
      units = total
    end
  end
end

if ARGV[6] ~= '' then
  -- Pending grants are void with their epoch: Postgres refuses them. They are freed in
   -- pieces, so that other products of this Redis do not wait for long. Meanwhile nothing is
   -- decided.
  seal()
  call('HSET', S, 'lease', '0', 'opening', ARGV[6])
  local void = call('ZRANGE', P, 0, 499)
  if #void > 0 then
    local units_back = {}
    for k, value in ipairs(call('HMGET', H, unpack(void))) do
      local _, _, unit = holder(value)
      units_back[k] = unit
    end
    call('HDEL', H, unpack(void))
    call('RPUSH', Q, unpack(units_back))
    call('ZREMRANGEBYRANK', P, 0, #void - 1)
    returned = returned + #void
    pending = pending - #void
  end
  if pending > 0 then
    save()
    call('HSET', S, 'position', ARGV[4], 'event', ARGV[5])
    return 'more'
  end
  epoch, counter, line = tonumber(ARGV[6]), 0, 0
  emit('o ' .. F(returned + units - next + 1))
  call('HSET', S, 'epoch', ARGV[6], 'begin', ARGV[7], 'end', ARGV[8], 'paused', ARGV[9])
  call('HDEL', S, 'opening')
end
save()
call('HSET', S, 'position', ARGV[4], 'event', ARGV[5])
return 'ok'
