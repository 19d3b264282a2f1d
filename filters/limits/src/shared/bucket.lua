-- The arithmetic of bucket.rs for a bucket that several processes share. It runs as one step.
--
-- KEYS[1]  the bucket
-- ARGV     take | reserve, capacity, refill per second (whole units), refill per second (micro-units beyond), units
--          settle, capacity, refill (whole), refill (micro), units reserved, units used, born, spilled
-- Answers  1 or 0 (admitted or not), level (units, micro-units, parts), born, spilled
--
-- A level is units + micro-units / 1e6 + parts / 1e12, the last two from 0 to 999999. So every product of a time and
-- a rate is a sum of products below 2^53, where floating point numbers are exact.

local E6 = 1000000
local MAX_DEBT = 60
local LONGEST_TTL = 315360000000 -- ten years in ms

local time = redis.call('TIME')
local now_s, now_us = tonumber(time[1]), tonumber(time[2])
local op = ARGV[1]
local capacity, whole, micro = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local wanted = tonumber(ARGV[5])

local b = {
  capacity = capacity, whole = whole, micro = micro,
  units = capacity, micros = 0, parts = 0,
  held = 0, spilled = 0, born = now_s * E6 + now_us,
  at_s = now_s, at_us = now_us
}
local FIELDS = {
  'capacity', 'whole', 'micro', 'units', 'micros', 'parts', 'held', 'spilled', 'born', 'at_s', 'at_us'
}

local saved = redis.call('GET', KEYS[1])
if saved then
  local i = 0
  for number in string.gmatch(saved, '%S+') do
    i = i + 1
    b[FIELDS[i]] = tonumber(number)
  end
end

-- brings micro-units and parts back into their ranges
local function carry()
  local over = math.floor(b.parts / E6)
  b.parts = b.parts - over * E6
  b.micros = b.micros + over
  over = math.floor(b.micros / E6)
  b.micros = b.micros - over * E6
  b.units = b.units + over
end

-- not above the rim; holdings spill where the level leaves no room
local function fit()
  if b.units >= b.capacity then
    b.units, b.micros, b.parts = b.capacity, 0, 0
  end
  if b.held > 0 then
    local level = b.units
    if b.micros > 0 or b.parts > 0 then level = level + 1 end
    if level < 0 then level = 0 end
    local over = level + b.held - b.capacity
    if over > b.held then over = b.held end
    if over > 0 then
      b.held = b.held - over
      b.spilled = b.spilled + over
    end
  end
end

-- refill; a clock that stepped back adds nothing
local s, us = now_s - b.at_s, now_us - b.at_us
if us < 0 then
  s, us = s - 1, us + E6
end
if s >= 0 then
  b.units = b.units + s * b.whole
  b.micros = b.micros + s * b.micro + us * b.whole
  b.parts = b.parts + us * b.micro
  carry()
  b.at_s, b.at_us = now_s, now_us
end
fit()
if b.capacity ~= capacity or b.whole ~= whole or b.micro ~= micro then
  b.capacity, b.whole, b.micro = capacity, whole, micro
  fit()
end

local admitted = 1
if op == 'settle' then
  local used, born, spilled = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
  local held = 0
  if born == b.born then
    held = math.max(0, wanted - math.max(0, b.spilled - spilled))
  end
  local back = math.min(math.max(0, wanted - used), held)
  local beyond = math.min(math.max(0, used - wanted), MAX_DEBT * capacity)
  b.held = math.max(0, b.held - held)
  b.units = b.units + back
  if b.units >= capacity then
    b.units, b.micros, b.parts = capacity, 0, 0
  end
  b.units = b.units - beyond
  if b.units < -MAX_DEBT * capacity then
    b.units, b.micros, b.parts = -MAX_DEBT * capacity, 0, 0
  end
elseif b.units >= wanted then
  b.units = b.units - wanted
  if op == 'reserve' then b.held = b.held + wanted end
else
  admitted = 0
end

-- a bucket that is full again says nothing
if b.units >= capacity then
  redis.call('DEL', KEYS[1])
else
  local ttl = math.ceil((capacity - b.units) / (whole + micro / E6) * 1000) + 1
  local numbers = {}
  for i, field in ipairs(FIELDS) do
    numbers[i] = string.format('%.0f', b[field])
  end
  redis.call('SET', KEYS[1], table.concat(numbers, ' '), 'PX', string.format('%.0f', math.min(ttl, LONGEST_TTL)))
end
return { admitted, b.units, b.micros, b.parts, b.born, b.spilled }
