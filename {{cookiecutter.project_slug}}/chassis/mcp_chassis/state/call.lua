-- May this call run? KEYS[2] is a budget, KEYS[3..] are buckets; ARGV[7..8]: units (0: no budget), cost; then
-- the buckets' numbers.
local units, cost = tonumber(ARGV[7]), tonumber(ARGV[8])

local refusing, longest_wait, own, arrivals, next_wait = ask(3, #KEYS, 9)

local today = math.floor(now / DAY)
local spent = cost
if units > 0 then
  local day, before = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+) (%d+)$')
  if tonumber(day) == today then spent = before + cost end
  if spent > units then
    own = true
    local rest = (today + 1) * DAY - now
    if rest > longest_wait then refusing, longest_wait = BUDGET, rest end
  end
end

local left = suspended()
if left > 0 then return {SUSPENDED, math.max(left, longest_wait), 0, now} end
if refusing ~= 0 then
  local length = own and strike() or 0
  return {refusing, math.max(longest_wait, length), length, now}
end
keep_arrivals(arrivals)
if units > 0 then keep(KEYS[2], string.format('%.0f %.0f', today, spent), (today + 1) * DAY) end
return {0, next_wait, 0, now}
