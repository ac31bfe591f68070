-- Lists pending grants by number. ARGV: instance id, the number after which to begin,
-- the last number, limit. Returns false for a lost gate, otherwise the rebuild's id ('' if
-- not known), then buyer, "number unit deliveries nodes" for each (see decide.lua for nodes).
if not alive(ARGV[1]) then return false end
local found = {s[28] or ''}
for _, buyer in ipairs(call('ZRANGEBYSCORE', P, '(' .. ARGV[2], ARGV[3], 'LIMIT', 0, tonumber(ARGV[4]))) do
  local _, number, unit, handed, _, nodes = holder(call('HGET', H, buyer))
  if not string.match(nodes, '^[%d,*]*$') then nodes = '*' end -- written by a version that stored the key's hash here
  found[#found + 1] = buyer
  found[#found + 1] = number .. ' ' .. unit .. ' ' .. handed .. ' ' .. nodes
end
return found
