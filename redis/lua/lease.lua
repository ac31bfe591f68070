-- Lets the gate decide until ARGV[3] by its own clock. ARGV: instance id, epoch, until
-- (ms), the length of a lease (ms). A stored lease that is longer than that was set before
-- the clock was set back.
if not alive(ARGV[1]) or s[1] ~= ARGV[2] then return 0 end
local untilWhen = tonumber(ARGV[3])
if untilWhen > lease or lease > clock() + tonumber(ARGV[4]) then call('HSET', S, 'lease', ARGV[3]) end
return 1
