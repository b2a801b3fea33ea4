"""Stores and caches on servers: what is different there, and what a user is told of it.

What is the same is in the tests that run on every engine (`test_mapping`, `test_store`, `test_errors`, `test_trust`,
`test_memoize`, `test_model`), and what happens when servers fail in `test_redis_faults`.
"""

from __future__ import annotations

import linecache
import os
import pickle
import time
import warnings
from datetime import timedelta

import pytest
from children import result

from objstore import (
    Cache,
    Conflict,
    EncodeError,
    Json,
    OutcomeUnknown,
    Pickle,
    Store,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreNotFound,
    UnsealedWarning,
    UnsupportedOperation,
    WrongKind,
)
from objstore.engines.redis import shards
from objstore.engines.redis.layout import Layout, Plan
from objstore.sharding import ShardedSpace

KEY = bytes(range(32))


@pytest.fixture
def store(on_servers):
    with Store(on_servers) as store:
        yield store


@pytest.fixture
def cache(on_servers):
    with Cache(on_servers) as cache:
        yield cache


def call(store, *command):
    """A command on the server that has the library's own records."""
    layout = store._engine._layout
    return store._engine._router.call(layout.slots[layout.home], command)


class TestOpening:
    @pytest.mark.parametrize("flag", ["r", "w"])
    def test_what_is_not_there(self, on_servers, flag):
        with pytest.raises(StoreNotFound, match=f"there is no store at '{on_servers[:20]}.*; flag 'c' makes one"):
            Store(on_servers, flag)

    def test_a_new_one_is_empty_and_takes_nothing_of_others(self, on_servers, cluster):
        other = on_servers.replace("/test", "/tesu")
        with Store(other) as neighbour, Store(on_servers) as store:
            neighbour["a"] = store["a"] = 1
            store.namespace("users")["b"] = 2
            store.set("c", 3, ttl=100, tags=["red"])
        with Store(on_servers, "n") as store:
            assert len(store) == 0
            assert store.namespaces() == []
            assert list(store.range(tag="red")) == []
            assert call(store, b"KEYS", b"*") is not None
            assert store.check() == (0, (), (), False, 0)
        with Store(other, "r") as neighbour:
            assert dict(neighbour) == {"a": 1}

    def test_what_it_was_made_with_stays(self, on_servers):
        Store(on_servers).close()
        for option in ("buckets=8", "index=no"):
            url = on_servers.replace("buckets=16", option)
            with pytest.raises(StoreError, match=r"was made with (buckets=16|index=True); leave \1? ?"):
                Store(url)
        with Store(on_servers.replace("?buckets=16", "")) as store:
            assert store._engine._layout.buckets == 16

    def test_kinds_do_not_mix(self, on_servers):
        Store(on_servers).close()
        with pytest.raises(WrongKind):
            Cache(on_servers)

    def test_durability(self, on_servers):
        with pytest.raises(ValueError, match="durability on servers is 'process' or 'replicated', not 'full'"):
            Store(on_servers, durability="full")
        with pytest.raises(ValueError, match="durability is one of"):
            Store("memory://", durability="replicated")
        with Store(on_servers, durability="replicated") as store:
            store["a"] = 1
            assert store.add("b", 2)
            store.update({number: number for number in range(1000)})
            assert store.stats().durability == "replicated"
        with Store(on_servers) as store:
            assert store.stats().durability == "replicated"
        with Store(on_servers, durability="process") as store:
            assert store.stats().durability == "process"

    def test_more_replicas_than_there_are(self, on_servers):
        with (
            Store(on_servers + "&replicas=2", durability="replicated") as store,
            pytest.raises(OutcomeUnknown, match=r"1 of the 2 replicas .* write it again"),
        ):
            store["a"] = 1

    def test_a_damaged_layout_is_said(self, on_servers):
        with Store(on_servers) as store:
            prefix = store._engine._layout.prefixes[-1]
            for stored in (b"", b"{}", b"[]", b'{"format": 1, "buckets": 0, "index": true}'):
                call(store, b"SET", prefix + b"\x00l", stored)
                with pytest.raises(StoreCorrupt, match=r"the layout of the store at .* is damaged"):
                    Store(on_servers + "&timeout=29")
            call(store, b"SET", prefix + b"\x00l", b'{"format": 2, "buckets": 16, "index": true}')
            with pytest.raises(StoreError, match="has layout 2, and this objstore reads layout 1; upgrade"):
                Store(on_servers + "&timeout=29")

    def test_many_make_one_in_the_same_moment(self, on_servers):
        waiting, starting = os.pipe()
        children = []
        for _ in range(4):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    os.read(waiting, 1)
                    with Store(on_servers) as store:
                        store[os.getpid()] = store.stats().id
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
        os.write(starting, b"1234")
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
        with Store(on_servers) as store:
            assert dict(store) == dict.fromkeys(sorted(children), store.stats().id)
        os.close(waiting)
        os.close(starting)

    def test_a_pickled_handle(self, store):
        store["a"] = 1
        again = pickle.loads(pickle.dumps(store.namespace("users")))
        again["b"] = 2
        again.close()
        assert dict(store.namespace("users")) == {"b": 2}
        assert result(lambda: store["a"]) == 1


class TestRefusals:
    @pytest.mark.parametrize(
        ("operation", "use"),
        [
            ("transaction", lambda store, _: store.transaction()),
            ("snapshot", lambda store, _: store.snapshot()),
            ("view", lambda store, _: store.view("a")),
            ("backup", lambda store, path: store.backup(path)),
            ("compact", lambda store, _: store.compact()),
        ],
    )
    def test_what_cannot_be_says_what_can(self, store, tmp_path, operation, use):
        assert not store.supports(operation)
        with pytest.raises(
            UnsupportedOperation, match=f"{operation} is not possible on the redis engine: .{{10}}"
        ) as caught:
            use(store, tmp_path / "backup")
        assert (caught.value.operation, caught.value.engine) == (operation, "redis")

    @pytest.mark.parametrize("bound", [{"max_size": 1000}, {"max_entries": 10}, {"policy": "lfu"}])
    def test_a_cache_has_no_bounds_of_its_own(self, on_servers, bound):
        with pytest.raises(UnsupportedOperation, match="set maxmemory and an evicting maxmemory-policy"):
            Cache(on_servers, **bound)
        with pytest.raises(StoreNotFound):
            Cache(on_servers, "r")

    def test_an_edit_that_comes_too_late_is_a_conflict(self, store):
        store["a"] = [1]
        with pytest.raises(Conflict, match="nothing was written, edit it again"), store.edit("a") as value:
            store["a"] = [2]
            value.append(3)
        assert store["a"] == [2]

    def test_a_record_that_no_server_takes(self, store, monkeypatch):
        monkeypatch.setattr(ShardedSpace, "_most_bytes", 300_000)
        for write in (
            lambda: store.update({"b": 1, "a": "x" * 300_000}),
            lambda: store.__setitem__("a", "x" * 300_000),
            lambda: store.add("a", "x" * 300_000),
        ):
            with pytest.raises(EncodeError, match=r"the value for key 'a' takes 300\d{3} bytes") as caught:
                write()
            assert caught.value.key == "a"
        assert len(store) == 0


class TestBatches:
    def test_who_fails_half_way_says_for_which_keys(self, on_servers, new_single):
        server = new_single("--maxmemory", "12mb", "--maxmemory-policy", "noeviction")
        with Store(server.url("full", buckets=4)) as store:
            items = {number: bytes(100_000) for number in range(200)}
            with pytest.raises(StoreFull, match=r"[\d,]+ of 200 items are stored; .* attribute keys") as caught:
                store.update(items)
            assert set(caught.value.keys) == items.keys() - set(store)
            assert 0 < len(caught.value.keys) < 200
            store.clear()
            store["small"] = 1

    def test_pages_of_any_size(self, store, monkeypatch):
        monkeypatch.setattr(shards, "_PAGE_KEYS", 7)
        monkeypatch.setattr(shards, "_PAGE_BYTES", 3000)
        items = {number: "x" * (number * 37 % 1000) for number in range(300)}
        store.update(items)
        assert dict(store) == items
        assert dict(store.items()) == items
        assert store.get_many(range(-5, 400)) == items
        assert store.delete_many(range(100, 500)) == 200
        assert store.range(5, 50).clear() == 45
        assert list(store) == [*range(5), *range(50, 100)]
        store.clear()
        assert not store


class TestNamespaces:
    def test_one_that_was_dropped_is_there_again_when_it_is_written_to(self, store):
        users = store.namespace("users")
        users.update({number: number for number in range(100)})
        store.drop_namespace("users")
        assert store.namespaces() == []
        assert len(users) == 0
        users["a"] = 1
        assert store.namespaces() == ["users"]
        assert dict(store.namespace("users")) == {"a": 1}

    def test_one_that_got_another_codec_meanwhile(self, store):
        users = store.namespace("users")
        users.update({number: number for number in range(100)})
        store.drop_namespace("users")
        other = store.namespace("users", codec="json")
        other.update({str(number): number for number in range(100)})
        with pytest.raises(StoreError, match="namespace 'users' has another codec than 'pickle' by now; open it anew"):
            users.update({number: number for number in range(100)})
        assert all(type(key) is str for key in other)

    def test_results_go_with_their_namespace(self, store):
        users = store.namespace("users")
        assert users.get_or_compute("a", lambda: 1, ttl=1000) == 1
        store.drop_namespace("users")
        assert users.get_or_compute("a", lambda: 2) == 2


class TestExpiry:
    def test_servers_give_the_memory_back_by_themselves(self, on_servers):
        for open_one in (Store, Cache):
            with open_one(on_servers.replace("/test", f"/{open_one.__name__}")) as store:
                store.set("a", 1, ttl=0.2)
                store.set("b", 1, ttl=timedelta(seconds=100))
                slot, name = store._engine.read()._place(store._space.tree_key("a"))
                assert 0 < store._engine._router.call(slot, (b"PTTL", name)) <= 400
                ends = time.monotonic() + 10
                while store._engine._router.call(slot, (b"EXISTS", name)) and time.monotonic() < ends:
                    assert time.sleep(0.05) is None
                assert not store._engine._router.call(slot, (b"EXISTS", name))
                assert list(store) == ["b"]
                assert len(store) == 1
                assert store.expire() in (0, 1)
                assert store.touch("b", None)
                slot, name = store._engine.read()._place(store._space.tree_key("b"))
                assert store._engine._router.call(slot, (b"PTTL", name)) == -1
                assert store.ttl("b") is None


class TestCaches:
    def test_it_is_a_mapping_without_order(self, cache):
        items = {f"key {number}": number for number in range(500)}
        cache.update(items)
        assert dict(cache) == items
        assert len(cache) == 500
        assert cache.get_many(["key 1", "none"]) == {"key 1": 1}
        assert cache.pop("key 1") == 1
        assert "key 1" not in cache
        assert cache.add("key 1", 1)
        assert cache.increment("key 1") == 2
        assert cache.delete_many(["key 1", "key 2", "none"]) == 2
        cache.clear()
        assert dict(cache) == {}

    @pytest.mark.parametrize(
        "use",
        [
            lambda cache: cache.first(),
            lambda cache: cache.last(),
            lambda cache: cache.popitem(),
            lambda cache: list(reversed(cache)),
            lambda cache: cache.range("a", "b"),
            lambda cache: cache.range(prefix="a"),
        ],
    )
    def test_order_is_refused(self, cache, use):
        cache["a"] = 1
        with pytest.raises(UnsupportedOperation, match="index=yes"):
            use(cache)

    def test_one_with_an_index_has_it(self, on_servers):
        with Cache(on_servers + "&index=yes", ttl=100) as cache:
            cache.update({number: number for number in range(100)})
            assert list(cache.range(10, 20)) == list(range(10, 20))
            assert cache.first() == 0
            assert cache.popitem() == (99, 99)

    def test_tags_and_namespaces(self, cache):
        cache.set("a", 1, tags=["red"])
        cache.set("b", 1, tags=["blue", "red"])
        cache["c"] = 1
        users = cache.namespace("users")
        users["a"] = 2
        assert sorted(cache.range(tag="red")) == ["a", "b"]
        assert cache.delete_tag("blue") == 1
        assert sorted(cache) == ["a", "c"]
        assert cache.namespaces() == ["users"]
        cache.drop_namespace("users")
        assert cache.namespaces() == []
        users["b"] = 3
        assert dict(users) == {"b": 3}

    def test_its_own_ttl_and_what_is_counted(self, on_servers):
        with Cache(on_servers, ttl=50) as cache:
            cache["a"] = 1
            assert 0 < cache.ttl("a") <= 50
            assert (cache["a"], cache.get("b")) == (1, None)
            stats = cache.stats()
            assert (stats.entries, stats.hits, stats.misses) == (1, 1, 1)
            assert (stats.max_size, stats.max_entries, stats.policy) == (None, None, "servers")

    def test_what_a_server_evicts_is_computed_again(self, new_single):
        server = new_single("--maxmemory", "8mb", "--maxmemory-policy", "allkeys-lru")
        with pytest.raises(StoreError, match=r"maxmemory-policy allkeys-lru.*CONFIG SET maxmemory-policy noeviction"):
            Store(server.url("a"))
        with Cache(server.url("a"), ttl=1000) as cache:
            calls = []
            compute = cache.memoize(name="compute")(lambda number: calls.append(number) or bytes(50_000))
            for _ in range(2):
                for number in range(200):
                    assert compute(number) == bytes(50_000)
            assert 200 < len(calls) <= 400
            cache.update({number: bytes(50_000) for number in range(300)})
            assert 0 < len(cache) < 300


class TestTrust:
    def warned(self, url, kind=Store, **options):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            kind(url, **options).close()
        return [warning for warning in caught if warning.category is UnsealedWarning]

    @pytest.mark.parametrize("kind", [Store, Cache])
    def test_pickles_of_others_are_warned_of_once(self, on_servers, kind):
        (warning,) = self.warned(on_servers, kind)
        assert "whoever can write there can run code here" in str(warning.message)
        assert "kind(url, **options)" in linecache.getline(warning.filename, warning.lineno)
        assert not self.warned(on_servers, kind)

    @pytest.mark.parametrize(
        "options",
        [
            {"signing_key": KEY},
            {"encryption_key": KEY},
            {"codec": "json"},
            {"codec": Json(list[int])},
            {"codec": Pickle(allow=[])},
        ],
    )
    def test_what_runs_no_code_of_others_is_not(self, on_servers, options):
        assert not self.warned(on_servers, **options)

    def test_a_record_of_another_place_is_refused(self, on_servers):
        """Whoever can write to the servers moves a sealed record to another key."""
        with Store(on_servers, signing_key=KEY) as store:
            store["a"], store["b"] = 1, 2
            (_, theirs), (slot, ours) = (store._engine.read()._place(store._space.tree_key(key)) for key in "ab")
            stolen = store.entry("a").raw()
            store._engine._router.call(slot, (b"SET", ours, stolen))
            with pytest.raises(StoreError, match="'b'"):
                store["b"]
            assert theirs != ours

    def test_damage_is_found(self, store):
        store.update({number: number for number in range(10)})
        store.set("a", 1, ttl=1000, tags=["red"])
        assert store.check().ok
        layout = store._engine._layout
        tree_key = store._space.tree_key(5)
        slot, name = store._engine.read()._place(tree_key)
        store._engine._router.call(slot, (b"SET", name, b"\x80garbage, and more of it"))
        kept = layout.kept[layout.bucket(store._space.tree_key("a"))]
        for names in kept[:4]:
            store._engine._router.call(layout.slots[layout.bucket(store._space.tree_key("a"))], (b"DEL", names))
        report = store.check()
        assert [damage.key for damage in report.damaged] == [5]
        assert len([problem for problem in report.problems if "missing in the index of" in problem]) == 3


def test_the_slot_of_a_bucket_is_that_of_its_tag():
    """A prefix alone decides, whatever key follows, also one with braces."""
    from redis.crc import key_slot

    layout = Layout("name", Plan(4, True), key_slot)
    for key in (b"\x10", b"\x40{}", b"\x40}{x}", b"\x01abc", b"\x04prefix{"):
        bucket = layout.bucket(key)
        assert key_slot(layout.prefixes[bucket] + key) == layout.slots[bucket]
        assert all(key_slot(name) == layout.slots[bucket] for name in layout.kept[bucket])
