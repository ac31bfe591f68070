-- Lists grants on their way by number. ARGV: instance id, the number after which to begin,
-- the last number, limit. Answers false for a lost gate, else buyer, "number unit
-- handed nodes" for each (see decide.lua for nodes).
if not alive(ARGV[1]) then return false end
local found = {}
for _, buyer in ipairs(call('ZRANGEBYSCORE', P, '(' .. ARGV[2], ARGV[3], 'LIMIT', 0, tonumber(ARGV[4]))) do
  local _, number, unit, handed, _, nodes = holder(call('HGET', H, buyer))
  if not string.match(nodes, '^[%d,*]*$') then nodes = '*' end -- of a version that kept the key's hash here
  found[#found + 1] = buyer
  found[#found + 1] = number .. ' ' .. unit .. ' ' .. handed .. ' ' .. nodes
end
return found
