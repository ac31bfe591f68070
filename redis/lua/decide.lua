-- Decides requests in order. ARGV: instance id, then for each request its buyer (16
-- bytes) and its key's hash (16 bytes, zeros for none), in one string, then the
-- requesting node ('*' for one that is not in the list of processes). A pending grant
-- stores the nodes that received it; a slot held stores the key's hash in the same field.
-- Returns 'lost', or 'lease' with the six items of basis, or 'ok' with those, the counter
-- before, the sale's begin, a letter for each request, then "number unit deliveries" for
-- each of the letters G, A, K, D.
-- G: granted. A: the buyer's own pending grant. K: holds a slot with the same key.
-- D: holds a slot. N: not started. E: ended. P: paused. S: sold out.
if not alive(ARGV[1]) or s[26] then return {'lost', s[1] or ''} end
local now = clock()
if now >= lease then return basis('lease', now) end

local blob, node = ARGV[2], ARGV[3] or '*'
local n = #blob / 32
if counter + n >= 10000000000 then -- the epoch's numbers are used up
  call('HSET', S, 'closed', '1')
  return {'lost', s[1]}
end

-- Adds a node to nodes: '*' if there are too many, or if one is not known.
local function with_node(nodes, one)
  if one == '*' or #nodes > 60 or not string.match(nodes, '^%d[%d,]*$') then return '*' end
  if string.find(',' .. nodes .. ',', ',' .. one .. ',', 1, true) then return nodes end
  return nodes .. ',' .. one
end

local buyers = {}
for i = 1, n do
  buyers[i] = string.sub(blob, 32 * i - 31, 32 * i - 16)
end
local got = call('HMGET', H, unpack(buyers))
local mine = {} -- what this call wrote

local closed
if now < N(14) then closed = 'N'
elseif N(15) > 0 and now >= N(15) then closed = 'E'
elseif s[16] == '1' then closed = 'P' end

local before, letters, answer = counter, {}, basis('ok', now)
for _, item in ipairs({F(counter), s[14], ''}) do answer[#answer + 1] = item end
for i = 1, n do
  local buyer = buyers[i]
  local value = mine[buyer] or got[i]
  local letter
  if value then
    local key = string.sub(blob, 32 * i - 15, 32 * i)
    local kind, number, unit, handed, since, hash = holder(value)
    if kind == 'P' then -- the buyer's own pending grant: no decision
      letter = 'A'
      handed = F(tonumber(handed) + 1)
      value = 'P' .. number .. ' ' .. unit .. ' ' .. handed .. ' ' .. since .. ' ' .. with_node(hash, node)
      mine[buyer] = value
      call('HSET', H, buyer, value)
    elseif hash == key and hash ~= '' then -- a repeated request: no decision
      letter = 'K'
    elseif not closed then
      letter = 'D'
    end
    if letter then
      answer[#answer + 1] = number .. ' ' .. unit .. ' ' .. handed
    end
  end
  if not letter then
    if closed then
      letter = closed
    elseif returned == 0 and next > units then
      letter = 'S'
    else
      letter = 'G'
    end
  end
  if letter == 'G' then
    local unit
    if returned > 0 then
      unit = call('LPOP', Q)
      returned = returned - 1
    else
      unit = F(next)
      next = next + 1
    end
    seal()
    counter = counter + 1
    local number = F(epoch * 10000000000 + counter)
    emit('g ' .. F(counter) .. ' ' .. unit)
    local value = 'P' .. number .. ' ' .. unit .. ' 1 ' .. F(now) .. ' ' .. node
    mine[buyer] = value
    call('HSET', H, buyer, value)
    call('ZADD', P, number, buyer)
    pending = pending + 1
    answer[#answer + 1] = number .. ' ' .. unit .. ' 1'
  elseif letter ~= 'A' and letter ~= 'K' then
    counter = counter + 1
    if from == 0 then from = counter end
    to = counter
    if letter == 'S' then soldOut = soldOut + 1
    elseif letter == 'D' then duplicate = duplicate + 1
    elseif letter == 'N' then notStarted = notStarted + 1
    else shut = shut + 1 end
  end
  letters[i] = letter
end
if counter > before then save() end
answer[10] = table.concat(letters)
return answer
