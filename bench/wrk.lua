-- Sends prepared requests in turn, each under an id of its own, and checks every answer: bench/wrk.py explains.
local threads, parts, waiting = {}, {}, {}
local turn, id, wanted, json = 0, 0, "", true
bad, first = 0, ""

function setup(thread)
  table.insert(threads, thread)
end

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  for part in file:read("*a"):gmatch("[^%z]+") do
    parts[#parts + 1] = part
  end
  file:close()
  id, wanted, json = tonumber(arguments[2]), arguments[3], arguments[4] == "json"
end

function request()
  id = id + 1
  waiting[id] = true
  turn = turn % (#parts / 2) + 1
  return parts[2 * turn - 1] .. string.format("%.0f", id) .. parts[2 * turn]
end

function response(status, _, body)
  local answered = tonumber(body:match('"id":%s*(%d+)'))
  local good = status == 200
    and answered ~= nil
    and waiting[answered] ~= nil
    and (body:byte(1) == 123) == json -- an opening brace
    and body:find('"result"', 1, true) ~= nil
    and body:find(wanted, 1, true) ~= nil
    and body:find('"isError":%s*true') == nil
  if good then
    waiting[answered] = nil
  else
    bad = bad + 1
    first = bad == 1 and status .. " " .. body or first
  end
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.timeout
  local wrong, example = 0, ""
  for _, thread in ipairs(threads) do
    wrong = wrong + thread:get("bad")
    example = example .. thread:get("first")
  end
  local found = { summary.requests, summary.duration, failed, wrong, latency:percentile(50), latency:percentile(99) }
  io.write("\nfound ", table.concat(found, " "), "\n", example, "\n")
end
