-- May this request pass? KEYS[2..] are ARGV[7] buckets, the rest are revocations; the buckets' numbers follow ARGV[7].
local last = 1 + tonumber(ARGV[7])
for index = last + 1, #KEYS do
  if redis.call('EXISTS', KEYS[index]) == 1 then return {REVOKED, 0, 0, now} end
end

local refusing, wait, own, arrivals, next_wait = ask(2, last, 8)
local left = suspended()
if left > 0 then return {SUSPENDED, math.max(left, wait), 0, now} end
if refusing > 0 then
  local length = own and strike() or 0
  return {refusing, math.max(wait, length), length, now}
end
keep_arrivals(arrivals)
return {0, next_wait, 0, now}
