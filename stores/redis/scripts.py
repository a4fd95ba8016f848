"""The Lua that runs inside Redis, as typed functions. redis-py sends a script again where the server has lost it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redis import Redis

from lash_tasks.stores.protocols import LeaseState, Released

ACQUIRE = """
local holder = redis.call('GET', KEYS[1])
if not holder then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1
end
if string.sub(holder, -1) ~= '!' then
  redis.call('SET', KEYS[1], holder .. '!', 'KEEPTTL')
end
return 0
"""

# What is asserted again is marked: the knocks that it had are gone with it.
RENEW = """
local states = {}
for i, key in ipairs(KEYS) do
  local token = ARGV[i + 1]
  local holder = redis.call('GET', key)
  if not holder then
    redis.call('SET', key, token .. '!', 'PX', ARGV[1])
    states[i] = 'reasserted'
  elseif holder == token or holder == token .. '!' then
    redis.call('PEXPIRE', key, ARGV[1])
    states[i] = 'held'
  else
    states[i] = 'foreign'
  end
end
return states
"""

RELEASE = """
local holder = redis.call('GET', KEYS[1])
if holder ~= ARGV[1] and holder ~= ARGV[1] .. '!' then
  return 'lost'
end
redis.call('DEL', KEYS[1])
return holder == ARGV[1] and 'quiet' or 'knocked'
"""

# The id of an event is <milliseconds>-<number>; a new stream begins at number 0, which carries no event. The epoch is
# in every entry because any of them may be the oldest that is left.
_STREAM = """
local time = redis.call('TIME')
local function open(key)
  local stream = {number = 0, epoch = time[1] .. string.format('%06d', tonumber(time[2]))}
  stream.at = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  stream.last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  if stream.last then
    local at, number = string.match(stream.last[1], '^(%d+)-(%d+)$')
    stream.at = math.max(stream.at, tonumber(at))
    stream.number, stream.epoch = tonumber(number), stream.last[2][2]
  end
  return stream
end
local function id(stream) return string.format('%.0f-%.0f', stream.at, stream.number) end
"""

APPEND = (
    _STREAM
    + """
local place = 2
for _, key in ipairs(KEYS) do
  local stream = open(key)
  local count = tonumber(ARGV[place + 1])
  for i = place + 2, place + 1 + count do
    stream.number = stream.number + 1
    redis.call('XADD', key, 'MAXLEN', '~', ARGV[2], id(stream), 'epoch', stream.epoch, 'activity', ARGV[i])
  end
  redis.call('PEXPIRE', key, ARGV[1])
  place = place + 1 + count
end
"""
)

TAIL = (
    _STREAM
    + """
local stream = open(KEYS[1])
if not stream.last then
  redis.call('XADD', KEYS[1], id(stream), 'epoch', stream.epoch)
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return {stream.last and stream.last[1] or id(stream), stream.epoch}
"""
)


@dataclass(frozen=True, slots=True)
class Tail:
    """The id of a stream's last entry, and its epoch."""

    id: bytes
    epoch: bytes


class LeaseScripts:
    def __init__(self, client: Redis) -> None:
        self._acquire = client.register_script(ACQUIRE)
        self._renew = client.register_script(RENEW)
        self._release = client.register_script(RELEASE)

    def acquire(self, key: str, token: str, ttl_ms: int) -> bool:
        """Give the key to the token if it is free; if not, mark it."""
        return bool(self._acquire(keys=[key], args=[token, ttl_ms]))

    def renew(self, tokens: Mapping[str, str], ttl_ms: int) -> list[LeaseState]:
        """Give each key that is its token's, or missing, another `ttl_ms`; one state a key, in order."""
        states = self._renew(keys=list(tokens), args=[ttl_ms, *tokens.values()])
        return [LeaseState(state.decode()) for state in states]

    def release(self, key: str, token: str) -> Released:
        """Delete the key if it holds the token, with or without the mark."""
        return Released(self._release(keys=[key], args=[token]).decode())


class AppendScript:
    def __init__(self, client: Redis) -> None:
        self._append = client.register_script(APPEND)

    def __call__(self, streams: Mapping[str, Sequence[bytes]], *, retention_ms: int, max_events: int) -> None:
        """Add entries to each stream, numbered on from its last, and begin it where it is missing."""
        counted: list[bytes | int] = []
        for entries in streams.values():
            counted += (len(entries), *entries)
        self._append(keys=list(streams), args=[retention_ms, max_events, *counted])


class TailScript:
    def __init__(self, client: Redis) -> None:
        self._tail = client.register_script(TAIL)

    def __call__(self, key: str, *, retention_ms: int) -> Tail:
        """The end of the stream, which begins here where it is missing."""
        return Tail(*self._tail(keys=[key], args=[retention_ms]))
