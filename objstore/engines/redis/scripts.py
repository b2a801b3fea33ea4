"""The scripts that run on the servers, each as one step that nobody sees half of.

All keys that a script is given lie in one slot.  `SWEEP`, `CLEAR` and the sweeping in `WRITE` also remove records
that they find in an index of the same bucket: those lie in the same slot, too.

An indexed bucket keeps its books in the same step as the record; without an index there is nothing to keep but the
names of namespaces.
"""

from __future__ import annotations

from hashlib import sha1
from typing import NamedTuple


class Script(NamedTuple):
    """A script, and what it is called by."""

    text: bytes
    digest: bytes


def _script(*texts: str) -> Script:
    text = "\n".join(texts).encode()
    return Script(text, sha1(text, usedforsecurity=False).hexdigest().encode())


# What is kept about the record of a key: its place in the order, when it ends, its tags.
#
# Each call costs the server about as much as a plain command.  So for a key that neither ends nor has tags `note` asks
# first whether any other one of the bucket does; where none does, as in most stores, it gives false: nothing else is to
# be seen to.
_BOOKS = """
local call = redis.call
local index, expiry, tags, tagged = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local function forget_tags(key)
  local had = call('HGET', tagged, key)
  if had then
    for at = 1, #had, 7 do call('ZREM', tags, string.sub(had, at, at + 6) .. key) end
    call('HDEL', tagged, key)
  end
end

local function forget(key)
  call('ZREM', index, key)
  call('ZREM', expiry, key)
  forget_tags(key)
end

local function note(key, expires_at, labels)
  call('ZADD', index, 0, key)
  if expires_at == '' and labels == '' and call('EXISTS', expiry, tagged) == 0 then return false end
  if expires_at == '' then call('ZREM', expiry, key) else call('ZADD', expiry, expires_at, key) end
  forget_tags(key)
  if labels ~= '' then
    for at = 1, #labels, 7 do call('ZADD', tags, 0, string.sub(labels, at, at + 6) .. key) end
    call('HSET', tagged, key, labels)
  end
  return true
end

local function is_over(key, now)
  local ends = call('ZSCORE', expiry, key)
  return ends and tonumber(ends) <= tonumber(now)
end

local function expired(now, first, count)
  return call('ZRANGEBYSCORE', expiry, '-inf', now, 'LIMIT', first, count)
end
"""

_NO_BOOKS = """
local call = redis.call
local function forget(key) end
local function note(key, expires_at, labels) return false end
local function is_over(key, now) return false end
local function expired(now, first, count) return {} end
"""

# KEYS  index, expiry, tags, tagged, names, record
# ARGV  condition, action, key, now, record; if anything is known of it, also milliseconds to live, expires_at, tag
#       hashes, and of a namespace its prefix and name
#
# The condition is about what is stored: * anything, ! nothing, = these bytes, # bytes of this SHA-1.
# The action: S store, K store and keep all that is known about it, D delete.
#
# Gives 1 where it was done, 2 if the namespace is new in this bucket; 0 where the condition fails, or there was nothing
# to delete, or only something expired; -1 where the namespace has another name (which says its codec, too).
_WRITE = """
local condition, action, key, now, record = ARGV[1], ARGV[2], ARGV[3], ARGV[4], KEYS[6]
local kind = string.sub(condition, 1, 1)
if kind ~= '*' then
  local stored = call('GET', record)
  if kind == '!' then
    if stored then return 0 end
  elseif not stored then
    return 0
  elseif kind == '=' then
    if stored ~= string.sub(condition, 2) then return 0 end
  elseif redis.sha1hex(stored) ~= string.sub(condition, 2) then
    return 0
  end
end
if action == 'K' then
  call('SET', record, ARGV[5], 'KEEPTTL')
  return 1
end
if action == 'D' then
  local was_over = is_over(key, now)
  local there = call('UNLINK', record)
  forget(key)
  if there == 1 and not was_over then return 1 end
  return 0
end
local lives, expires_at, labels, namespace = ARGV[6] or '', ARGV[7] or '', ARGV[8] or '', ARGV[9] or ''
local done = 1
if namespace ~= '' then
  local name = call('HGET', KEYS[5], namespace)
  if not name then
    call('HSET', KEYS[5], namespace, ARGV[10])
    done = 2
  elseif name ~= ARGV[10] then
    return -1
  end
end
if lives == '' then
  call('SET', record, ARGV[5])
else
  call('SET', record, ARGV[5], 'PX', lives)
end
if note(key, expires_at, labels) then
  local prefix = string.sub(record, 1, #record - #key)
  for _, other in ipairs(expired(now, 0, 2)) do
    local gone = redis.pcall('UNLINK', prefix .. other)
    if type(gone) == 'table' then break end -- its slot is being moved, and it has gone already
    forget(other)
  end
end
return done
"""

# KEYS  index, expiry, tags, tagged
# ARGV  with what names begin, now, lowest and highest key as ZRANGEBYLEX takes them, how many at most
# Gives how many were removed, and how many of these were not expired.
_CLEAR = """
local keys = call('ZRANGEBYLEX', index, ARGV[3], ARGV[4], 'LIMIT', 0, ARGV[5])
local live = 0
for _, key in ipairs(keys) do
  local was_over = is_over(key, ARGV[2])
  if call('UNLINK', ARGV[1] .. key) == 1 and not was_over then live = live + 1 end
  forget(key)
end
return {#keys, live}
"""

# KEYS  index, expiry, tags, tagged
# ARGV  with what names begin, now, where to begin, how many at most, prefix of a namespace ('' for the default one)
# Gives how many of the expired were looked at, and how many of these were removed.
_SWEEP = """
local found = expired(ARGV[2], ARGV[3], ARGV[4])
local removed = 0
for _, key in ipairs(found) do
  local is_ours
  if ARGV[5] == '' then
    is_ours = string.byte(key, 1) >= 16
  else
    is_ours = string.sub(key, 1, #ARGV[5]) == ARGV[5]
  end
  if is_ours then
    call('UNLINK', ARGV[1] .. key)
    forget(key)
    removed = removed + 1
  end
end
return {#found, removed}
"""

# KEYS  index of the library's own records, then the names of these, of which the first is the layout record
# ARGV  for each the key and the record.  What is there already stays: all of it, or in a cache what was not evicted.
_CREATE = """
for at = 2, #KEYS do
  redis.call('SET', KEYS[at], ARGV[2 * at - 2], 'NX')
  redis.call('ZADD', KEYS[1], 0, ARGV[2 * at - 3])
end
return 1
"""

# KEYS  a claim or its like.  ARGV  token, milliseconds to live.  Gives 1 where it has that token.
_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

# KEYS  a claim.  ARGV  token.
_RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""

WRITE = _script(_BOOKS, _WRITE)
WRITE_BARE = _script(_NO_BOOKS, _WRITE)
CLEAR = _script(_BOOKS, _CLEAR)
SWEEP = _script(_BOOKS, _SWEEP)
CREATE = _script(_CREATE)
RENEW = _script(_RENEW)
RELEASE = _script(_RELEASE)

TEXTS = {script.digest: script.text for script in (WRITE, WRITE_BARE, CLEAR, SWEEP, CREATE, RENEW, RELEASE)}
