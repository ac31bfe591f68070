-- Reads the gate's state. ARGV: instance id. Returns 'none', 'alive' or 'dead', the six items
-- of basis, then units, free units, held, pending, the counter.
if not exists then return {'none'} end
local reply = basis(alive(ARGV[1]) and 'alive' or 'dead', clock())
for _, item in ipairs({F(units), F(returned + units - next + 1), F(held), F(pending), F(counter)}) do
  reply[#reply + 1] = item
end
return reply
