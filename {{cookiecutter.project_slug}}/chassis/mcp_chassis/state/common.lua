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
  return math.max(0, ends - now)
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
    level = math.min(math.max(0, level - math.floor((now - ends) / decay)), HIGHEST_LEVEL)
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
