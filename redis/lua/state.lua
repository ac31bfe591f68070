-- Reads the gate's state. ARGV: instance id.
local now = clock()
if not exists then return {'none', F(now)} end
local state = alive(ARGV[1]) and 'alive' or 'dead'
return {state, F(now), s[1], s[23], F(units), F(returned + units - next + 1), F(held), F(pending), F(counter), F(lease), s[25] or '', s[28] or ''}
