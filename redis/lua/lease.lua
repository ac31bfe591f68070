-- Lets the gate decide until ARGV[3] by its own clock. ARGV: stamp, epoch, until (ms).
if not alive(ARGV[1]) or s[1] ~= ARGV[2] then return 0 end
if tonumber(ARGV[3]) > lease then call('HSET', S, 'lease', ARGV[3]) end
return 1
