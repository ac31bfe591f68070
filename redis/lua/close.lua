-- Ends a gate that is older than ARGV[1]: it decides no more, its log stays. Returns 0 if
-- there is none, 1 if it is older, otherwise 2.
if not exists then return 0 end
if epoch >= tonumber(ARGV[1]) then return 2 end
call('HSET', S, 'closed', '1', 'lease', '0')
return 1
