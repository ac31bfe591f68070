-- Removes the gate of a deleted product, if it is of epoch ARGV[1] or older.
if exists and epoch > tonumber(ARGV[1]) then return 0 end
call('UNLINK', S, Q, H, P, L)
return 1
