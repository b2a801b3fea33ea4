"""A store to one file and back: everything, byte for byte, on any engine, also sealed and without its keys; damaged,
hostile, interrupted."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import tracemalloc
from functools import partial
from pathlib import Path

import pytest
from children import results
from test_copying import LONG, SEALS, Bomb, Enough, OwnCodec, check, contents, enough, fill, values

import objstore
from objstore import (
    BadSignature,
    Cache,
    Store,
    StoreCorrupt,
    StoreError,
    StoreExists,
    StoreNotFound,
    WrongKind,
    identity,
)
from objstore import space as spaces
from objstore.codecs.keyring import NO_KEYS
from objstore.copying import records as copied_records
from objstore.engines.base import IDENTITY_KEY
from objstore.eviction import LEDGER_KEY
from objstore.exchange import dumpfile
from objstore.exchange.dumpfile import DumpReader, DumpWriter
from objstore.exchange.dumps import is_dump
from objstore.record import digest

KEY = bytes(range(32))
OTHER_KEY = bytes(range(32, 64))


@pytest.fixture
def place(place):
    return Path(place)


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(copied_records, "_BATCH_RECORDS", 20)


def dumped(source, path, **options):
    """A dump of a store, at a path."""
    assert objstore.export(source, path, "dump", **options).ok
    return path


def tree(store):
    """Everything that lies in the tree of a store, what the library keeps for itself too."""
    return dict(store._engine.read().scan(b"\0"))


def without_expired(found):
    return {name: said for name, said in found.items() if name[1] != "gone"}


class TestEverything:
    @pytest.mark.parametrize("ends", ["lmdb-to-lmdb", "memory-to-lmdb", "lmdb-to-servers", "servers-to-lmdb"])
    def test_the_same_store_is_made_on_any_engine(self, request, place, ends):
        source, target = (
            request.getfixturevalue("on_servers") if engine == "servers" else str(place / name)
            for engine, name in zip(ends.split("-to-"), ("a.store", "b.store"), strict=True)
        )
        with Store("memory://" if ends.startswith("memory") else source) as store:
            count = fill(store)
            before, known = contents(store), store.stats().id
            dumped(store, place / "a.dump")
        assert objstore.restore(place / "a.dump", target) == (count, 0, count, 0, (), ())
        with Store(target) as store:
            assert contents(store) == without_expired(before)
            assert store.namespaces() == ["emptied", "nothing", "raw", "users"]
            assert list(store.range(tag="red")) == ["soon"]
            assert store.stats().id == known
            check(store)

    def test_a_restored_tree_is_the_same_to_the_last_byte(self, place, clock):
        with Store(place / "a.store", durability="process", clock=clock) as store:
            fill(store)
            store.expire()
            before = tree(store)
            dumped(store, place / "a.dump")
        objstore.restore(place / "a.dump", place / "b.store")
        with Store(place / "b.store", "r") as store:
            assert tree(store) == before
            assert store.stats().durability == "process"

    @pytest.mark.parametrize("seal", ["signed", "encrypted"])
    def test_what_is_sealed_needs_no_key_and_stays_readable_with_it(self, place, seal):
        with Store(place / "a.store", **SEALS[seal]) as store:
            count = fill(store)
            before = without_expired(contents(store))
        none = {"signing_key": False, "encryption_key": False}
        dumped(place / "a.store", place / "a.dump", **none)
        assert objstore.restore(place / "a.dump", place / "b.store", **none).copied == count
        with Store(place / "b.store", "r", **SEALS[seal]) as store:
            assert contents(store) == before
            assert store[LONG] == "long"
            assert store.namespace("users")[LONG] == "long, too"
            check(store)
        assert objstore.restore(place / "a.dump", place / "c.store", **SEALS[seal]).verified == count
        other = dict.fromkeys(SEALS[seal], OTHER_KEY)
        with pytest.raises(BadSignature, match="none of those given"):
            objstore.restore(place / "a.dump", place / "d.store", **other)
        assert not (place / "d.store").exists()

    def test_a_cache_and_its_bounds(self, place, on_servers):
        with Cache(place / "a.cache", max_entries=50, policy="lfu") as cache:
            cache.update(dict.fromkeys(range(100), "x"))
            before = contents(cache)
        dumped(place / "a.cache", place / "a.dump")
        objstore.restore(place / "a.dump", on_servers)
        for target in (on_servers, place / "a.cache"):
            dumped(target, place / "b.dump", force=True)
            with Cache("memory://", ttl=1) as other:
                assert objstore.restore(place / "b.dump", other).ok
                assert contents(other) == before
                assert (other.stats().max_entries, other.stats().policy) == (50, "lfu")
                check(other)

    def test_nothing_is_decoded_and_a_codec_need_not_be_there(self, place, monkeypatch):
        with Store(place / "a.store", codec=OwnCodec()) as store:
            store["a"] = "abc"
            store.namespace("bombs", codec="pickle")["a"] = Bomb()
        monkeypatch.setenv("OBJSTORE_PICKLE", "forbid")
        dumped(place / "a.store", place / "a.dump")
        assert objstore.restore(place / "a.dump", place / "b.store").copied == 2
        with Store(place / "b.store", "r", codec=OwnCodec()) as store:
            assert store["a"] == "abc"

    def test_it_is_one_state_while_others_write(self, place, small_batches):
        with Store(place / "a.store") as store:
            store.update(dict.fromkeys(range(100), "before"))

            def write(done, _total):
                store.update(dict.fromkeys(range(110), done))

            objstore.export(store, place / "a.dump", "dump", progress=write)
        with Store("memory://") as other:
            objstore.restore(place / "a.dump", other)
            assert dict(other) == dict.fromkeys(range(100), "before")

    def test_a_namespace_that_comes_while_servers_are_dumped(self, on_servers, place, small_batches):
        with Store(on_servers) as store, Store("memory://") as other:
            store.update(dict.fromkeys(range(100)))

            def write(_done, _total):
                store.namespace("later", codec="json")["a"] = 1

            objstore.export(store, place / "a.dump", "dump", progress=write)
            assert objstore.restore(place / "a.dump", other).ok
            assert len(other) == 100

    def test_a_namespace_that_is_told_between_records(self, place):
        with Store("memory://") as other, Store("memory://") as store:
            later = store.namespace("later", codec="json")
            later["a"] = store["b"] = 1
            items = tree(store)
            at = later._space._catalog_key
            order = [IDENTITY_KEY, b"@b", at, later._space.tree_key("a")]
            written(place / "a.dump", [(key, items[key]) for key in order])
            assert objstore.restore(place / "a.dump", other).ok
            assert values(other) == {("", "b"): 1, ("later", "a"): 1}
            check(other)

    def test_damaged_records_stay_behind_and_are_told(self, place):
        source = place / "a.store"
        with Store(source) as store:
            store["a"] = "x" * 1000
            store.namespace("users")["b"] = "y" * 1000
        (source / "data.mdb").write_bytes((source / "data.mdb").read_bytes().replace(b"y" * 1000, b"z" * 1000))
        report = objstore.export(source, place / "a.dump", "dump")
        assert report == (1, 1, (("users", "b", "its bytes do not fit their digest"),))
        assert not report.ok


def written(path, items):
    """A dump of these items of a tree."""
    with open(path, "wb") as file:
        writer = DumpWriter(file, is_ordered=True)
        for key, stored in items:
            (writer.put_library if key[0] < spaces.ITEMS[0] else writer.put)(key, stored)
        writer.end()
    return path


class TestMerging:
    def test_into_a_store_that_holds_other_things(self, place):
        with Store("memory://") as old, Store(place / "b.store") as new:
            old.update({"a": 1, "b": 2})
            old.namespace("users")["x"] = 1
            dumped(old, place / "a.dump")
            new.update({"b": 3, "c": 4})
            with pytest.raises(StoreExists, match="holds something already"):
                objstore.restore(place / "a.dump", place / "b.store")
            assert objstore.restore(place / "a.dump", place / "b.store", merge=True) == (3, 0, 3, 0, (), ())
            assert values(new) == {("", "a"): 1, ("", "b"): 2, ("", "c"): 4, ("users", "x"): 1}
            check(new)

    @pytest.mark.parametrize("seal", ["signed", "encrypted"])
    def test_what_is_sealed_for_another_store_is_sealed_anew(self, place, seal):
        with Store("memory://", **SEALS[seal]) as old:
            count = fill(old)
            dumped(old, place / "a.dump")
        with Store(place / "b.store", **SEALS[seal]) as new:
            new["mine"] = 1
            with pytest.raises(BadSignature, match=r"a\.dump' is .*ed; give .*_key"):
                objstore.restore(place / "a.dump", new, merge=True)
            assert objstore.restore(place / "a.dump", new, merge=True, **SEALS[seal]).verified == count
            assert (new["mine"], new[LONG]) == (1, "long")
            check(new)

    def test_what_is_not_sealed_into_a_store_that_is(self, place):
        with Store("memory://") as old, Store(place / "b.store", signing_key=KEY) as new:
            old["a"] = 1
            dumped(old, place / "a.dump")
            new["b"] = 2
            with pytest.raises(BadSignature, match="open it with its key, and give it as target"):
                objstore.restore(place / "a.dump", place / "b.store", merge=True)
            assert objstore.restore(place / "a.dump", new, merge=True).copied == 1
            assert dict(new) == {"a": 1, "b": 2}
            check(new)

    def test_into_the_store_it_is_of_without_a_key(self, place):
        with Store(place / "a.store", signing_key=KEY) as store:
            store["a"] = 1
            dumped(store, place / "a.dump")
            store["a"], store["b"] = 2, 3
        report = objstore.restore(place / "a.dump", place / "a.store", merge=True)
        assert report == (1, 0, 1, 0, (), ())
        with Store(place / "a.store", signing_key=KEY) as store:
            assert dict(store) == {"a": 1, "b": 3}
            check(store)


class TestInterrupted:
    def test_it_goes_on_after_it_was_killed(self, place, small_batches):
        with Store("memory://", signing_key=KEY) as store:
            count = fill(store)
            before = without_expired(contents(store))
            dumped(store, place / "a.dump")
        for least in (40, 180):
            for done in results(partial(restore_so_much, place, least)):
                assert done >= least
                break  # which kills it
        sent = []
        report = objstore.restore(place / "a.dump", place / "b.store", progress=lambda done, _total: sent.append(done))
        assert report == (count - report.present, report.present, count, 0, (), ())
        assert 180 <= report.present < sent[0] <= 240
        with Store(place / "b.store", "r", signing_key=KEY) as store:
            assert contents(store) == before
            check(store)

    def test_another_dump_of_the_same_store_is_another_one(self, place, small_batches):
        with Store("memory://") as store:
            fill(store)
            first, second = dumped(store, place / "a.dump"), dumped(store, place / "b.dump")
        with Store("memory://") as new:
            with pytest.raises(Enough):
                objstore.restore(first, new, progress=enough(100))
            with pytest.raises(StoreExists, match="begun copy of another"):
                objstore.restore(second, new)
            with pytest.raises(StoreError, match="not whole"):
                objstore.export(new, place / "c.dump", "dump")
            assert objstore.restore(first, new).present == 100

    def test_progress(self, place, small_batches):
        seen = []
        with Store("memory://") as store, Store("memory://") as new:
            store.update(dict.fromkeys(range(100)))
            objstore.export(store, place / "a.dump", "dump", progress=lambda *told: seen.append(told))
            assert seen == [(done, 100) for done in range(20, 101, 20)]
            seen.clear()
            objstore.restore(place / "a.dump", new, progress=lambda *told: seen.append(told))
            assert seen == [(done, 200) for done in range(20, 201, 20)]


def restore_so_much(place, least, send):
    def progress(done, _total):
        if done >= least:
            send(done)
            signal.pause()

    objstore.restore(place / "a.dump", place / "b.store", progress=progress)


@pytest.fixture
def small():
    """A small store with one of each kind, and its dump."""
    with Store("memory://") as store:
        store.update({number: "x" * number for number in range(0, 60, 7)})
        store.set("tagged", 1, ttl=1e8, tags=("red",))
        store.namespace("users")["ada"] = 1815
        store[LONG] = "long"
        file = io.BytesIO()
        dump_into(store, file)
        yield store, file.getvalue()


def dump_into(store, file):
    from objstore.exchange.dumps import write_dump

    return write_dump(store, file, None)


def restored(content, path):
    """What comes of these bytes: the report, and what the store holds."""
    path.write_bytes(content)
    with Store("memory://") as new:
        report = objstore.restore(path, new)
        check(new)
        return report, contents(new)


class TestDamage:
    def test_flipped_bits_are_found_and_the_rest_is_restored(self, place, small, rng):
        store, dump = small
        whole = contents(store)
        refused = 0
        for position in range(rng.randrange(29), len(dump), 29):
            changed = bytearray(dump)
            changed[position] ^= 1 << rng.randrange(8)
            try:
                report, found = restored(bytes(changed), place / "a.dump")
            except StoreError:
                refused += 1
                continue
            assert not report.ok, position
            assert found.items() <= whole.items()
            lost = len(whole) - len(found)
            assert lost <= 1
            assert lost == len(report.lost) or report.problems
        assert refused * 29 < 600  # what says what it is: no more

    def test_wherever_it_is_cut_short_that_is_told(self, place, small):
        store, dump = small
        whole = contents(store)
        sizes = []
        for size in range(600, len(dump), 97):
            report, found = restored(dump[:size], place / "a.dump")
            assert not report.ok
            assert any("cut short" in problem for problem in report.problems)
            assert found.items() <= whole.items()
            sizes.append(len(found))
        assert sizes == sorted(sizes)
        assert sizes[-1] > len(whole) - 2

    def test_missing_doubled_and_foreign_blocks(self, place, small):
        store, dump = small
        blocks = blocks_of(dump)
        first, second = [block for block in blocks if block[4:5] == b"R"][:2]
        report, found = restored(dump.replace(first, b""), place / "a.dump")
        assert len(found) == 0  # a block is bound to its place; so all behind it are lost
        assert "damaged" in report.problems[0]
        assert not restored(dump + b"more", place / "a.dump")[0].ok
        file = io.BytesIO()
        dump_into(store, file)
        other = blocks_of(file.getvalue())
        at = blocks.index(second)
        report, found = restored(dump.replace(second, other[at]), place / "a.dump")
        assert len(found) == len(contents(store)) - 1
        assert not report.ok

    def test_a_dump_that_lies_in_a_value_is_never_taken_for_the_dump(self, place):
        """Who may store a value, and not more, cannot forge a record, even where the dump is damaged."""
        inner = io.BytesIO()
        with Store("memory://") as forger:
            forger["victim"] = "forged"
            dump_into(forger, inner)
        with Store("memory://") as store:
            store["a"] = inner.getvalue()
            store["victim"] = "genuine"
            dump = io.BytesIO()
            dump_into(store, dump)
        content = dump.getvalue()
        at = content.index(inner.getvalue())
        head = content.rindex(dumpfile._MARK, 0, at)
        damaged = content[:head] + b"????" + content[head + 4 :]
        report, found = restored(damaged, place / "a.dump")
        assert [key for _, key in found] == ["victim"]
        assert b"genuine" in found["", "victim"][0]
        assert len(report.problems) == 2

    def test_long_stretches_are_searched_for_the_next_block(self, place, monkeypatch):
        monkeypatch.setattr(dumpfile, "_SEARCHED_BYTES", 64)
        with Store("memory://") as store:
            store.update(a=dumpfile._MARK * 500, b=1)
            file = io.BytesIO()
            dump_into(store, file)
        content = bytearray(file.getvalue())
        content[content.index(dumpfile._MARK * 3) - 30] ^= 1
        assert [key for _, key in restored(bytes(content), place / "a.dump")[1]] == ["b"]


def blocks_of(dump):
    """The blocks of a dump, each as it lies there."""
    reader = DumpReader(io.BytesIO(dump), "a.dump")
    heads = list(reader._blocks())
    begins = [dump.rindex(dumpfile._MARK, 0, head.body_at) for head in heads]
    return [dump[begin : head.body_at + head.body_bytes] for begin, head in zip(begins, heads, strict=True)]


class Forger:
    """Writes dumps that say what they like, with digests that fit."""

    def __init__(self, path):
        self.path = path
        with Store("memory://") as store:
            store["a"] = 1
            self.items = tree(store)
            self.identity = identity.unpack(store._engine.get(IDENTITY_KEY), "")

    def dump(self, *more, said=None, **instead):
        items = [(IDENTITY_KEY, identity.pack(self.identity._replace(**instead), NO_KEYS)), *more]
        written(self.path, [*items, (b"@a", self.items[b"@a"])] if said is None else said)
        return self.path


@pytest.fixture
def forger(place):
    return Forger(place / "a.dump")


def restored_from(path):
    with Store("memory://") as new:
        report = objstore.restore(path, new)
        check(new)
        return report, values(new)


class TestHostile:
    """Nothing is believed: who writes a dump gets no further than who writes a store."""

    def test_the_forger_can_write_one_that_is_taken(self, forger):
        assert restored_from(forger.dump()) == ((1, 0, 1, 0, (), ()), {("", "a"): 1})

    @pytest.mark.parametrize("claimed", [1 << 20, (1 << 32) - 1])
    @pytest.mark.parametrize("kind", [b"R", b"L", b"I", b"E"])
    def test_no_memory_is_taken_for_lengths_that_are_claimed(self, forger, kind, claimed):
        content = bytearray(forger.dump().read_bytes())
        reader = DumpReader(io.BytesIO(bytes(content)), "")
        position = len(content) - dumpfile._END_BYTES
        head = dumpfile._head.pack(dumpfile._MARK, kind, 0, 2, claimed, bytes(8)) + b"@b"
        seed = int.from_bytes(reader.salt, "little") + position
        content[position:position] = head + digest(head, seed % (1 << 64)) + b"x"
        forger.path.write_bytes(content)
        tracemalloc.start()
        try:
            report, found = restored_from(forger.path)
            assert tracemalloc.get_traced_memory()[1] < 20_000_000
        finally:
            tracemalloc.stop()
        assert found == {("", "a"): 1}
        assert not report.ok

    @pytest.mark.parametrize(
        "name",
        ["\0", "\0x", "\0" + "3:abc", "\0" + "99:abc:copying", "\0" + "9" * 5000 + ":a:b", "x" * 1001, "\0-1:a:b"],
    )
    def test_names_that_no_namespace_has(self, forger, name):
        prefix = spaces.prefix_of(name)
        told = spaces.CATALOG + prefix[1:], struct.pack("<Q", 1) + name.encode()
        with Store("memory://") as store:
            space = store._space.relative(name)
            tree_key, packed = space.pack("a", 1)
        report, found = restored_from(forger.dump(told, (tree_key, bytes(packed))))
        assert found == {("", "a"): 1}
        assert [damage.key for damage in report.lost] == ["a"]
        assert "name of its namespace is lost" in report.lost[0].reason
        assert "makes no sense" in report.problems[0]

    def test_a_namespace_under_the_hash_of_another(self, forger):
        told = spaces.CATALOG + b"abcdef", struct.pack("<Q", 1) + b"users"
        assert "makes no sense" in restored_from(forger.dump(told))[0].problems[0]

    def test_keys_that_no_record_has(self, forger, monkeypatch):
        monkeypatch.setattr(dumpfile, "_MOST_KEY_BYTES", 600)
        note = copied_records.NOTE_PREFIX + b"@copy"
        for tree_key in (
            IDENTITY_KEY,
            spaces.STATE_KEY,
            LEDGER_KEY,
            b"\x02abc",
            spaces.ITEMS + b"abcdef",
            note,
            b"@" * 505,
        ):
            with open(forger.path, "wb") as file:
                writer = DumpWriter(file, is_ordered=True)
                writer.put_library(IDENTITY_KEY, forger.items[IDENTITY_KEY])
                writer.put(tree_key, b"x" * 20)
                writer.put(b"@a", forger.items[b"@a"])
                writer.end()
            report, found = restored_from(forger.path)
            assert found == {("", "a"): 1}
            assert not report.ok

    def test_what_the_library_does_not_keep(self, forger):
        for told in ((spaces.STATE_KEY, bytes(9)), (b"\x00x", b"?"), (b"\x02abc", b"")):
            assert "makes no sense" in restored_from(forger.dump(told))[0].problems[0]

    @pytest.mark.parametrize(
        ("said", "error", "match"),
        [
            ({"kind": "Evil"}, StoreError, "does not know"),
            ({"kind": "Cache"}, WrongKind, "is a Store"),
            ({"sealing": "sometimes"}, StoreError, "does not know"),
            ({"sealing": "signed", "key": "00", "mac": "00"}, BadSignature, "give signing_key"),
            ({"format": 2}, StoreError, "upgrade"),
            ({"codec": "json"}, StoreError, "codec"),
        ],
    )
    def test_identities_that_are_none_or_not_this(self, forger, said, error, match):
        with pytest.raises(error, match=match):
            restored_from(forger.dump(**said))

    def test_the_bounds_of_a_cache_that_make_no_sense(self, forger):
        with pytest.raises(StoreCorrupt, match="bounds"):
            objstore.restore(forger.dump((LEDGER_KEY, b"\xff" * 65), kind="Cache"), forger.path.parent / "b.cache")
        assert not (forger.path.parent / "b.cache").exists()

    def test_records_that_are_not_sealed_in_a_dump_that_is(self, place, forger):
        with Store("memory://", signing_key=KEY) as store:
            store.update(a=1, b=2)
            items = tree(store)
        items[b"@a"] = forger.items[b"@a"]
        library = {key: items[key] for key in (IDENTITY_KEY, b"@a", b"@b")}
        written(forger.path, library.items())
        for keys in ({}, {"signing_key": KEY}):
            target = place / f"b{len(keys)}.store"
            report = objstore.restore(forger.path, target, **keys)
            assert [(damage.key, "not sealed" in damage.reason) for damage in report.lost] == [("a", True)]
            with Store(target, "r", signing_key=KEY) as store:
                assert dict(store) == {"b": 2}

    def test_a_seal_that_does_not_fit_is_found_with_the_key_and_by_who_reads(self, place, forger):
        with Store("memory://", signing_key=KEY) as store:
            store.update(a=1, b=2)
            items = tree(store)
        head = bytearray(items[b"@a"][:-8])
        head[20] ^= 1
        items[b"@a"] = bytes(head) + digest(bytes(head), spaces.key_digest(b"@a"))
        written(forger.path, [(key, items[key]) for key in (IDENTITY_KEY, b"@a", b"@b")])
        assert objstore.restore(forger.path, place / "b.store").copied == 2
        with Store(place / "b.store", "r", signing_key=KEY) as store, pytest.raises(BadSignature):
            store["a"]
        report = objstore.restore(forger.path, place / "c.store", signing_key=KEY)
        assert [damage.key for damage in report.lost] == ["a"]

    def test_records_out_of_order_and_twice_are_all_there_at_the_end(self, forger, small_batches):
        with Store("memory://") as store:
            store.update(dict.fromkeys(range(50)))
            items = [(key, stored) for key, stored in tree(store).items() if key >= spaces.USER]
        said = [(IDENTITY_KEY, forger.items[IDENTITY_KEY]), *items[::-1], *items[:10]]
        report, found = restored_from(forger.dump(said=said))
        assert len(found) == 50
        assert report.differing == 0

    @pytest.mark.parametrize("info", [b"", b"[]", b"{}", b"[" * 60_000, b'{"ordered": tru'])
    def test_a_beginning_that_makes_no_sense(self, forger, monkeypatch, info):
        monkeypatch.setattr(json, "dumps", lambda _: info.decode())
        with open(forger.path, "wb") as file:
            writer = DumpWriter(file, is_ordered=True)
            monkeypatch.undo()
            writer.end()
        with pytest.raises(StoreCorrupt, match="beginning"):
            restored_from(forger.path)


class TestFiles:
    def test_what_is_no_dump(self, place, small):
        path = place / "a.dump"
        assert not is_dump(path)
        with pytest.raises(StoreNotFound, match="no dump at"):
            objstore.restore(path, place / "b.store")
        for content in (b"", b"objstore", b"something else", b"x" * 1000):
            path.write_bytes(content)
            assert not is_dump(path)
            with pytest.raises(StoreError, match="is no dump"):
                objstore.restore(path, place / "b.store")
        path.write_bytes(small[1].replace(b"dump 1\n", b"dump 2\n", 1))
        assert is_dump(path)
        with pytest.raises(StoreError, match="upgrade"):
            objstore.restore(path, place / "b.store")
        with pytest.raises(StoreError, match="cannot be read"):
            objstore.restore(place, place / "b.store")
        assert not is_dump(place)
        os.mkfifo(place / "fifo")
        assert not is_dump(place / "fifo")
        assert not (place / "b.store").exists()

    def test_what_makes_no_sense(self, place, small):
        path = place / "a.dump"
        path.write_bytes(small[1])
        with pytest.raises(ValueError, match="ends with its last handle"):
            objstore.restore(path, "memory://x")
        with Store("memory://") as new, pytest.raises(ValueError, match="not a namespace"):
            objstore.restore(path, new.namespace("users"))
        with pytest.raises(ValueError, match="whole store"):
            objstore.export(small[0], place / "b.dump", "dump", namespace="users")
        assert sorted(os.listdir(place)) == ["a.dump"]

    def test_from_standard_output_to_standard_input(self, place):
        """Two real processes, and a pipe between them."""
        with Store(place / "a.store") as store:
            fill(store)
            before = without_expired(contents(store))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        export = [sys.executable, "-m", "objstore", "export", str(place / "a.store"), "-", "--to", "dump"]
        restore = [sys.executable, "-c", f"import objstore; objstore.restore('-', {str(place / 'b.store')!r})"]
        with subprocess.Popen(export, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as exporting:
            done = subprocess.run(restore, stdin=exporting.stdout, check=True, capture_output=True, env=environment)
            assert exporting.stderr.read() == b"307 entries exported\n"
        assert (done.stdout, exporting.returncode) == (b"", 0)
        with Store(place / "b.store", "r") as store:
            assert contents(store) == before

    def test_every_part_of_the_format(self, place):
        """Written out, so that the format does not change unnoticed."""
        with Store("memory://") as store:
            store["a"] = 1
            path = dumped(store, place / "a.dump")
            stored = store.entry("a").raw()
        content = path.read_bytes()
        assert content[:16] == b"objstore dump 1\n"
        salt = int.from_bytes(content[16:24], "little")
        end = content[-52:]
        mark, kind, zero, key_bytes, body_bytes, body_digest = struct.unpack("<4scBHI8s", end[:20])
        assert (mark, kind, zero, key_bytes, body_bytes) == (b"\xb5obj", b"E", 0, 0, 24)
        assert body_digest == digest(end[28:], salt)
        assert end[20:28] == digest(end[:20], (salt + len(content) - 52) % (1 << 64))
        assert struct.unpack("<QQ", end[28:44]) == (1, 3)
        head = b"\xb5objR\0\2\0" + len(stored).to_bytes(4, "little") + digest(stored, salt) + b"@a"
        at = content.index(head)
        assert content[at + 22 : at + 30] == digest(head, (salt + at) % (1 << 64))
        assert content[at + 30 : -52] == stored
        assert pickle.loads(stored) == 1
