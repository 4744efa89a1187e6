"""What Redis does for a fleet, each in one step: small programs in Lua, and the calls of them.

All keys have one hash tag, and times are those of Redis alone.

- `{agentsrv}:homes`, a hash: `s:<session>` or `t:<terminal>` to the name of a server
- `{agentsrv}:servers`, a sorted set: names by the time, in ms, from which on they count as away
- `{agentsrv}:server:<name>`, a hash: its incarnation, address, load and so on
- `{agentsrv}:epoch`, a hash: `id`; `run`, the process of Redis; of each server `e:<name>`, it is expected, `p:<name>`,
  it has published, and `f:<name>`, it was forgotten
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from agentsrv.errors import Unavailable
from agentsrv.fleet import PROTOCOL
from agentsrv.fleet.connect import MAX_CONNECTIONS, TIMEOUT_S, connect, disconnect

if TYPE_CHECKING:
    from redis.asyncio import Redis

HOMES = "{agentsrv}:homes"
SERVERS = "{agentsrv}:servers"
SERVER = "{agentsrv}:server:"
EPOCH = "{agentsrv}:epoch"
KEYS = (HOMES, SERVERS, EPOCH)

COMMON = """
local homes, servers, epoch, server = KEYS[1], KEYS[2], KEYS[3], '{agentsrv}:server:'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')

local function named(prefix)
  local found = {}
  for _, field in ipairs(redis.call('HKEYS', epoch)) do
    if string.sub(field, 1, 2) == prefix then found[#found + 1] = string.sub(field, 3) end
  end
  return found
end

local function missing()
  if redis.call('HGET', epoch, 'run') ~= run then return named('e:') end
  local found = {}
  for _, name in ipairs(named('e:')) do
    if redis.call('HEXISTS', epoch, 'p:' .. name) == 0 then found[#found + 1] = name end
  end
  return found
end

local function all_servers()
  local all = {}
  for _, one in ipairs(redis.call('ZRANGE', servers, 0, -1)) do
    local known = {}
    local flat = redis.call('HGETALL', server .. one)
    for i = 1, #flat, 2 do known[flat[i]] = flat[i + 1] end
    local left = tonumber(redis.call('ZSCORE', servers, one)) - now
    known.left = math.max(math.min(left, 1e9), -1e9) -- There is no infinity in JSON.
    all[one] = known
  end
  return all
end

local function is_complete()
  return redis.call('HGET', epoch, 'run') == run and #missing() == 0
end
"""

BEAT = """
local name, incarnation, ttl, new_epoch = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local replaces, remembered, fields = cjson.decode(ARGV[5]), cjson.decode(ARGV[6]), cjson.decode(ARGV[7])

local function is_replaced(other)
  for _, one in ipairs(replaces) do if one == other then return true end end
  return false
end

local other = redis.call('HGET', server .. name, 'incarnation')
local expiry = tonumber(redis.call('ZSCORE', servers, name) or 0)
if other and other ~= incarnation and expiry > now and not is_replaced(other) then
  return cjson.encode({status = 'superseded', address = redis.call('HGET', server .. name, 'address')})
end

-- Another process of Redis may have lost the last words of the one before. Who was alive at its end says all again.
local run_before = redis.call('HGET', epoch, 'run')
if run_before ~= run then
  redis.call('HSET', epoch, 'id', new_epoch, 'run', run)
  local newest = redis.call('ZREVRANGE', servers, 0, 0, 'WITHSCORES')[2]
  if newest then
    for _, one in ipairs(redis.call('ZRANGEBYSCORE', servers, newest - ttl, '+inf')) do
      redis.call('HDEL', epoch, 'p:' .. one)
    end
  end
end

-- This first: a Redis that is full refuses it, and nothing that comes behind the first thing that is written.
redis.call('HSET', epoch, 'e:' .. name, 1)
redis.call('HDEL', epoch, 'f:' .. name)
for _, one in ipairs(remembered) do
  if redis.call('HEXISTS', epoch, 'f:' .. one) == 0 then redis.call('HSET', epoch, 'e:' .. one, 1) end
end
redis.call('HSET', server .. name, 'incarnation', incarnation, 'placed', 0)
for field, value in pairs(fields) do redis.call('HSET', server .. name, field, value) end
redis.call('ZADD', servers, now + ttl, name)
-- Redis's clock was set back: nobody, dead perhaps, is to count as here for so long.
for _, one in ipairs(redis.call('ZRANGEBYSCORE', servers, '(' .. now + ttl, '+inf')) do
  redis.call('ZADD', servers, now + ttl, one)
end

local id = redis.call('HGET', epoch, 'id')
local published = redis.call('HGET', epoch, 'p:' .. name) == id
return cjson.encode({status = 'ok', epoch = id, published = published, servers = all_servers(),
                     expected = named('e:'), missing = missing(), forgotten = named('f:')})
"""

BOOK = """
return cjson.encode({servers = all_servers(), expected = named('e:'), missing = missing()})
"""

FIND = """
local home = redis.call('HGET', homes, ARGV[1])
if home then return cjson.encode({home = home}) end
if is_complete() then return '{}' end
return cjson.encode({missing = missing()})
"""

PLACE = """
local key, wanted, self, protocol = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if key ~= '' then
  local home = redis.call('HGET', homes, key)
  if home then return cjson.encode({home = home}) end
  if not is_complete() then return cjson.encode({missing = missing()}) end
end

local function least_loaded()
  local best, least
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', servers, '(' .. now, '+inf')) do
    local at = redis.call('HMGET', server .. name, 'accepts', 'active', 'placed', 'capacity', 'protocol')
    local load = ((tonumber(at[2]) or 0) + (tonumber(at[3]) or 0)) / math.max(tonumber(at[4]) or 1, 1)
    local is_able = at[1] == '1' and (not at[5] or at[5] == protocol)
    if is_able and (not least or load < least or (load == least and name == self)) then
      best, least = name, load
    end
  end
  return best
end

local chosen = wanted
if chosen == '' then chosen = least_loaded() end
if not chosen then return cjson.encode({nobody = true}) end
if key ~= '' then redis.call('HSET', homes, key, chosen) end
redis.call('HINCRBY', server .. chosen, 'placed', 1)
return cjson.encode({home = chosen, is_new = true})
"""

PUBLISH = """
local name, id, is_last = ARGV[1], ARGV[2], ARGV[3]
if redis.call('HGET', epoch, 'id') ~= id or redis.call('HGET', epoch, 'run') ~= run then
  return cjson.encode({is_stale = true})
end
local clashes = {}
for i = 4, #ARGV do
  if redis.call('HSETNX', homes, ARGV[i], name) == 0 then
    local home = redis.call('HGET', homes, ARGV[i])
    if home ~= name then clashes[#clashes + 1] = {ARGV[i], home} end
  end
end
if is_last == '1' then redis.call('HSET', epoch, 'p:' .. name, id) end
return cjson.encode({clashes = clashes})
"""

FORGET = """
local count = 0
for i = 2, #ARGV do
  if redis.call('HGET', homes, ARGV[i]) == ARGV[1] then count = count + redis.call('HDEL', homes, ARGV[i]) end
end
return count
"""

LEAVE = """
local known = redis.call('HGET', server .. ARGV[1], 'incarnation')
if known ~= ARGV[2] then return 0 end
return redis.call('ZADD', servers, 'XX', now, ARGV[1])
"""

FORGET_SERVER = """
local name = ARGV[1]
local expiry = redis.call('ZSCORE', servers, name)
local is_known = expiry or redis.call('HEXISTS', epoch, 'e:' .. name) == 1
if not is_known then return 'unknown' end
if expiry and tonumber(expiry) > now then return 'alive' end
redis.call('ZREM', servers, name)
redis.call('DEL', server .. name)
redis.call('HDEL', epoch, 'e:' .. name, 'p:' .. name)
redis.call('HSET', epoch, 'f:' .. name, 1)
return 'forgotten'
"""


class Script:
    """One program, and its name in Redis's cache."""

    def __init__(self, text: str) -> None:
        self.text = COMMON + text
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class Scripts:
    """The calls. Each raises Unavailable (`redis_unavailable`) within a second or so; none is tried again."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Redis | None = None
        self._line = asyncio.Semaphore(MAX_CONNECTIONS)
        self._failures = 0
        self._beat, self._find, self._place, self._publish = map(Script, (BEAT, FIND, PLACE, PUBLISH))
        self._forget, self._leave, self._forget_server = map(Script, (FORGET, LEAVE, FORGET_SERVER))
        self._book = Script(BOOK)

    async def close(self) -> None:
        if self._client is not None:
            await disconnect(self._client)
            self._client = None

    async def beat(
        self,
        name: str,
        incarnation: str,
        *,
        ttl_ms: int,
        new_epoch: str,
        replaces: Sequence[str],
        remembered: Sequence[str],
        fields: dict[str, str],
    ) -> dict[str, Any]:
        """Say that the server is here, and learn who else is."""
        lists = [json.dumps(list(replaces)), json.dumps(list(remembered))]
        return await self._ask(
            self._beat, name, incarnation, str(ttl_ms), new_epoch, *lists, json.dumps(fields)
        )

    async def find(self, key: str) -> dict[str, Any]:
        """`home`; or `missing`: who has not published; or neither, when it is nobody's."""
        return await self._ask(self._find, key)

    async def place(self, key: str, wanted: str, self_name: str) -> dict[str, Any]:
        """`home`, which is `wanted` or the one with most room where there was none; or `missing`, or `nobody`.

        With an empty key a server is chosen and nothing kept.
        """
        return await self._ask(self._place, key, wanted, self_name, PROTOCOL)

    async def publish(self, name: str, epoch: str, keys: Sequence[str], *, is_last: bool) -> dict[str, Any]:
        """Add what is missing. `clashes`: keys that have another home, which stays; `is_stale`: the epoch is over."""
        return await self._ask(self._publish, name, epoch, str(int(is_last)), *keys)

    async def forget(self, name: str, keys: Sequence[str]) -> int:
        """Remove those of the keys whose home this is."""
        return int(await self._run(self._forget, name, *keys))

    async def leave(self, name: str, incarnation: str) -> None:
        """Count as away from now on. What is this server's stays so."""
        await self._run(self._leave, name, incarnation)

    async def forget_server(self, name: str) -> str:
        """`forgotten`, `alive` or `unknown`. Its sessions are nobody's then."""
        answer = await self._run(self._forget_server, name)
        state = answer.decode() if isinstance(answer, bytes) else str(answer)
        if state == "forgotten":
            await self._forget_all_of(name)
        return state

    async def book(self) -> dict[str, Any]:
        """`servers`, with what each has said last and how many ms are `left` to it; `expected` and `missing` names."""
        return await self._ask(self._book)

    async def _forget_all_of(self, name: str) -> None:
        cursor, wanted = 0, name.encode()
        while True:
            async with self._answering():
                page: Any = await self._connected().hscan(HOMES, cursor, count=1000)
            cursor, entries = page
            if keys := [key.decode() for key, home in entries.items() if home == wanted]:
                await self.forget(name, keys)
            if not cursor:
                return

    async def _ask(self, script: Script, *arguments: str) -> dict[str, Any]:
        text: bytes = await self._run(script, *arguments)
        # Whoever else writes there may have written bytes that are no text.
        answer = json.loads(text.decode(errors="replace"))
        return answer if isinstance(answer, dict) else {}

    async def _run(self, script: Script, *arguments: str) -> Any:
        from redis.exceptions import NoScriptError

        async with self._answering():
            client = self._connected()
            try:
                return await client.evalsha(script.sha, len(KEYS), *KEYS, *arguments)
            except NoScriptError:
                return await client.eval(script.text, len(KEYS), *KEYS, *arguments)

    def _connected(self) -> Redis:
        if self._client is None:
            self._client = connect(self._url)
        return self._client

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        """Within a second, whatever Redis does. Raises Unavailable.

        With more at once than there are connections, one waits for another. When one fails, so do all who wait: else
        each would wait for a second of its own.
        """
        from redis.exceptions import RedisError

        failures = self._failures
        async with self._line:
            if failures != self._failures:
                raise redis_unavailable("it does not answer")
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    yield
            except (RedisError, OSError) as exc:  # A TimeoutError is an OSError.
                self._failures += 1
                raise redis_unavailable(str(exc) or "it does not answer") from exc


def redis_unavailable(why: str) -> Unavailable:
    return Unavailable(
        f"Redis is away ({why}), and who has this id cannot be looked up; try again later",
        code="redis_unavailable",
        retry_after_s=2,
    )
