-- Puts a rebuilt gate in place of an existing one, unless that is of the same
-- epoch or a later one. KEYS[6], KEYS[7]: its holders and free units. KEYS[8]: the token
-- of the attempt that wrote them. ARGV: instance id, epoch, position, units, next, held,
-- returned, begin, end, paused, the id of the event at the position ('' for none), the rebuild's id ('' if not known).
if exists and epoch >= tonumber(ARGV[2]) then return {'older'} end
if call('EXISTS', KEYS[8]) == 0 then return {'short'} end
if call('HLEN', KEYS[6]) ~= tonumber(ARGV[6]) or call('LLEN', KEYS[7]) ~= tonumber(ARGV[7]) then return {'short'} end
call('UNLINK', S, Q, H, P, L, KEYS[8])
if tonumber(ARGV[6]) > 0 then
  call('RENAME', KEYS[6], H)
  call('PERSIST', H)
end
if tonumber(ARGV[7]) > 0 then
  call('RENAME', KEYS[7], Q)
  call('PERSIST', Q)
end
call('RPUSH', L, ARGV[2] .. ' 1 o ' .. F(tonumber(ARGV[7]) + tonumber(ARGV[4]) - tonumber(ARGV[5]) + 1))
call('HSET', S, 'epoch', ARGV[2], 'born', ARGV[2], 'stamp', ARGV[1], 'closed', '0', 'lease', '0',
  'position', ARGV[3], 'event', ARGV[11], 'rebuild', ARGV[12] or '', 'units', ARGV[4], 'next', ARGV[5], 'held', ARGV[6], 'returned', ARGV[7], 'pending', '0',
  'begin', ARGV[8], 'end', ARGV[9], 'paused', ARGV[10],
  'counter', '0', 'line', '1', 'first', '1', 'last', '1',
  'from', '0', 'to', '0', 'soldOut', '0', 'duplicate', '0', 'notStarted', '0', 'shut', '0')
return {'ok', F(clock())}
