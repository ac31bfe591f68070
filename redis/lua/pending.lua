-- Lists grants on their way, oldest first. ARGV: instance id, least age (ms), limit.
-- Answers false for a lost gate, else buyer, "number unit handed age" for each.
if not alive(ARGV[1]) then return false end
local now, found = clock(), {}
for _, buyer in ipairs(call('ZRANGE', P, 0, tonumber(ARGV[3]) - 1)) do
  local _, number, unit, handed, since = holder(call('HGET', H, buyer))
  local age = now - tonumber(since)
  if age < tonumber(ARGV[2]) then break end
  found[#found + 1] = buyer
  found[#found + 1] = number .. ' ' .. unit .. ' ' .. handed .. ' ' .. F(age)
end
return found
