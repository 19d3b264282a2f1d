-- Budgets that several processes share. Runs as one step on all budgets of a call.
--
-- KEYS     one per budget and period. What stands there is what each node knows of it: records
--          "node token used reserved seen" with semicolons between them. A node is a data directory. Its token names the
--          last time that it stated all it knows; a step with another token does nothing but say so.
-- ARGV     reserve, node, then per key: token, limit, hard (1 or 0), needed, ms to keep
--          settle, node, then per key: token, reserved before, used, ms to keep
--          state, node, then per key: token, used, reserved, ms to keep
-- Answers  code, then per key: flag, used by other nodes
--          code: 1 done, 0 refused, 2 nothing was done because the node has to state (settle: of the flagged keys)
--          flag: 1 too little is left (reserve), or the node has to state
--
-- Amounts stay below 2^53, where floating point numbers are exact.

local MOST = 9007199254740991
local LEASE = 900 -- seconds after which what a node holds is free, if it was not seen

local op, node = ARGV[1], ARGV[2]
local now = tonumber(redis.call('TIME')[1])
local width = op == 'reserve' and 5 or 4
local function arg(key, at) return ARGV[2 + (key - 1) * width + at] end
local function number(key, at) return tonumber(arg(key, at)) end

local function read(key)
  local records, mine = {}, nil
  for name, token, used, reserved, seen in string.gmatch(redis.call('GET', key) or '', '(%S+) (%S+) (%S+) (%S+) (%d+);') do
    local record = {
      name = name, token = token, used = tonumber(used), reserved = tonumber(reserved), seen = tonumber(seen)
    }
    records[#records + 1] = record
    if name == node then mine = record end
  end
  return records, mine
end

local function write(key, records, ttl)
  local out = {}
  for i, r in ipairs(records) do
    out[i] = string.format('%s %s %.0f %.0f %.0f;', r.name, r.token, r.used, r.reserved, r.seen)
  end
  redis.call('SET', key, table.concat(out), 'PX', ttl)
end

local function sums(records)
  local used, reserved, elsewhere = 0, 0, 0
  for _, r in ipairs(records) do
    used, reserved = used + r.used, reserved + r.reserved
    if r.name ~= node then elsewhere = elsewhere + r.used end
  end
  return used + reserved, math.min(elsewhere, MOST)
end

-- frees what nodes hold that were not seen for long
local function expire(records)
  for _, r in ipairs(records) do
    if r.name ~= node and r.seen < now - LEASE then r.reserved = 0 end
  end
end

local function fits(limit, taken, needed) return limit > 0 and (needed == 0 or taken + needed <= limit) end

local code, answer, all, own = 1, {}, {}, {}
for i, key in ipairs(KEYS) do
  all[i], own[i] = read(key)
  local flag = 0
  if op == 'state' then
    if not own[i] then
      own[i] = { name = node }
      table.insert(all[i], own[i])
    end
    own[i].token, own[i].used, own[i].reserved, own[i].seen = arg(i, 1), number(i, 2), number(i, 3), now
  elseif not own[i] or own[i].token ~= arg(i, 1) then
    code, flag = 2, 1
    own[i] = nil
  end
  local _, elsewhere = sums(all[i])
  answer[i * 2 - 1], answer[i * 2] = flag, elsewhere
end

if op == 'reserve' and code == 1 then
  for i, _ in ipairs(KEYS) do
    local limit, needed = number(i, 2), number(i, 4)
    if not fits(limit, sums(all[i]), needed) then expire(all[i]) end
    if not fits(limit, sums(all[i]), needed) then
      answer[i * 2 - 1] = 1
      if arg(i, 3) == '1' then code = 0 end
    end
  end
end

for i, key in ipairs(KEYS) do
  local mine = own[i]
  if op == 'state' then
    write(key, all[i], arg(i, 4))
  elseif op == 'settle' and mine then
    mine.reserved = math.max(0, mine.reserved - number(i, 2))
    mine.used = math.min(MOST, mine.used + number(i, 3))
    mine.seen = now
    write(key, all[i], arg(i, 4))
  elseif op == 'reserve' and code == 1 then
    mine.reserved = math.min(MOST, mine.reserved + number(i, 4))
    mine.seen = now
    write(key, all[i], arg(i, 5))
  end
end

table.insert(answer, 1, code)
return answer
