-- What both decisions share. KEYS[1] is the caller's conduct; ARGV[1..6] are its rules and who it is:
-- refusals, window, first, longest, decay (microseconds; no refusals: no escalation), who.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local DAY, HIGHEST_LEVEL = 86400000000, 40
local REVOKED, SUSPENDED, BUDGET = -1, -2, -3
local refusals, window, first, longest, decay =
  tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local function keep(key, text, ends)
  redis.call('SET', key, text, 'PX', math.max(1, math.ceil((ends - now) / 1000)))
end

local function conduct()
  local text = redis.call('GET', KEYS[1]) or ''
  local count, window_ends, level, ends = string.match(text, '^(%d+) (%d+) (%d+) (%d+) ')
  return tonumber(count) or 0, tonumber(window_ends) or 0, tonumber(level) or 0, tonumber(ends) or 0
end

local function suspended()
  if refusals == 0 then return 0 end
  local _, _, _, ends = conduct()
  return math.min(math.max(0, ends - now), longest)
end

-- Counts a refusal; returns the length of the suspension it brings about, or 0.
local function strike()
  if refusals == 0 then return 0 end
  local count, window_ends, level, ends = conduct()
  if now >= window_ends then
    count, window_ends = 0, now + window
  end
  count = count + 1
  local length = 0
  if count >= refusals then
    level = math.min(math.max(0, level - math.floor(math.max(0, now - ends) / decay)), HIGHEST_LEVEL)
    length = math.min(first * 2 ^ level, longest)
    count, window_ends, level, ends = 0, 0, level + 1, now + length
  end
  local text = string.format('%.0f %.0f %.0f %.0f %s', count, window_ends, level, ends, ARGV[6])
  keep(KEYS[1], text, math.max(window_ends, ends + level * decay))
  return length
end

-- Returns the arrival time that a call now would leave behind, and how long it is too early.
local function room(key, interval, burst)
  local kept = tonumber(redis.call('GET', key) or 0) or 0
  local whole = interval * burst
  local arrival = math.min(math.max(kept, now), now + whole) + interval
  return arrival, arrival - whole - now
end

-- Asks the buckets KEYS[key..last], each with interval, burst and "1" if its refusal counts against the caller from
-- ARGV[place]. Returns the first that refuses longest, its wait, whether one of the caller's own refuses, the arrival
-- times to keep, and the wait of the next call.
local function ask(key, last, place)
  local refusing, longest_wait, own, arrivals, next_wait = 0, 0, false, {}, 0
  for index = key, last do
    local interval = tonumber(ARGV[place])
    local arrival, wait = room(KEYS[index], interval, tonumber(ARGV[place + 1]))
    arrivals[index], next_wait = arrival, math.max(next_wait, wait + interval)
    own = own or (wait > 0 and ARGV[place + 2] == '1')
    if wait > longest_wait then refusing, longest_wait = index - key + 1, wait end
    place = place + 3
  end
  return refusing, longest_wait, own, arrivals, next_wait
end

local function keep_arrivals(arrivals)
  for index, arrival in pairs(arrivals) do keep(KEYS[index], string.format('%.0f', arrival), arrival) end
end

--- admission
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

--- call
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
