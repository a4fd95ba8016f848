"""The Lua of admission to providers, as typed functions.

Six keys hold one provider's account: `running` (ticket scored by the end of its term), `started` (ticket scored by
when it was admitted), `costs` (ticket to tokens, also of who waits), `queue` (ticket scored by its arrival), `seen`
(ticket scored by when it counts as gone), `state` (tokens of `started` together, the last arrival, usual time of a
call, end of a pause). Times are the server's, in milliseconds, arrivals in microseconds that never go back.
`stores/memory/admissions.py` does the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from redis import Redis

from lash_tasks.stores.protocols.admissions import (
    FIRST_HOLD_MS,
    GRACE_MS,
    KEEP_MS,
    MAX_WAIT_MS,
    MINUTE_MS,
    AdmissionRequest,
    NotYet,
)

_OPENING = """
local running, started, costs, queue, seen, state = unpack(KEYS)
local time = redis.call('TIME')
local micros = tonumber(time[1]) * 1000000 + tonumber(time[2]) + tonumber(ARGV[1]) * 1000
local now = math.floor(micros / 1000)
local function field(key, name) return tonumber(redis.call('HGET', key, name) or '0') end
"""

_CLOSING = f"""
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, {KEEP_MS}) end
"""

ADMIT = (
    _OPENING
    + """
local ticket, arrived, ttl = ARGV[2], ARGV[3], tonumber(ARGV[5])
local places, requests, tokens = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local minute, longest, grace, first_hold = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local cost = math.min(tonumber(ARGV[4]), tokens)

redis.call('ZREMRANGEBYSCORE', running, '-inf', now)
for _, old in ipairs(redis.call('ZRANGEBYSCORE', started, '-inf', now - minute)) do
  redis.call('HINCRBY', state, 'tokens', 0 - field(costs, old))
  redis.call('HDEL', costs, old)
  redis.call('ZREM', started, old)
end
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', seen, '-inf', now)) do
  redis.call('ZREM', queue, gone)
  redis.call('ZREM', seen, gone)
  redis.call('HDEL', costs, gone)
end

if arrived == '' then
  arrived = string.format('%.0f', math.max(micros, field(state, 'arrived') + 1))
  redis.call('HSET', state, 'arrived', arrived)
end
redis.call('ZADD', queue, arrived, ticket)
local rank = redis.call('ZRANK', queue, ticket)
local wait = field(state, 'paused_until') - now

if places > 0 then
  local lacking = rank + 1 - (places - redis.call('ZCARD', running))
  if lacking > 0 then
    local hold = tonumber(redis.call('HGET', state, 'hold') or first_hold)
    wait = math.max(wait, math.min(math.max(hold * lacking / places / 8, 10), 1000))
  end
end
if requests > 0 then
  local lacking = rank + 1 - (requests - redis.call('ZCARD', started))
  if lacking > 0 then
    local leaving = redis.call('ZRANGE', started, lacking - 1, lacking - 1, 'WITHSCORES')
    wait = math.max(wait, (tonumber(leaving[2]) or now) + minute - now)
  end
end
if tokens > 0 then
  local lacking = field(state, 'tokens') + cost - tokens
  if rank > 0 then
    for _, other in ipairs(redis.call('ZRANGE', queue, 0, rank - 1)) do lacking = lacking + field(costs, other) end
  end
  local at = 0
  while lacking > 0 do
    local leaving = redis.call('ZRANGE', started, at, at + 99, 'WITHSCORES')
    if #leaving == 0 then
      wait = math.max(wait, minute)
      break
    end
    for i = 1, #leaving, 2 do
      if lacking <= 0 then break end
      lacking = lacking - field(costs, leaving[i])
      wait = math.max(wait, tonumber(leaving[i + 1]) + minute - now)
    end
    at = at + 100
  end
end

if wait > 0 then
  wait = math.min(math.ceil(wait), longest)
  redis.call('ZADD', seen, now + wait + grace, ticket)
  if tokens > 0 then redis.call('HSET', costs, ticket, cost) end
else
  redis.call('ZREM', queue, ticket)
  redis.call('ZREM', seen, ticket)
  if places > 0 then redis.call('ZADD', running, now + ttl, ticket) end
  if requests > 0 or tokens > 0 then redis.call('ZADD', started, now, ticket) end
  if tokens > 0 then
    redis.call('HSET', costs, ticket, cost)
    redis.call('HINCRBY', state, 'tokens', cost)
  end
end
"""
    + _CLOSING
    + """
if wait > 0 then return {wait, arrived} end
return {}
"""
)

RENEW = (
    _OPENING
    + """
for i = 3, #ARGV do redis.call('ZADD', running, 'XX', now + tonumber(ARGV[2]), ARGV[i]) end
"""
    + _CLOSING
)

LEAVE = (
    _OPENING
    + """
local ticket, held, used, pause, first_hold = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
redis.call('ZREM', running, ticket)
redis.call('ZREM', seen, ticket)
if redis.call('ZREM', queue, ticket) == 1 then redis.call('HDEL', costs, ticket) end
if held ~= '' then
  local hold = tonumber(redis.call('HGET', state, 'hold') or first_hold)
  redis.call('HSET', state, 'hold', math.floor(0.8 * hold + 0.2 * tonumber(held)))
end
if used ~= '' and redis.call('HEXISTS', costs, ticket) == 1 then
  redis.call('HINCRBY', state, 'tokens', tonumber(used) - field(costs, ticket))
  redis.call('HSET', costs, ticket, used)
end
if pause > 0 then
  redis.call('HSET', state, 'paused_until', math.max(field(state, 'paused_until'), now + pause))
end
"""
    + _CLOSING
)


class AdmissionScripts:
    """`keys` are the six of one provider, `skew_ms` is added to the server's time."""

    def __init__(self, client: Redis) -> None:
        self._admit = client.register_script(ADMIT)
        self._renew = client.register_script(RENEW)
        self._leave = client.register_script(LEAVE)

    def admit(self, keys: Sequence[str], request: AdmissionRequest, skew_ms: int) -> NotYet | None:
        limits = (request.concurrency, request.requests_per_minute, request.tokens_per_minute)
        answer = self._admit(
            keys=keys,
            args=[
                skew_ms,
                request.ticket,
                "" if request.arrived is None else request.arrived,
                request.tokens,
                request.ttl_ms,
                *(limit or 0 for limit in limits),
                MINUTE_MS,
                MAX_WAIT_MS,
                GRACE_MS,
                FIRST_HOLD_MS,
            ],
        )
        return NotYet(int(answer[0]), int(answer[1])) if answer else None

    def renew(self, keys: Sequence[str], tickets: Collection[str], ttl_ms: int, skew_ms: int) -> None:
        self._renew(keys=keys, args=[skew_ms, ttl_ms, *tickets])

    def leave(
        self, keys: Sequence[str], ticket: str, held_ms: int | None, tokens: int | None, pause_ms: int, skew_ms: int
    ) -> None:
        told = ["" if value is None else value for value in (held_ms, tokens)]
        self._leave(keys=keys, args=[skew_ms, ticket, *told, pause_ms, FIRST_HOLD_MS])
