-- Reads the decision log, also of a dead gate: every line in it was decided.
-- ARGV: limit. Returns false if there is no gate or its list was lost, otherwise born,
-- stamp, first, last, epoch, the open run as a line ('' for none), the lines,
-- whether nothing was lost nor closed, the clock, the lease's end, the number of
-- pending grants, the epoch's counter, the last line that was trimmed and the rebuild's id
-- ('' if not known).
if not exists or call('LLEN', L) ~= last - first + 1 then return false end
local run = ''
if from > 0 then
  local f, l = first, last
  seal()
  run = lines[1]
  first, last = f, l
end
return {s[24], s[2], F(first), F(last), s[1], run, call('LRANGE', L, 0, tonumber(ARGV[1]) - 1),
  (s[3] == '0' and whole()) and '1' or '0', F(clock()), F(lease), F(pending), F(counter), s[27] or '', s[28] or ''}
