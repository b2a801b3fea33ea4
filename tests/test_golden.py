"""Stores of every format there ever was are read for ever, and what is written today is what was written then."""

from __future__ import annotations

import io
import shutil
import struct
from functools import partial
from pathlib import Path

import pytest
from golden import make

import objstore
from objstore import Cache, Store, record
from objstore.codecs.keyring import KeyRing
from objstore.codecs.pickling import Pickle
from objstore.codecs.sealing import Signing
from objstore.eviction import LEDGER_KEY
from objstore.exchange.dumpfile import DumpReader
from objstore.space import METER, Space

pytestmark = pytest.mark.usefixtures("forked_checks")

HERE = Path(make.__file__).parent
ITEMS = {name: make.NAMESPACES_1.get(name, make.FORMAT_1) for name in ("", *make.NAMESPACES_1)}


def copied(name, tmp_path):
    """A copy of a golden store, for its owner alone, as git cannot keep it."""
    copy = tmp_path / name
    copy.mkdir(mode=0o700)
    for file in ("data.mdb", "objstore.lock"):
        shutil.copyfile(HERE / name / file, copy / file)
    return copy


@pytest.fixture
def path(tmp_path):
    return copied("format-1", tmp_path)


@pytest.fixture(params=["r", "w"])
def store(path, request):
    with Store(path, request.param) as store:
        yield store


@pytest.fixture(params=ITEMS, ids=["default", *make.NAMESPACES_1])
def namespace(store, request):
    return store.namespace(request.param) if request.param else store


def items_of(namespace):
    return ITEMS[namespace._space.name]


def in_order(namespace):
    """The keys as they stand in the tree, the long ones by their digest."""
    return sorted(items_of(namespace), key=namespace._space.tree_key)


def reads_as(item):
    return item.value if item.back is None else item.back


class TestReading:
    def test_all_keys_are_there_in_order(self, namespace):
        wanted = in_order(namespace)
        assert list(namespace) == wanted
        assert list(reversed(namespace)) == wanted[::-1]
        assert len(namespace) == len(wanted)

    def test_all_keys_are_of_the_type_they_were(self, namespace):
        assert [type(key) for key in namespace] == [type(key) for key in in_order(namespace)]

    def test_all_values_are_what_they_were(self, namespace):
        for key, item in items_of(namespace).items():
            assert namespace[key] == reads_as(item)
            assert type(namespace[key]) is type(reads_as(item))
        assert dict(namespace.items()) == {key: reads_as(item) for key, item in items_of(namespace).items()}

    def test_all_entries_say_what_they_said(self, namespace):
        for key, item in items_of(namespace).items():
            entry = namespace.entry(key)
            expires = None if entry.expires_at is None else entry.expires_at.timestamp() * 1_000_000
            assert (entry.key, entry.codec, entry.tags) == (key, "pickle", item.tags)
            assert expires == (None if item.ttl is None else make.EXPIRES_AT)

    @pytest.mark.parametrize("tag", ["red", "grün", "navy", "none"])
    def test_tags_are_found(self, namespace, tag):
        tagged = {key for key, item in items_of(namespace).items() if tag in item.tags}
        assert set(namespace.range(tag=tag)) == tagged

    def test_prefixes_are_found(self, store):
        assert list(store.range(prefix=("user", 1))) == [("user", 1), ("user", 1, "mail")]
        assert list(store.range(prefix="expires")) == ["expires", "expires and is tagged"]

    def test_its_namespaces_are_known(self, store):
        assert set(store.namespaces()) == set(make.NAMESPACES_1)

    def test_its_identity_is_what_it_was(self, store):
        stats = store.stats()
        assert (stats.format, stats.durability, stats.namespaces) == (1, "full", 2)
        assert (stats.id, stats.created) == (IDENTITY["id"], IDENTITY["created"])


class TestWriting:
    def test_it_can_be_changed_as_any_other(self, path):
        with Store(path, "w") as store:
            count = len(store)
            del store["text"]
            store["tagged"] = "no more"
            store["new"] = 1
            assert store.delete_tag("red") == 2
            assert len(store) == count - 2
            store.namespace("users")["new"] = 2
            store.drop_namespace("ünïcödé")
        with Store(path, "r") as store:
            assert len(store) == count - 2
            assert (store["tagged"], store["new"], store.namespace("users")["new"]) == ("no more", 1, 2)
            assert store.namespaces() == ["users"]

    def test_its_books_are_true_to_the_last_entry(self, path):
        with Store(path, "w", clock=lambda: make.NOW + 2 * make.TTL) as store:
            alive = sum(item.ttl is None for item in make.FORMAT_1.values())
            assert len(store) == alive
            assert store.expire() == len(make.FORMAT_1) - alive
            assert len(store) == alive
            for name in make.NAMESPACES_1:
                store.drop_namespace(name)
            store.clear()
            left = dict(store._engine.read().scan(b"\x00"))
        assert left.keys() == {b"\x00d", b"\x00i", b"\x00s"}
        assert left[b"\x00s"] == struct.pack("<BQ", 3, 3)


IDENTITY = {"id": "e3663ec973244e119266a895a7d16d0e", "created": "2026-11-23T16:28:34+00:00"}


class TestBytes:
    """The tree, byte for byte: a store that is written today is the one that was written then."""

    @pytest.fixture
    def tree(self, path):
        with Store(path, "r") as store:
            return dict(store._engine.read().scan(b"\x00"))

    @pytest.mark.parametrize("name", ITEMS, ids=["default", *make.NAMESPACES_1])
    def test_keys_and_records_are_encoded_today_as_they_were(self, tree, name):
        space = Space(name, Pickle())
        for key, item in ITEMS[name].items():
            tree_key, packed = space.pack(key, item.value, item.ttl and make.EXPIRES_AT, item.tags)
            assert tree_key in tree
            assert bytes(packed) == tree[tree_key]

    @pytest.mark.parametrize("name", ITEMS, ids=["default", *make.NAMESPACES_1])
    def test_records_are_packed_today_as_they_were_whatever_pickle_does(self, tree, name):
        space = Space(name, Pickle())
        for key in ITEMS[name]:
            tree_key = space.tree_key(key)
            header, payload, frames = record.unpack(tree_key, tree[tree_key])
            said = header._asdict()
            said = {field: said[field] for field in ("codec", "expires_at", "tags", "long_key")}
            assert bytes(record.pack(tree_key, bytes(payload), **said, frames=frames)) == tree[tree_key]

    def test_a_store_made_today_is_the_same_but_for_its_identity(self, tree, tmp_path):
        make.write(str(tmp_path / "today"))
        with Store(tmp_path / "today", "r") as store:
            today = dict(store._engine.read().scan(b"\x00"))
        assert today.keys() == tree.keys()
        assert {key for key in tree if tree[key] != today[key]} == {b"\x00i"}

    def test_some_of_it_written_out(self, tree):
        assert tree[b"\x00d"] == b"full"
        assert tree[b"\x00s"] == b"\x03\x12\0\0\0\0\0\0\0"
        assert tree[b"0\x80\0\0\0\0\0\0\0"] == b"\x80\x05K\0." + b"\x1f\x9eP=v\x8c`<"
        assert tree[b"@expires"] == (
            b"\x01\x01\x01\0&\0\0\0"
            b"\0\xc0\xe4\xbc\xa2\x97\t\0"
            b"\x80\x05\x95\x0b\0\0\0\0\0\0\0\x8c\x07in 2055\x94."
            b"\x13\xeas\xc0\x1d\xf0-\x88"
        )
        assert tree[b"@tagged"] == (
            b"\x01\x02\x01\0$\0\0\0\x01\0\x03\0red\x80\x05\x95\n\0\0\0\0\0\0\0\x8c\x06tagged\x94.\xbe\xd3\x8bf\xeej z"
        )
        assert b"\x80@user\x000\x80\0\0\0\0\0\0\x01\xff\x80\0\0" in tree

    def test_a_frame_begins_where_it_is_aligned(self, path):
        data = (path / "data.mdb").read_bytes()
        assert data.index(make.FORMAT_1["framed"].back) % record.ALIGNMENT == 0


class TestSealed:
    @pytest.fixture(params=make.SEALINGS_1)
    def sealed(self, request, tmp_path):
        """A sealed golden store, and the option with which it is opened."""
        ((option, key),) = make.SEALINGS_1[request.param].items()
        return copied(f"format-1-{request.param}", tmp_path), option, key

    def assert_whole(self, store):
        for key, item in make.SEALED_1.items():
            assert store[key] == reads_as(item)
            assert store.entry(key).tags == item.tags
        assert store["old"] == "sealed with an older key"
        assert dict(store.namespace("users")) == {"ada": 1815}
        assert store.check().ok

    def test_it_is_read_with_its_keys(self, sealed):
        path, option, key = sealed
        with Store(path, "r", **{option: [make.OLD_KEY, key]}) as store:
            self.assert_whole(store)

    def test_it_is_rekeyed(self, sealed):
        path, option, key = sealed
        with Store(path, **{option: [key, make.OLD_KEY]}) as store:
            assert store.rekey() == (1, (), ())
        with Store(path, **{option: key}) as store:
            self.assert_whole(store)

    def test_signatures_are_today_what_they_were(self, tmp_path):
        ring = KeyRing([make.KEY])
        with Store(copied("format-1-signed", tmp_path), "r", signing_key=[make.KEY, make.OLD_KEY]) as store:
            space = Space("", Pickle(), sealing=partial(Signing, ring, store.stats().id))
            for key, item in make.SEALED_1.items():
                _, packed = space.pack(key, item.value, item.ttl and make.EXPIRES_AT, item.tags)
                assert bytes(packed) == store.entry(key).raw()


class TestCodecs:
    @pytest.fixture
    def store(self, tmp_path):
        with Store(copied("format-1-codecs", tmp_path), "r") as store:
            yield store

    @pytest.mark.parametrize("codec", make.CODECS_1)
    def test_each_is_read(self, store, codec):
        namespace = store.namespace(codec, codec="pickle" if codec == "pickle" else None)
        for key, item in make.CODECS_1[codec].items():
            assert namespace[key] == item.value
            assert namespace.entry(key).codec == codec

    @pytest.mark.parametrize("codec", make.CODECS_1)
    def test_each_is_packed_today_as_it_was(self, store, codec):
        namespace = store.namespace(codec, codec="pickle" if codec == "pickle" else None)
        for key, item in make.CODECS_1[codec].items():
            assert bytes(namespace._space.pack(key, item.value)[1]) == namespace.entry(key).raw()

    @pytest.mark.parametrize("codec", ["msgpack", "json"])
    def test_arrays_are_read(self, store, codec):
        array = store.namespace(codec)["array"]
        assert array.dtype == make.array_1().dtype
        assert array.tolist() == make.array_1().tolist()

    @pytest.mark.parametrize("method", make.METHODS_1)
    def test_what_is_compressed_is_read(self, store, method):
        namespace = store.namespace(method)
        assert namespace["words"] == make.WORDS_1
        assert namespace.entry("words").size < 200

    def test_it_is_whole(self, store):
        assert store.stats().codec == "msgpack"
        assert set(store.namespaces()) == {*make.CODECS_1, *make.METHODS_1}
        assert store.check().ok


@pytest.mark.parametrize("policy", make.POLICIES_1)
class TestCaches:
    def test_it_is_read_with_its_bounds_and_what_it_counted(self, tmp_path, policy):
        with Cache(copied(f"format-1-cache-{policy}", tmp_path), "r") as cache:
            for key, item in make.CACHED_1.items():
                assert cache[key] == reads_as(item)
                assert cache.entry(key).tags == item.tags
            assert dict(cache.namespace("users")) == {"ada": 1815}
            stats = cache.stats()
            assert (stats.max_size, stats.max_entries, stats.policy) == (1 << 20, 5, policy)
            assert (stats.entries, stats.evicted, stats.expired) == (5, 5, 0)
            assert (stats.hits - len(make.CACHED_1) - 1, stats.misses) == (2, 1)
            assert cache.check().ok

    def test_what_goes_first_goes_first(self, tmp_path, policy):
        with Cache(copied(f"format-1-cache-{policy}", tmp_path)) as cache:
            cache.update(one=1, two=2)
            users = dict(cache.namespace("users"))
            assert ("a" in cache, users) == (policy != "fifo", {})
            cache.clear()
            assert cache.stats().entries == 0
            assert cache.check().ok

    def test_one_made_today_is_the_same_but_for_its_identity(self, tmp_path, policy):
        trees = []
        make.write_cache(str(tmp_path / "today"), policy)
        for path in (copied(f"format-1-cache-{policy}", tmp_path), tmp_path / "today"):
            with Cache(path, "r") as cache:
                trees.append(dict(cache._engine.read().scan(b"\x00")))
        golden, today = trees
        assert golden.keys() == today.keys()
        assert {key for key in golden if golden[key] != today[key]} == {b"\x00i"}


@pytest.mark.parametrize("name", make.DUMPS_1)
class TestDumps:
    """Of a golden store each, as it lies there."""

    @pytest.fixture
    def trees(self, name, tmp_path):
        """All that lies in the golden store and in the one that is restored from its dump."""
        kind = Cache if "cache" in name else Store
        keys = {"signing_key": False, "encryption_key": False}
        objstore.restore(HERE / f"{name}.dump", tmp_path / "restored", **keys)
        trees = []
        for path in (copied(name, tmp_path), tmp_path / "restored"):
            with kind(path, "r", **keys) as store:
                trees.append(dict(store._engine.read().scan(b"\x00")))
                assert store.check().ok
        return trees

    def test_it_is_restored_to_the_last_byte(self, trees, name):
        golden, restored = trees
        differing = {key for key in golden.keys() | restored.keys() if golden.get(key) != restored.get(key)}
        if name == "format-1-cache-lfu":  # how a cache was used stays behind
            differing = {key for key in differing if key[:1] != METER} - {LEDGER_KEY}
        assert differing == set()

    def test_what_is_dumped_today_is_what_was_dumped_then(self, name, tmp_path):
        make.write_dump(str(tmp_path / "today.dump"), str(copied(name, tmp_path)))
        readers = []
        for path in (HERE / f"{name}.dump", tmp_path / "today.dump"):
            reader = DumpReader(io.BytesIO(path.read_bytes()), str(path))
            readers.append((reader.library, list(reader.scan(b"")), reader.records, reader.is_ordered, reader.problems))
        assert readers[0] == readers[1]
        assert readers[0][-1] == []
