-- The arithmetic of bucket.rs for a bucket that several processes share. It runs as one step.
--
-- KEYS[1]  the bucket
-- ARGV     take | reserve, capacity, refill per second (whole units), refill per second (micro-units beyond), units
--          settle, capacity, refill (whole), refill (micro), units reserved, units used, born, spilled (an amount)
-- Answers  1 or 0 (admitted or not), level (an amount), born, spilled (an amount)
--
-- An amount is three numbers: units + micro-units / 1e6 + parts / 1e12, the last two from 0 to 999999. So every
-- product of a time and a rate is a sum of products below 2^53, where floating point numbers are exact.

local E6 = 1000000
local MAX_DEBT = 60
local LONGEST_TTL = 315360000000 -- ten years in ms

-- brings micro-units and parts into their ranges
local function amount(units, micros, parts)
  local over = math.floor(parts / E6)
  micros, parts = micros + over, parts - over * E6
  over = math.floor(micros / E6)
  return { units + over, micros - over * E6, parts }
end
local function plus(a, b) return amount(a[1] + b[1], a[2] + b[2], a[3] + b[3]) end
local function minus(a, b) return amount(a[1] - b[1], a[2] - b[2], a[3] - b[3]) end
local function whole(units) return { units, 0, 0 } end
local function less(a, b) return minus(a, b)[1] < 0 end
local function lesser(a, b) if less(b, a) then return b else return a end end
local function at_least_0(a) if a[1] < 0 then return whole(0) else return a end end

local time = redis.call('TIME')
local now_s, now_us = tonumber(time[1]), tonumber(time[2])
local op = ARGV[1]
local capacity, per_s, micro_per_s = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local wanted = tonumber(ARGV[5])

-- what is not known is full
local level, held, spilled = whole(capacity), whole(0), whole(0)
local rim, refill, micro_refill = capacity, per_s, micro_per_s
local born, at_s, at_us = now_s * E6 + now_us, now_s, now_us
local saved = redis.call('GET', KEYS[1])
if saved then
  local n = {}
  for number in string.gmatch(saved, '%S+') do n[#n + 1] = tonumber(number) end
  rim, refill, micro_refill = n[1], n[2], n[3]
  level, held, spilled = { n[4], n[5], n[6] }, { n[7], n[8], n[9] }, { n[10], n[11], n[12] }
  born, at_s, at_us = n[13], n[14], n[15]
end

-- not above the rim; holdings spill where the level leaves no room
local function fit()
  level = lesser(level, whole(rim))
  local over = at_least_0(minus(plus(level, held), whole(rim)))
  held, spilled = minus(held, over), plus(spilled, over)
end

-- refill; a clock that stepped back adds nothing
local s, us = now_s - at_s, now_us - at_us
if us < 0 then
  s, us = s - 1, us + E6
end
if s >= 0 then
  level = plus(level, amount(s * refill, s * micro_refill + us * refill, us * micro_refill))
  at_s, at_us = now_s, now_us
end
fit()
if rim ~= capacity or refill ~= per_s or micro_refill ~= micro_per_s then
  rim, refill, micro_refill = capacity, per_s, micro_per_s
  fit()
end

local admitted = 1
if op == 'settle' then
  local used, of = tonumber(ARGV[6]), tonumber(ARGV[7])
  local before = { tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]) }
  local mine = whole(0)
  if of == born then
    mine = at_least_0(minus(whole(wanted), at_least_0(minus(spilled, before))))
  end
  local back = lesser(whole(math.max(0, wanted - used)), mine)
  local beyond = math.min(math.max(0, used - wanted), MAX_DEBT * capacity)
  held = at_least_0(minus(held, mine))
  level = minus(lesser(plus(level, back), whole(capacity)), whole(beyond))
  if less(level, whole(-MAX_DEBT * capacity)) then
    level = whole(-MAX_DEBT * capacity)
  end
elseif level[1] >= wanted then
  level = minus(level, whole(wanted))
  if op == 'reserve' then held = plus(held, whole(wanted)) end
else
  admitted = 0
end

-- a bucket that is full again says nothing
if level[1] >= capacity then
  redis.call('DEL', KEYS[1])
else
  local ttl = math.ceil((capacity - level[1]) / (per_s + micro_per_s / E6) * 1000) + 1
  local n = {
    rim, refill, micro_refill, level[1], level[2], level[3], held[1], held[2], held[3],
    spilled[1], spilled[2], spilled[3], born, at_s, at_us
  }
  for i, number in ipairs(n) do n[i] = string.format('%.0f', number) end
  redis.call('SET', KEYS[1], table.concat(n, ' '), 'PX', string.format('%.0f', math.min(ttl, LONGEST_TTL)))
end
return { admitted, level[1], level[2], level[3], born, spilled[1], spilled[2], spilled[3] }
