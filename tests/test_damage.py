"""Damage: every single flipped bit of a store, pages that are gone, and what can be salvaged.

What is read from a damaged store is the right value, a clean error, or nothing: a process that reads one may die in
LMDB.  A value is never wrong.  A key may be missing, since LMDB does not know that it was there; then the check finds
that something is wrong.  The check itself never dies: it reads without LMDB.

The flips are read by children that are forked, because some of them die.  The long form, every bit of every page:

    OBJSTORE_FLIPS=all python -m pytest tests/test_damage.py -k flip -s

A number in the place of "all" takes so many at random; OBJSTORE_SEED replays them. "1000:2000" takes these.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import random
import shutil
import signal
import struct
import traceback
from collections import Counter

import numpy as np
import pytest
from programs import run

import objstore
from objstore import Store, StoreError, keys, record
from objstore.audit import audit
from objstore.engines.lmdb import inspect
from objstore.engines.lmdb.datafile import DataFile, state_text

pytestmark = pytest.mark.usefixtures("forked_checks")

FLIPS = os.environ.get("OBJSTORE_FLIPS", "700")
BATCH = 2000
LONGEST_SECONDS = 10.0

_result = struct.Struct("<QB")


def contents():
    """What lies in the store: records of every form, some in pages of their own."""
    return {
        "": {
            **{number: ("value", number) for number in range(40)},
            **{f"text {number}": "x" * (number * 70) for number in range(15)},
            ("a", "tuple"): None,
            "k" * 600: "under a long key",
            "pages": bytes(range(256)) * 30,
            "array": np.arange(1000.0),
        },
        "users": {("user", number): {"name": str(number)} for number in range(20)},
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store without damage, which nobody has open."""
    path = tmp_path_factory.mktemp("damage") / "whole.store"
    with Store(path) as store:
        store["gone"] = b"x" * 6_000
        for name, items in contents().items():
            space = store.namespace(name) if name else store
            for key, value in items.items():
                space.set(key, value, ttl=1e6 if key == 7 else None, tags=("t",) if key == 8 else ())
        del store["gone"]
        store[1] = ("value", 1)
    return path


def problems_of(path):
    """What a check finds, in this process."""
    problems = []
    descriptor = os.open(path / "data.mdb", os.O_RDONLY)
    try:
        metas = DataFile(descriptor).metas()
        if not metas:
            return ["no state"]
        found = audit(str(path), inspect(descriptor, state_text(metas[0]), problems.append, lambda _done, _total: None))
    finally:
        os.close(descriptor)
    return problems + found.problems + found.damaged


# What a reader gets to see.  All but the last are honest.
SAME, ERROR, MISSING, DIED, WRONG = range(5)


def is_same(found, expected):
    return type(found) is type(expected) and bool(np.all(found == expected))


def read(path):
    """What reading the whole store comes to."""
    seen = SAME
    try:
        store = Store(path, "r", immutable=True)
    except StoreError:
        return ERROR
    with store:
        for name, items in contents().items():
            try:
                space = store.namespace(name) if name else store  # which reads, too
            except StoreError:
                return ERROR
            for way in (one_by_one, at_once, as_views):
                seen = max(seen, compare(space, items, way))
    return seen


def one_by_one(space, items):
    for key in items:
        try:
            yield key, space[key]
        except KeyError:
            continue


def at_once(space, _items):
    yield from space.items()


def as_views(space, items):
    with space.snapshot(verify=True) as snapshot:
        for key in items:
            if (found := snapshot.get(key)) is not None:
                yield key, found


def compare(space, expected, way):
    missing = {key for key, value in expected.items() if value is not None or way is not as_views}
    items = way(space, expected)
    seen = SAME
    while True:
        try:
            key, found = next(items)
        except StopIteration:
            break
        except StoreError:
            return ERROR
        if key not in expected:
            seen = MISSING  # a key that is another one now
        elif not is_same(found, expected[key]):
            return WRONG
        missing.discard(key)
    return MISSING if missing else seen


def flip(file, bit):
    byte = os.pread(file, 1, bit // 8)
    os.pwrite(file, bytes([byte[0] ^ 1 << bit % 8]), bit // 8)


def read_flipped(path, bits, pipe):
    """For each bit: what is read when it is flipped, and whether the check finds it.  Runs in a child."""
    file = os.open(path / "data.mdb", os.O_RDWR)
    for bit in bits:
        flip(file, bit)
        found = bool(problems_of(path))
        os.write(pipe, _result.pack(bit, 0x80 | found))  # the check has come back: who dies now is a reader
        signal.setitimer(signal.ITIMER_REAL, LONGEST_SECONDS)  # which ends the process
        seen = read(path)
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(pipe, _result.pack(bit, seen))
        flip(file, bit)


def results(path, bits):
    """Bit by bit: what is read, and whether the check finds it."""
    todo = list(bits)
    while todo:
        read_end, write_end = os.pipe()
        process = os.fork()
        if process == 0:
            status = 1
            try:
                os.close(read_end)
                faulthandler.disable()
                complaints = os.dup(2)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # LMDB tells why it aborts
                read_flipped(path, todo[:BATCH], write_end)
                status = 0
            except BaseException:  # noqa: BLE001  (it goes no further than this process)
                os.write(complaints, traceback.format_exc().encode())
            finally:
                os._exit(status)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as pipe:
            told = list(_result.iter_unpack(pipe.read()))
        _, status = os.waitpid(process, 0)
        assert status == 0 or os.WIFSIGNALED(status), "the reader failed with an error that is not ours"
        checked = {bit: bool(what & 1) for bit, what in told if what & 0x80}
        seen = {bit: what for bit, what in told if not what & 0x80}
        for bit in checked:
            yield bit, seen.get(bit, DIED), checked[bit]
        assert checked or status == 0, "the check died"
        if status:
            with open(path / "data.mdb", "r+b") as file:
                flip(file.fileno(), max(checked, key=todo.index))  # back
        todo = todo[len(checked) :]


def chosen(bits, seed):
    if FLIPS == "all":
        return range(bits)
    if ":" in FLIPS:
        return range(*map(int, FLIPS.split(":")))
    return random.Random(seed).sample(range(bits), int(FLIPS))


def test_a_flipped_bit_never_makes_a_wrong_value(whole, tmp_path, seed):
    size = os.path.getsize(whole / "data.mdb")
    path = tmp_path / "flipped.store"
    shutil.copytree(whole, path)
    bits = chosen(8 * size, seed)
    count = Counter()
    for bit, seen, found in results(path, bits):
        count[seen, found] += 1
        assert seen != WRONG, f"bit {bit} makes a wrong value"
        assert found or seen == SAME, f"bit {bit} makes a difference that the check does not find"
    assert count.total() == len(bits)
    names = ("right", "error", "missing", "died", "wrong")
    figures = (
        f"{names[seen]}, {'found' if found else 'without effect'}: {n:,}" for (seen, found), n in sorted(count.items())
    )
    print(f"{len(bits):,} flips of {size:,} bytes: {'; '.join(figures)}")
    assert problems_of(path) == []


def test_the_reader_would_notice(whole, tmp_path):
    assert read(whole) == SAME
    path = tmp_path / "other.store"
    shutil.copytree(whole, path)
    with Store(path) as store:
        store[3] = "another"
    assert read(path) == WRONG
    with Store(path) as store:
        del store[3]
    assert read(path) == MISSING
    assert problems_of(path) == []


@pytest.mark.parametrize("what", ["zeros", "noise", "another page"])
def test_each_page_in_turn_is_lost_and_the_rest_is_salvaged(whole, tmp_path, rng, what):
    data = (whole / "data.mdb").read_bytes()
    descriptor = os.open(whole / "data.mdb", os.O_RDONLY)
    meta = DataFile(descriptor).metas()[0]
    os.close(descriptor)
    path = tmp_path / "damaged.store"
    shutil.copytree(whole, path)
    expected = contents()
    total = sum(map(len, expected.values()))
    for page in range(2, meta.last_page + 1):
        place = page * meta.page_size
        new = {
            "zeros": bytes(meta.page_size),
            "noise": rng.randbytes(meta.page_size),
            "another page": data[2 * meta.page_size : 3 * meta.page_size],
        }[what]
        (path / "data.mdb").write_bytes(data[:place] + new + data[place + meta.page_size :])
        problems = problems_of(path)
        target = tmp_path / f"{page}.store"
        salvaged = objstore.salvage(path, target)
        assert bool(salvaged.lost or salvaged.problems) == bool(problems)
        with Store(target) as store:
            found = {"": dict(store.items())}
            for name in store.namespaces():
                found["users" if name.startswith("lost-") else name] = dict(store.namespace(name).items())
        assert problems_of(target) == []
        for name, items in found.items():
            for key, value in items.items():
                if key != "gone":  # of an older state
                    assert is_same(value, expected[name][key]), (page, key)
        count = sum(map(len, found.values()))
        assert salvaged.entries == count
        assert count >= total - 60  # the largest leaf has fewer
        if not problems:
            assert count == total
        shutil.rmtree(target)


def test_salvage_of_a_whole_store_is_that_store(whole, tmp_path):
    report = objstore.salvage(whole, tmp_path / "new.store")
    assert report.problems == report.lost == ()
    assert report.strays == 0
    with Store(whole) as old, Store(tmp_path / "new.store") as new:
        assert list(old) == list(new)
        assert old.stats().id == new.stats().id
        assert [entry.raw() for entry in old.range().entries()] == [entry.raw() for entry in new.range().entries()]
        assert new.ttl(7) > 0
        assert list(new.range(tag="t")) == [8]
        assert new.namespace("users") == old.namespace("users")


def test_a_file_that_is_cut_short_at_any_page_is_found(whole, tmp_path):
    data = (whole / "data.mdb").read_bytes()
    path = tmp_path / "short.store"
    shutil.copytree(whole, path)
    for size in range(0, len(data), 4096):
        (path / "data.mdb").write_bytes(data[:size])
        with pytest.raises(StoreError):
            Store(path)
        if size < 4096:
            with pytest.raises(objstore.StoreCorrupt):
                objstore.check(path)
        else:
            assert not objstore.check(path).ok


def test_what_looks_like_a_record_within_a_value_is_not_salvaged(tmp_path):
    """Whoever may give a value could otherwise have others unpickle what they want, once a page is lost."""
    path = tmp_path / "damaged.store"
    key = keys.encode("planted")
    planted = record.pack(key, pickle.dumps("gift"))
    node = struct.pack("<HHHH", len(planted), 0, 0, len(key)) + key + planted
    with Store(path) as store:
        store.update(dict.fromkeys(range(200), b"x" * 100))
        store["small"] = node + b"x" + node  # at even and at odd places
        store["large"] = b"x" * 9000 + node + b"x" + node + b"x" * 9000
    data = bytearray((path / "data.mdb").read_bytes())
    for place in range(2 * 4096, len(data), 4096):
        if b"small" in data[place : place + 4096] or b"large" in data[place : place + 4096]:
            data[place + 10] ^= 0x40 * (data[place + 10] == 2)  # the flags of a leaf
    (path / "data.mdb").write_bytes(data)
    assert objstore.salvage(path, tmp_path / "new.store").strays > 2
    with Store(tmp_path / "new.store") as store:
        assert store["small"] == node + b"x" + node
        assert store["large"].count(node) == 2
        assert len(store) == 202


def test_free_pages_that_lead_to_each_other_in_many_ways_are_not_followed_for_ever(tmp_path):
    path = tmp_path / "damaged.store"
    with Store(path) as store:
        store["a"] = 1
    data = bytearray((path / "data.mdb").read_bytes())
    descriptor = os.open(path / "data.mdb", os.O_RDONLY)
    meta = DataFile(descriptor).metas()[0]
    os.close(descriptor)
    first, levels, nodes = meta.last_page + 1, 20, 100
    for level in range(levels):
        places = [4096 - 16 * (number + 1) for number in range(nodes)]
        page = bytearray(4096)
        struct.pack_into("<QHHHH", page, 0, first + level, 0, 1, 16 + 2 * nodes, places[-1])
        struct.pack_into(f"<{nodes}H", page, 16, *places)
        for number, place in enumerate(places):
            struct.pack_into("<HHHHQ", page, place, first + level + 1, 0, 0, 8, number)
        data += page
    data += struct.pack("<QHHHH", first + levels, 0, 2, 16, 4096).ljust(4096, b"\0")  # a leaf without a node
    newest = max((0, 4096), key=lambda place: struct.unpack_from("<Q", data, place + 144))
    struct.pack_into("<Q", data, newest + 80, first)  # the root of the free pages
    struct.pack_into(
        "<Q", data, newest + 136, first + levels + 1
    )  # the last page, which is missing: so they are looked at
    (path / "data.mdb").write_bytes(data)
    program = """
        import sys
        from objstore import Store, StoreError, check
        try:
            Store(sys.argv[1])
        except StoreError:
            assert not check(sys.argv[1]).ok
            print("refused")
    """
    assert run(program, path, seconds=60) == "refused\n"
