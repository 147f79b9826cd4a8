-- May this call run? KEYS[2] is a budget, KEYS[3..] are buckets; ARGV[7..8]: units (0: no budget), cost; then for each
-- bucket interval, burst, whether a refusal counts against the caller.
local units, cost = tonumber(ARGV[7]), tonumber(ARGV[8])

local refusing, longest_wait, own, arrivals = 0, 0, false, {}
for index = 3, #KEYS do
  local place = 9 + (index - 3) * 3
  local arrival, wait = room(KEYS[index], tonumber(ARGV[place]), tonumber(ARGV[place + 1]))
  arrivals[index] = arrival
  own = own or (wait > 0 and ARGV[place + 2] == '1')
  if wait > longest_wait then refusing, longest_wait = index - 2, wait end
end

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
for index = 3, #KEYS do keep(KEYS[index], string.format('%.0f', arrivals[index]), arrivals[index]) end
if units > 0 then keep(KEYS[2], string.format('%.0f %.0f', today, spent), (today + 1) * DAY) end
return {0, 0, 0, now}
