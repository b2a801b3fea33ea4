"""Everything that can be done wrong or go wrong: the error that says so, and that nothing stored is lost."""

from __future__ import annotations

import mmap
import os
import pickle
import shutil
import subprocess
import sys
import types
import uuid
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from programs import as_nobody

from objstore import (
    CorruptRecord,
    DecodeError,
    EncodeError,
    ReadOnlyStore,
    Store,
    StoreClosed,
    StoreCorrupt,
    StoreDenied,
    StoreError,
    StoreLocked,
    StoreNotFound,
    StoreSuspect,
    TransactionError,
    identity,
)
from objstore.engines.base import IDENTITY_KEY

pytestmark = pytest.mark.usefixtures("forked_checks")

ROOT = Path(__file__).parent.parent

GOOD = {"first": 1, "second": [2]}


@pytest.fixture
def location(everywhere):
    """A place for a store, on each engine, servers among them."""
    return everywhere


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.store"


class Bad:
    """A value that refuses to be pickled."""

    def __reduce__(self):
        raise ZeroDivisionError("not today")


class TestKeys:
    @pytest.mark.parametrize("key", [[], {}, {1}, 1j, object(), bytearray(b"a"), range(3), len, np.arange(2), (1, [2])])
    def test_what_cannot_be_a_key_is_refused_with_what_can(self, store, key):
        store.update(GOOD)
        calls = [
            lambda: store[key],
            lambda: store.set(key, 1),
            lambda: store.update([("a", 1), (key, 1)]),
            lambda: store.load([(key, 1)]),
            lambda: store.delete(key),
            lambda: store.delete_many(["first", key]),
            lambda: store.pop(key, None),
            lambda: store.get(key),
            lambda: store.get_many(["first", key]),
            lambda: key in store,
            lambda: store.range(key),
            lambda: store.entry(key),
            lambda: store.touch(key, 1),
            lambda: store.increment(key),
        ]
        for call in calls:
            with pytest.raises(TypeError, match="cannot be a key, only None, bool, int"):
                call()
        assert store == GOOD

    @pytest.mark.parametrize("key", [float("nan"), np.float64("nan"), ("a", float("nan"))])
    def test_nan_is_refused_because_it_could_never_be_found(self, store, key):
        for call in (lambda: store[key], lambda: store.set(key, 1), lambda: key in store):
            with pytest.raises(ValueError, match="NaN cannot be a key"):
                call()
        assert len(store) == 0

    def test_a_missing_key_is_a_plain_key_error_that_holds_it(self, store):
        for call in (
            lambda: store["none"],
            lambda: store.__delitem__("none"),
            lambda: store.pop("none"),
            lambda: store.entry("none"),
            lambda: store.ttl("none"),
            lambda: store.modify("none", str),
            lambda: store.edit("none").__enter__(),
        ):
            with pytest.raises(KeyError) as caught:
                call()
            assert caught.value.args == ("none",)
        for call in (store.first, store.last, store.popitem):
            with pytest.raises(KeyError):
                call()


class TestValuesThatCannotBeEncoded:
    @pytest.mark.parametrize(("value", "cause"), [(Bad(), "not today"), (lambda: 1, "lambda"), (sys, "module")])
    def test_alone(self, store, value, cause):
        store.update(GOOD)
        for call in (
            lambda: store.__setitem__("first", value),
            lambda: store.set("first", value, ttl=5, tags=("a",)),
            lambda: store.add("new", value),
            lambda: store.setdefault("new", value),
            lambda: store.compare_and_set("first", 1, value),
            lambda: store.modify("first", lambda _: value),
            lambda: store.update(first=value),
            lambda: store.load({"new": value}),
        ):
            with pytest.raises(EncodeError, match=f"cannot be encoded as pickle: .*{cause}") as caught:
                call()
            assert caught.value.key in ("first", "new")
            assert caught.value.__cause__ is not None
        assert store == GOOD

    def test_in_the_middle_of_an_update_nothing_is_changed(self, store):
        store.update(GOOD)
        with pytest.raises(EncodeError) as caught:
            store.update([("first", "changed"), ("bad", Bad()), ("new", 1)])
        assert caught.value.key == "bad"
        with pytest.raises(EncodeError):
            store.update(first="changed", bad=Bad())
        assert store == GOOD

    def test_in_the_middle_of_a_load_whole_batches_stay(self, store):
        store.update(GOOD)
        items = [(number, number) for number in range(10)] + [("bad", Bad()), ("behind", 1)]
        with pytest.raises(EncodeError) as caught:
            store.load(items)
        assert caught.value.key == "bad"
        assert store == GOOD
        with pytest.raises(EncodeError):
            store.load(items, batch_bytes=1)
        assert store == {**GOOD, **{number: number for number in range(10)}}

    def test_in_the_middle_of_a_transaction_all_of_it_is_undone(self, store):
        store.update(GOOD)
        with pytest.raises(EncodeError), store.transaction() as txn:
            txn["first"] = "changed"
            txn.namespace("n")["a"] = 1
            txn["bad"] = Bad()
        assert store == GOOD
        assert store.namespaces() == []

    def test_one_that_is_caught_leaves_the_transaction_usable(self, store):
        with store.transaction() as txn:
            txn["a"] = 1
            with pytest.raises(EncodeError):
                txn.update([("a", 2), ("bad", Bad())])
            txn["b"] = 2
        assert store == {"a": 1, "b": 2}

    def test_in_an_edit_nothing_is_written(self, store):
        store.update(GOOD)
        with pytest.raises(EncodeError), store.edit("second") as value:
            value.append(Bad())
        assert store == GOOD
        store["second"] = "the writer's lock is free"

    def test_more_than_four_gibibytes_are_refused_before_any_work(self, store, tmp_path):
        with open(tmp_path / "sparse", "w+b") as file:
            file.truncate((4 << 30) + 1)
            buffer = mmap.mmap(file.fileno(), 0)
        store["large"] = "before"
        with pytest.raises(EncodeError, match=r"a record ends at (4|0.5) GiB; store it in parts") as caught:
            store["large"] = np.frombuffer(buffer, np.uint8)
        assert caught.value.key == "large"
        assert store["large"] == "before"


@contextmanager
def module_with_a_class():
    """A module that is gone after the block, with a class in it."""
    module = types.ModuleType("a_module_that_will_be_gone")
    sys.modules[module.__name__] = module
    exec("class Gone:\n    def __init__(self): self.a = 1", module.__dict__)
    try:
        yield module
    finally:
        del sys.modules[module.__name__]


class TestValuesThatCannotBeDecoded:
    @pytest.fixture
    def broken(self, store):
        """A store with a value whose class is gone."""
        store.update(GOOD)
        with module_with_a_class() as module:
            store.set("gone", module.Gone(), tags=("t",))
            assert store["gone"].a == 1
        return store

    def test_the_error_names_the_key_and_two_ways_out(self, broken):
        calls = [
            lambda: broken["gone"],
            lambda: broken.get("gone"),
            lambda: broken.get_many(["first", "gone"]),
            lambda: broken.entry("gone").value,
            lambda: broken.pop("gone"),
            lambda: broken.setdefault("gone", 1),
            lambda: broken.modify("gone", str),
            lambda: broken.increment("gone"),
            lambda: broken.compare_and_set("gone", 1, 2),
            lambda: broken.edit("gone").__enter__(),
            lambda: list(broken.items()),
            lambda: list(broken.range("g").values()),
        ]
        for call in calls:
            with pytest.raises(DecodeError, match=r"importable again, or look at .* with entry\('gone'\)") as caught:
                call()
            assert caught.value.key == "gone"
            assert isinstance(caught.value.__cause__, ModuleNotFoundError)

    def test_what_needs_no_value_works_on(self, broken):
        assert len(broken) == 3
        assert list(broken) == list(broken.keys()) == ["first", "gone", "second"]
        assert "gone" in broken
        entry = broken.entry("gone")
        assert (entry.key, entry.codec, entry.tags) == ("gone", "pickle", ("t",))
        assert b"a_module_that_will_be_gone" in entry.raw()
        assert [entry.key for entry in broken.entries()] == ["first", "gone", "second"]
        assert broken.ttl("gone") is None
        assert broken.touch("gone", 1000)
        assert broken.ttl("gone") == 1000
        assert list(broken.range(tag="t")) == ["gone"]

    def test_it_is_read_again_when_the_class_is_back(self, broken):
        with module_with_a_class():
            assert broken["gone"].a == 1

    def test_it_can_be_replaced_and_deleted(self, broken):
        broken["gone"] = "replaced"
        assert broken["gone"] == "replaced"
        with module_with_a_class() as module:
            broken["gone"] = module.Gone()
        assert broken.delete("gone")
        assert broken == GOOD


# Damage


def flip(path, at, bit):
    with open(path / "data.mdb", "r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def places_of(path, record):
    """Where a record stands in the data file of a closed store; pages that are no longer in use may have it, too."""
    data = (path / "data.mdb").read_bytes()
    places = [at for at in range(len(data)) if data.startswith(record, at)] if len(record) < 50 else []
    return places or [data.index(record)]


LONG_KEY = "long " * 500
DAMAGED = {
    "plain": {"key": "plain", "value": ["a value", "to be damaged"]},
    "labelled": {"key": ("labelled", 1), "value": "a value with a header", "ttl": 1000, "tags": ("a", "b")},
    "long key": {"key": LONG_KEY, "value": "a value under a long key", "ttl": 1000},
    "large": {"key": b"large", "value": np.arange(20_000)},
}
OTHERS = {number: str(number) * 5 for number in range(20)}


def fill(store, target):
    """Store the target among others; its record."""
    labels = {name: target[name] for name in ("ttl", "tags") if name in target}
    store.update(OTHERS)
    store.set(target["key"], target["value"], **labels)
    return store.entry(target["key"]).raw()


def check_damage(store, clock, target, where):
    """Whether the value is refused, and then that all else goes well; False where the right value is given."""
    key = target["key"]
    try:
        value = store[key]
    except CorruptRecord as exc:
        error = exc
    else:
        assert np.array_equal(value, target["value"]), where
        return False
    assert error.key == key, where
    assert "restore it from a backup, or delete it" in str(error)
    assert store[5] == "55555", where
    assert len(store) == len(list(store)) == len(list(store.entries())) == 21, where
    assert key in store, where
    assert key == LONG_KEY or key in list(store), where  # a long key is lost with its record
    assert store.entry(key).raw(), where
    for read in (store.items, store.values):
        with pytest.raises(CorruptRecord):
            list(read())
    assert store.delete(key), where
    assert key not in store, where
    assert store == OTHERS, where
    store[key] = "anew"
    clock.advance(2000)  # what stands in the indexes because of the damaged record is not believed
    assert (len(store), store[key]) == (21, "anew"), where
    store.expire()
    assert (len(store), store[key]) == (21, "anew"), where
    assert len(store) == sum(1 for _ in store), where
    clock.advance(-2000)
    return True


class TestFlippedBits:
    @pytest.fixture(params=DAMAGED)
    def target(self, request):
        return dict(DAMAGED[request.param])

    def test_one_on_disk_is_never_served_and_harms_nobody_else(self, path, tmp_path, clock, target, rng):
        with Store(path, clock=clock) as store:
            record = fill(store, target)
        (start,) = places_of(path, record)
        found = 0
        for number in range(20):
            copy = shutil.copytree(path, tmp_path / f"copy {number}")
            place, bit = rng.randrange(len(record)), rng.randrange(8)
            flip(copy, start + place, bit)
            with Store(copy, clock=clock) as store:
                found += check_damage(store, clock, target, f"bit {bit} of byte {place}")
            shutil.rmtree(copy)
        assert found >= 19  # between buffers there is padding, which means nothing

    def test_every_one_at_the_head_and_at_the_end_of_a_record(self, clock, target):
        with Store("memory://", clock=clock) as store:
            record = fill(store, target)
            tree_key = store._space.tree_key(target["key"])
            for place in (*range(min(len(record), 80)), *range(len(record) - 10, len(record))):
                for bit in range(8):
                    damaged = bytearray(record)
                    damaged[place] ^= 1 << bit
                    store.clear()
                    assert fill(store, target) == record
                    store._engine.transact(lambda writer, record=damaged: writer.put(tree_key, bytes(record)))
                    check_damage(store, clock, target, f"bit {bit} of byte {place}")

    @pytest.mark.parametrize("way", ["replace", "clear", "clear a range", "update", "expire and clear"])
    def test_a_damaged_record_stands_in_nobodys_way(self, clock, target, way):
        with Store("memory://", clock=clock) as store:
            record = fill(store, target)
            tree_key = store._space.tree_key(target["key"])
            for place in range(min(len(record), 40)):
                for bit in range(8):
                    damaged = bytearray(record)
                    damaged[place] ^= 1 << bit
                    store.clear()
                    fill(store, target)
                    store._engine.transact(lambda writer, record=damaged: writer.put(tree_key, bytes(record)))
                    if way == "replace":
                        store[target["key"]] = "anew"
                        assert store.pop(target["key"]) == "anew"
                    elif way == "update":
                        store.update([(target["key"], "anew"), (1, "11111")])
                        assert store.pop(target["key"]) == "anew"
                    elif way == "clear a range":
                        store.range(target["key"]).clear()
                        store.update(OTHERS)
                    else:
                        if way.startswith("expire"):
                            store.expire()
                        store.clear()
                        store.update(OTHERS)
                    assert store == OTHERS
                    assert len(store) == 20

    def test_what_is_listed_under_a_lost_key_can_be_deleted_under_it(self, path, clock):
        with Store(path, clock=clock) as store:
            (start,) = places_of(path, fill(store, DAMAGED["long key"]))
        flip(path, start, 7)  # the version
        with Store(path, clock=clock) as store:
            (lost,) = [key for key in store if not isinstance(key, int)]
            assert lost in store
            with pytest.raises(CorruptRecord):
                store[lost]
            assert store.delete(lost)
            assert store == OTHERS

    def test_a_flipped_bit_in_a_key_does_not_serve_its_record_under_another(self, path):
        with Store(path) as store:
            store.update({"key-a": "of a", "key-z": "of z"})
        for place in places_of(path, b"\x40key-z"):
            flip(path, place + 5, 0)
        with Store(path) as store:
            assert list(store) == ["key-a", "key-{"]
            assert "key-z" not in store
            with pytest.raises(CorruptRecord) as caught:
                store["key-{"]
            assert caught.value.key == "key-{"
            assert store["key-a"] == "of a"
            assert store.delete("key-{")

    def test_a_flipped_bit_in_the_identity_is_told_at_opening(self, path):
        with Store(path) as store:
            store["a"] = 1
        for place in places_of(path, b'"codec": "pickle"'):
            flip(path, place + 3, 2)
        with pytest.raises(StoreCorrupt, match=r"identity .* is missing or damaged; restore a backup"):
            Store(path)


class TestDamagedFiles:
    @pytest.fixture
    def stored(self, path):
        with Store(path) as store:
            store.update((number, "x" * 1000) for number in range(1000))
        return path

    @pytest.mark.parametrize("flag", ["r", "w", "c"])
    @pytest.mark.parametrize("size", [0, 1, 100, 4096, 8192, 100_000])
    def test_a_data_file_that_is_cut_short_is_refused_before_it_kills(self, stored, flag, size):
        os.truncate(stored / "data.mdb", size)
        with pytest.raises(StoreCorrupt, match="restore a backup"):
            Store(stored, flag)
        assert (stored / "data.mdb").stat().st_size == size

    @pytest.mark.parametrize("flag", ["r", "w", "c"])
    def test_a_missing_data_file_is_never_a_new_store(self, stored, flag):
        os.unlink(stored / "data.mdb")
        with pytest.raises(StoreCorrupt, match="missing or empty; restore a backup, or start anew with flag 'n'"):
            Store(stored, flag)

    @pytest.mark.parametrize("content", [b"\x00" * 20_000, b"garbage" * 3_000])
    def test_a_data_file_of_something_else_is_refused(self, stored, content):
        (stored / "data.mdb").write_bytes(content)
        with pytest.raises(StoreCorrupt, match="restore a backup"):
            Store(stored)

    def test_flag_n_begins_anew_after_any_damage(self, stored):
        os.truncate(stored / "data.mdb", 100)
        with Store(stored, "n") as store:
            assert store == {}

    @pytest.mark.parametrize("flag", ["r", "w", "c"])
    def test_unsynced_writes_before_another_boot_make_the_store_suspect(self, path, flag):
        with Store(path, durability="process") as store:
            store["a"] = 1
        (path / "objstore.lock").write_text(f"objstore 1\ndirty {uuid.uuid4()}\n")
        with pytest.raises(StoreSuspect, match="restore a backup"):
            Store(path, flag)
        with Store(path, "r", immutable=True) as store:
            assert store == {"a": 1}
        with Store(path, "n") as store:
            assert store == {}

    def test_unsynced_writes_of_this_boot_do_not(self, path):
        subprocess.run(
            [sys.executable, "-c", KILLED_WRITER, str(path)], cwd=ROOT, check=False, timeout=60, stderr=subprocess.PIPE
        )
        assert "\ndirty " in (path / "objstore.lock").read_text()
        with Store(path) as store:
            assert store == {"a": 1}
        assert "dirty" not in (path / "objstore.lock").read_text()


KILLED_WRITER = """
import os, signal, sys
from objstore import Store
store = Store(sys.argv[1], durability="process")
store["a"] = 1
os.kill(os.getpid(), signal.SIGKILL)
"""


# Opening


class TestWhatIsNoStore:
    @pytest.mark.parametrize("flag", ["r", "w"])
    def test_nothing(self, path, flag):
        with pytest.raises(StoreNotFound, match="flag 'c' makes one"):
            Store(path, flag)
        assert not path.exists()
        with pytest.raises(StoreNotFound, match="flag 'c'"):
            Store("memory://nothing", flag)

    @pytest.mark.parametrize("flag", ["r", "w", "c", "n"])
    def test_a_directory_of_other_things(self, path, flag):
        path.mkdir()
        (path / "letter.txt").write_text("keep me")
        with pytest.raises(StoreNotFound, match=r"holds other things \(letter.txt\); name a new or an empty"):
            Store(path, flag)
        assert os.listdir(path) == ["letter.txt"]

    @pytest.mark.parametrize("flag", ["r", "w", "c", "n"])
    def test_a_file(self, path, flag):
        path.write_text("keep me")
        with pytest.raises(StoreNotFound, match="is a file, and a store is a directory; name another place"):
            Store(path, flag)
        with pytest.raises(StoreNotFound, match="name another place"):
            Store(path / "below", flag)
        assert path.read_text() == "keep me"

    @pytest.mark.parametrize("flag", ["r", "w"])
    def test_an_empty_directory_is_none_yet(self, path, flag):
        path.mkdir()
        with pytest.raises(StoreNotFound, match="is empty; flag 'c' makes a store in it"):
            Store(path, flag)
        assert os.listdir(path) == []

    def test_each_is_what_python_calls_it(self):
        assert issubclass(StoreNotFound, FileNotFoundError)
        assert issubclass(StoreDenied, PermissionError)
        assert issubclass(ReadOnlyStore, StoreDenied)
        assert issubclass(StoreClosed, ValueError)


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"flag": "x"}, ValueError, "flag is 'r'"),
            ({"flag": ""}, ValueError, "flag is 'r'"),
            ({"flag": None}, ValueError, "flag is 'r'"),
            ({"permissions": "public"}, ValueError, "permissions is 'private' or 'umask'"),
            ({"durability": "none"}, ValueError, "durability is one of"),
            ({"codec": "yaml"}, ValueError, "no codec is called 'yaml'; there are 'pickle'"),
            ({"codec": 5}, TypeError, "is neither the name of a codec"),
            ({"compression": "rar"}, ValueError, "one of 'zlib', 'lz4' and 'zstd'|one of"),
            ({"signing_key": b"short"}, ValueError, "at least 32 random bytes"),
            ({"encryption_key": "NOT_THERE"}, ValueError, "no environment variable 'NOT_THERE'"),
            ({"map_size": -1}, ValueError, "map_size"),
            ({"map_size": 1 << 70}, ValueError, "map_size"),
            ({"map_size": "large"}, ValueError, "map_size"),
            ({"map_size": 1.5}, ValueError, "map_size"),
            ({"max_readers": 0}, ValueError, "max_readers"),
            ({"max_readers": -1}, ValueError, "max_readers"),
            ({"max_readers": "many"}, ValueError, "max_readers"),
            ({"immutable": True}, ValueError, "open with flag 'r'"),
        ],
    )
    def test_options_that_make_no_sense_are_named_and_nothing_is_made(self, path, options, error, message):
        with pytest.raises(error, match=message):
            Store(path, **options)
        assert not path.exists()

    @pytest.mark.parametrize("options", [{"flag": "x"}, {"durability": "none"}, {"codec": "yaml"}])
    def test_they_are_refused_in_memory_too(self, options):
        with pytest.raises(ValueError, match="is"):
            Store("memory://", **options)

    @pytest.mark.parametrize(
        ("location", "error"),
        [
            ("", ValueError),
            ("a\0b", ValueError),
            (b"a.store", TypeError),
            (5, TypeError),
            (None, TypeError),
            ("redis-like://host", ValueError),
            ("lmdb://relative", ValueError),
        ],
    )
    def test_a_location_that_is_none(self, location, error):
        with pytest.raises(error):
            Store(location)

    @pytest.mark.parametrize(
        ("ttl", "error"),
        [
            (0, ValueError),
            (-1, ValueError),
            (timedelta(0), ValueError),
            (timedelta(-1), ValueError),
            (float("nan"), ValueError),
            (float("inf"), ValueError),
            (1e10, ValueError),
            (True, TypeError),
            ("5", TypeError),
            ([], TypeError),
        ],
    )
    def test_a_ttl_that_is_none(self, store, ttl, error):
        store["a"] = 1
        for call in (
            lambda: store.set("a", 2, ttl=ttl),
            lambda: store.add("b", 2, ttl=ttl),
            lambda: store.update(a=2, ttl=ttl),
            lambda: store.load([("a", 2)], ttl=ttl),
            lambda: store.increment("a", ttl=ttl),
            lambda: store.touch("a", ttl),
        ):
            with pytest.raises(error, match="ttl is"):
                call()
        assert store == {"a": 1}
        assert store.ttl("a") is None

    @pytest.mark.parametrize(
        ("tags", "error"),
        [
            ("red", TypeError),
            ((1,), TypeError),
            (([],), TypeError),
            (5, TypeError),
            (None, TypeError),
            (("",), ValueError),
            (("x" * 1001,), ValueError),
            ([str(number) for number in range(1001)], ValueError),
        ],
    )
    def test_tags_that_are_none(self, store, tags, error):
        for call in (
            lambda: store.set("a", 2, tags=tags),
            lambda: store.add("a", 2, tags=tags),
            lambda: store.update(a=2, tags=tags),
            lambda: store.load([("a", 2)], tags=tags),
            lambda: store.increment("a", tags=tags),
        ):
            with pytest.raises(error, match="tag"):
                call()
        assert len(store) == 0

    def test_a_tag_to_look_for_that_is_none(self, store):
        for call in (lambda: list(store.range(tag=5)), lambda: store.delete_tag(5), lambda: store.delete_tag(None)):
            with pytest.raises(TypeError, match="a tag is text"):
                call()

    @pytest.mark.parametrize("prefix", [5, None, 1.5, [1], True])
    def test_a_prefix_that_is_none(self, store, prefix):
        with pytest.raises(TypeError, match="a prefix is text, bytes or a tuple"):
            store.range(prefix=prefix)

    def test_a_prefix_beside_bounds_or_beyond_the_order(self, store):
        with pytest.raises(TypeError, match="not both"):
            store.range("a", prefix="b")
        with pytest.raises(ValueError, match="use a shorter prefix"):
            store.range(prefix="x" * 1000)

    @pytest.mark.parametrize(
        ("name", "error"),
        [("", ValueError), ("\0library", ValueError), ("x" * 1001, ValueError), (5, TypeError), (None, TypeError)],
    )
    def test_the_name_of_a_namespace_that_is_none(self, store, name, error):
        for call in (store.namespace, store.drop_namespace):
            with pytest.raises(error):
                call(name)
        with store.transaction() as txn, pytest.raises(error):
            txn.namespace(name)
        with store.snapshot() as snapshot, pytest.raises(error):
            snapshot.namespace(name)

    def test_a_codec_of_a_namespace_that_is_none(self, store):
        with pytest.raises(ValueError, match="no codec is called 'yaml'"):
            store.namespace("n", codec="yaml")


class TestIdentity:
    def forge(self, path, **fields):
        with Store(path) as store:
            store["a"] = 1
            forged = identity.pack(store._identity._replace(**fields))
            store._engine.transact(lambda writer: writer.put(IDENTITY_KEY, forged))

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"format": 2}, "has format 2 .* upgrade objstore"),
            ({"digest": "xxh5"}, "upgrade objstore"),
            ({"codec": "of the future"}, "codec 'of the future'.* upgrade objstore"),
            ({"sealing": "with wax"}, "upgrade objstore"),
            ({"kind": "Cache"}, "is a Cache; open it with objstore.Cache"),
        ],
    )
    def test_a_store_of_the_future_or_of_another_kind_is_refused_and_kept(self, path, fields, message):
        self.forge(path, **fields)
        before = (path / "data.mdb").read_bytes()
        for flag in "rwc":
            with pytest.raises(StoreError, match=message):
                Store(path, flag)
        assert (path / "data.mdb").read_bytes() == before


class TestTwoHandles:
    @pytest.mark.parametrize(
        "options",
        [{"durability": "relaxed"}, {"map_size": 1 << 28}, {"max_readers": 5}, {"flag": "n"}, {"readahead": False}],
    )
    def test_that_contradict_each_other_are_told_to_close_first(self, path, options):
        with Store(path) as store:
            store["a"] = 1
            with pytest.raises(StoreLocked, match="close it first"):
                Store(path, **options)
            assert store == {"a": 1}

    def test_of_different_processes_too(self, path):
        with Store(path) as store:
            store["a"] = 1
            code = (
                "import sys; from objstore import *\n"
                "for options in ({'flag': 'n'}, {'durability': 'process'}):\n"
                "    try: Store(sys.argv[1], **options)\n"
                "    except StoreLocked as exc: print('close it' in str(exc))"
            )
            done = subprocess.run(
                [sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
            )
            assert done.stdout.split() == ["True", "True"]
            assert store == {"a": 1}
            assert store.stats().durability == "full"

    def test_immutable_and_not(self, path):
        Store(path).close()
        with Store(path, "r", immutable=True), pytest.raises(StoreLocked, match="immutable"):
            Store(path)
        with Store(path), pytest.raises(StoreLocked, match="immutable"):
            Store(path, "r", immutable=True)


# Permissions


def reading(path, **options):
    def call():
        with Store(path, "r", **options) as store:
            return dict(store)

    return call


class TestPermissions:
    @pytest.fixture
    def stored(self, open_path):
        with Store(open_path) as store:
            store["a"] = 1
        return open_path

    @pytest.mark.parametrize("flag", ["r", "w", "c", "n"])
    @pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
    def test_a_private_store_is_for_its_owner(self, stored, flag):
        error = as_nobody(lambda: Store(stored, flag))
        assert isinstance(error, StoreDenied)
        assert "no permission to open" in str(error)

    @pytest.mark.parametrize("mode", [0o777, 0o770, 0o722])
    def test_a_directory_that_others_write_is_refused_unless_the_user_trusts_them(self, stored, mode):
        stored.chmod(mode)
        for flag in "rwcn":
            with pytest.raises(StoreDenied, match="chmod go-w, or pass permissions='umask' if you trust them"):
                Store(stored, flag)
        with Store(stored, permissions="umask") as store:
            assert store == {"a": 1}

    def test_an_empty_directory_that_others_write_is_refused_too(self, open_path):
        open_path.mkdir()
        open_path.chmod(0o777)
        with pytest.raises(StoreDenied, match="permissions='umask'"):
            Store(open_path)
        assert os.listdir(open_path) == []

    def share_for_reading(self, path):
        for name in os.listdir(path):
            (path / name).chmod(0o444)
        path.chmod(0o555)

    def test_what_may_only_be_read_opens_for_reading_or_says_how(self, stored):
        self.share_for_reading(stored)
        found = as_nobody(reading(stored))
        assert found == {"a": 1} or (isinstance(found, StoreDenied) and "immutable=True" in str(found)), found
        assert as_nobody(reading(stored, immutable=True)) == {"a": 1}

    @pytest.mark.parametrize("flag", ["w", "c", "n"])
    def test_what_may_only_be_read_is_not_opened_for_writing(self, stored, flag):
        self.share_for_reading(stored)
        error = as_nobody(lambda: Store(stored, flag))
        assert isinstance(error, ReadOnlyStore)
        assert "open it with flag 'r'" in str(error)

    def test_where_nobody_may_write_no_store_is_made(self, open_path):
        open_path.parent.chmod(0o555)
        error = as_nobody(lambda: Store(open_path))
        assert isinstance(error, StoreDenied)
        assert not open_path.exists()

    def test_an_immutable_copy_needs_no_lock_file(self, stored, open_path):
        copy = open_path.parent / "copy"
        copy.mkdir()
        shutil.copy(stored / "data.mdb", copy)
        (copy / "data.mdb").chmod(0o444)
        copy.chmod(0o555)
        assert as_nobody(reading(copy, immutable=True)) == {"a": 1}
        assert os.listdir(copy) == ["data.mdb"]
        with Store(copy, "r", immutable=True) as store, pytest.raises(ReadOnlyStore):
            store["b"] = 1

    def test_a_read_only_handle_refuses_every_write(self, stored):
        with Store(stored) as store:
            store.namespace("n")["b"] = 2
        with Store(stored, "r") as store:
            users = store.namespace("n")
            for call in (
                lambda: store.set("a", 2),
                lambda: store.update(a=2),
                lambda: store.load({"a": 2}),
                lambda: store.delete("a"),
                lambda: store.pop("a"),
                lambda: store.popitem(),
                lambda: store.setdefault("new", 2),
                lambda: store.increment("a"),
                lambda: store.clear(),
                lambda: store.range("a").clear(),
                lambda: store.touch("a", 1),
                lambda: store.delete_tag("t"),
                lambda: store.delete_many(["a"]),
                lambda: store.expire(),
                lambda: store.transaction().__enter__(),
                lambda: store.edit("a", default=[]).__enter__(),
                lambda: store.drop_namespace("n"),
                lambda: users.set("b", 3),
            ):
                with pytest.raises(ReadOnlyStore, match="open for reading; write through flag 'w' or 'c'"):
                    call()
            assert store == {"a": 1}
            assert users == {"b": 2}
            assert store.setdefault("a", 5) == 1
            assert not store.add("a", 5)


# After the end


class TestAfterClose:
    def test_every_use_of_the_store_says_that_it_is_closed(self, store):
        store["a"] = 1
        views = [store.keys(), store.items(), store.values(), store.range("a"), store.entries()]
        entry = store.entry("a")
        users = store.namespace("users")
        of_users = users.namespace("inner")
        store.close()
        store.close()
        calls = [
            lambda: store["a"],
            lambda: store.get("a"),
            lambda: store.set("a", 2),
            lambda: store.update(a=2),
            lambda: store.delete("a"),
            lambda: store.pop("a", None),
            lambda: "a" in store,
            lambda: len(store),
            lambda: bool(store),
            lambda: list(store),
            lambda: dict(store),
            lambda: list(reversed(store)),
            lambda: store.get_many(["a"]),
            lambda: store.first(),
            lambda: store.clear(),
            lambda: store.snapshot(),
            lambda: store.transaction().__enter__(),
            lambda: store.edit("a").__enter__(),
            lambda: store.namespace("other"),
            lambda: store.namespaces(),
            lambda: store.drop_namespace("users"),
            lambda: store.stats(),
            lambda: store.sync(),
            lambda: users["a"],
            lambda: users.set("a", 1),
            lambda: of_users.set("a", 1),
            lambda: entry.value,
            lambda: entry.raw(),
            *(lambda view=view: list(view) for view in views),
            *(lambda view=view: len(view) for view in views),
        ]
        for call in calls:
            with pytest.raises(StoreClosed, match="is closed; open it again"):
                call()
        assert store.closed
        assert users.closed
        assert "closed" in repr(store)
        assert entry.key == "a"

    def test_a_snapshot_and_iterations_end_with_the_last_handle_on_disk(self, path):
        store = Store(path)
        store.update((number, number) for number in range(100))
        snapshot, keys, items = store.snapshot(), iter(store), iter(store.items())
        next(keys), next(items)
        second = Store(path)
        store.close()
        assert snapshot[1] == 1
        assert next(keys) == 1
        second.close()
        for call in (lambda: snapshot[1], lambda: len(snapshot), lambda: next(keys), lambda: next(items)):
            with pytest.raises(StoreClosed, match="closed"):
                call()

    def test_in_memory_they_go_on(self):
        store = Store("memory://")
        store.update(a=1, b=2)
        snapshot, keys = store.snapshot(), iter(store)
        next(keys)
        store.close()
        assert (snapshot["a"], list(keys)) == (1, ["b"])

    def test_a_closed_snapshot_says_so(self, store):
        store["a"] = 1
        with store.snapshot() as snapshot:
            pass
        snapshot.close()
        for call in (lambda: snapshot["a"], lambda: len(snapshot), lambda: list(snapshot), snapshot.__enter__):
            with pytest.raises(StoreClosed, match=r"take another with store\.snapshot"):
                call()
        assert "closed" in repr(snapshot)

    def test_an_ended_transaction_says_so(self, store):
        with store.transaction() as txn:
            txn["a"] = 1
            users = txn.namespace("users")
            with txn.transaction() as inner:
                pass
            with pytest.raises(TransactionError):
                inner["a"] = 2
        for call in (
            lambda: txn["a"],
            lambda: txn.set("a", 2),
            lambda: list(txn),
            lambda: users.set("a", 2),
            lambda: txn.transaction().__enter__(),
        ):
            with pytest.raises(TransactionError, match="has ended; begin another"):
                call()
        with pytest.raises(TransactionError, match="begin another"):
            txn.__enter__()
        with pytest.raises(TransactionError, match=r"use it as `with store\.transaction"):
            store.transaction()["a"] = 1
        assert store == {"a": 1}

    def test_a_transaction_goes_on_when_its_store_is_closed(self, path):
        with Store(path) as store:
            store["a"] = 1
        store = Store(path)
        with store.transaction() as txn:
            txn["a"] = 2
            store.close()
        store = Store(path)
        with pytest.raises(LookupError), store.transaction() as txn:
            txn["a"] = 3
            store.close()
            raise LookupError
        with Store(path) as store:
            assert store == {"a": 2}
            store["b"] = "the writer's lock is free"


class TestTheRest:
    @pytest.mark.parametrize("value", [None, True, 1, 1.5, "text", b"bytes", (1, 2), frozenset({1})])
    def test_an_edit_of_what_cannot_change_names_modify(self, store, value):
        store["a"] = value
        for edit in (store.edit("a"), store.edit("new", default=value)):
            with pytest.raises(TypeError, match=r"use modify\('(a|new)', function\)"), edit:
                pass
        assert store == {"a": value}

    def test_snapshots_and_transactions_do_not_pickle_and_say_what_does(self, store):
        with store.snapshot() as snapshot, pytest.raises(TypeError, match="pickle the store, and take a snapshot"):
            pickle.dumps(snapshot)
        with store.transaction() as txn, pytest.raises(TypeError, match="pickle the store, and begin one"):
            pickle.dumps(txn)

    def test_a_snapshot_is_for_reading(self, store):
        store["a"] = 1
        with store.snapshot() as snapshot:
            with pytest.raises(TypeError):
                snapshot["a"] = 2
            with pytest.raises(TypeError, match="clear a range of the store or of a transaction"):
                snapshot.range("a").clear()
            assert snapshot == {"a": 1}

    def test_errors_about_a_key_travel_between_processes(self):
        for kind in (EncodeError, DecodeError, CorruptRecord):
            again = pickle.loads(pickle.dumps(kind("what to do", ("a", 1))))
            assert (type(again), str(again), again.key) == (kind, "what to do", ("a", 1))
