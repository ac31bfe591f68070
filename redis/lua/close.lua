-- Ends a gate that is older than ARGV[1]: it decides no more, its log stays.
if exists and epoch < tonumber(ARGV[1]) then
  call('HSET', S, 'closed', '1', 'lease', '0')
end
return exists and 1 or 0
