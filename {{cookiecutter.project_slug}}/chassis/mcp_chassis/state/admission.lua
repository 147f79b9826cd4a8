-- May this request pass? KEYS[2] is a bucket, KEYS[3..] are revocations; ARGV[7..9]: interval (0: no bucket), burst,
-- whether a refusal counts against the caller.
local interval, burst, own = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9] == '1'

for index = 3, #KEYS do
  if redis.call('EXISTS', KEYS[index]) == 1 then return {REVOKED, 0, 0, now} end
end

local left = suspended()
local arrival, wait = 0, 0
if interval > 0 then arrival, wait = room(KEYS[2], interval, burst) end
if left > 0 then return {SUSPENDED, math.max(left, wait), 0, now} end
if interval == 0 then return {0, 0, 0, now} end

if wait > 0 then
  local length = own and strike() or 0
  return {1, math.max(wait, length), length, now}
end
keep(KEYS[2], string.format('%.0f', arrival), arrival)
return {0, 0, 0, now}
