-- Drops the log's lines up to the one with this index in the list, and keeps the last of
-- them in the hash: a store that does not have it lost what was trimmed. ARGV: born
-- (another gate has other indexes), index.
if not exists or s[24] ~= ARGV[1] then return 0 end
local gone = math.min(tonumber(ARGV[2]), last) - first + 1
if gone <= 0 or call('LLEN', L) ~= last - first + 1 then return 0 end
call('HSET', S, 'first', F(first + gone), 'trimmed', call('LINDEX', L, gone - 1))
call('LTRIM', L, gone, -1)
return gone
