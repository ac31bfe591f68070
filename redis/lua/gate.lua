-- Prefix of every script: loads the gate's hash, checks whether the gate is alive, and
-- defines the decision log. The field stamp is the instance id, event the id of the event
-- at position ('' or absent if not known), opening the epoch that is being opened in place
-- (absent if none is), trimmed the last line that was trimmed off the log, rebuild the id
-- of the rebuild that made the gate (both absent if not known). KEYS: see keys.go. Numbers that may exceed 10^14 are written with
-- F: '..' would write 1e+15.
local S, Q, H, P, L = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local call = redis.call

local s = call('HMGET', S,
  'epoch', 'stamp', 'closed', 'lease', 'held', 'pending', 'returned', 'first', 'last', 'next',
  'units', 'counter', 'line', 'begin', 'end', 'paused', 'from', 'to', 'soldOut', 'duplicate',
  'notStarted', 'shut', 'position', 'born', 'event', 'opening', 'trimmed', 'rebuild')
local function N(i) return tonumber(s[i]) end
local function F(n) return string.format('%.0f', n) end

local exists = s[1] and true or false
local epoch, lease = N(1), N(4)
local held, pending, returned = N(5), N(6), N(7)       -- lengths that the keys must have
local first, last = N(8), N(9)                         -- of the log's list, counted over the gate's life
local next, units = N(10), N(11)                       -- the first unit never used; units in all
local counter, line = N(12), N(13)                     -- numbers and closed lines of this epoch
local from, to = N(17), N(18)                          -- the open run; 0 for none
local soldOut, duplicate, notStarted, shut = N(19), N(20), N(21), N(22)

-- Compares the stored counts with the keys' own lengths.
local function whole()
  return call('HLEN', H) == held + pending and call('ZCARD', P) == pending
    and call('LLEN', Q) == returned and call('LLEN', L) == last - first + 1
end

-- Reports whether the gate was built on the process of this connection, is not closed and
-- lost nothing.
local function alive(instance)
  return exists and s[2] == instance and s[3] == '0' and whole()
end

local function clock() -- ms
  local t = call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- A reply that begins with what a lease is based on: epoch, time, lease, position, the event
-- there and the rebuild ('' if not known).
local function basis(status, now)
  return {status, s[1], F(now), F(lease), s[23], s[25] or '', s[28] or ''}
end

-- A holder: 'P' pending or 'H' held, number, unit, deliveries, since when (ms), and the
-- key's hash if held, the nodes that received it if pending.
local function holder(value)
  return string.match(value, '^(%u)(%d+) (%d+) (%d+) (%d+) (.*)$')
end

local lines = {}
local function emit(text)
  line = line + 1
  last = last + 1
  lines[#lines + 1] = F(epoch) .. ' ' .. F(line) .. ' ' .. text
end

-- Ends the open run, because a unit is granted, returned or opened.
local function seal()
  if from > 0 then
    emit('x ' .. F(from) .. ' ' .. F(to) .. ' ' .. F(soldOut) .. ' ' .. F(duplicate) .. ' ' .. F(notStarted) .. ' ' .. F(shut))
    from, to, soldOut, duplicate, notStarted, shut = 0, 0, 0, 0, 0, 0
  end
end

local function put_back(unit, reason)
  call('RPUSH', Q, unit)
  returned = returned + 1
  seal()
  emit('r ' .. unit .. ' ' .. reason)
end

local function save()
  for i = 1, #lines, 1000 do
    call('RPUSH', L, unpack(lines, i, math.min(i + 999, #lines)))
  end
  call('HSET', S, 'held', F(held), 'pending', F(pending), 'returned', F(returned), 'last', F(last),
    'next', F(next), 'units', F(units), 'counter', F(counter), 'line', F(line), 'from', F(from), 'to', F(to),
    'soldOut', F(soldOut), 'duplicate', F(duplicate), 'notStarted', F(notStarted), 'shut', F(shut))
end
