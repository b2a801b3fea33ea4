"""The handle: opening, flags, options, sharing, closing, pickling, namespaces, and what is loaded at once."""

import gc
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from objstore import (
    BadSignature,
    CorruptRecord,
    DecodeError,
    Store,
    StoreClosed,
    StoreError,
    StoreLocked,
    StoreNotFound,
    UnsupportedOperation,
)
from objstore.engines.lmdb import registry


@pytest.fixture
def location(everywhere):
    """A place for a store, on each engine, servers among them."""
    return everywhere


class TestFlags:
    def test_c_makes_what_is_missing_and_keeps_what_is_there(self, tmp_path):
        path = tmp_path / "deep" / "er" / "a.store"
        with Store(path) as store:
            store["a"] = 1
        with Store(str(path), "c") as store:
            assert store == {"a": 1}

    @pytest.mark.parametrize("flag", ["r", "w"])
    def test_r_and_w_want_a_store(self, tmp_path, flag):
        for path in (tmp_path / "missing", tmp_path):
            with pytest.raises(StoreNotFound, match="'c' makes") as caught:
                Store(path, flag)
            assert isinstance(caught.value, FileNotFoundError)
        assert not (tmp_path / "missing").exists()
        assert not list(tmp_path.iterdir())

    def test_n_is_always_new_and_empty(self, tmp_path):
        with Store(tmp_path / "a.store", "n") as store:
            store["a"] = 1
            first = store.stats().id
            with pytest.raises(StoreLocked):
                Store(tmp_path / "a.store", "n")
        with Store(tmp_path / "a.store", "n") as store:
            assert len(store) == 0
            assert store.stats().id != first

    def test_an_empty_directory_becomes_a_store(self, tmp_path):
        with Store(tmp_path) as store:
            store["a"] = 1
        assert {path.name for path in tmp_path.iterdir()} == {"data.mdb", "lock.mdb", "objstore.lock"}

    def test_a_url_is_a_location(self, tmp_path):
        with Store(f"lmdb://{tmp_path}/with%20space") as store:
            store["a"] = 1
        with Store(tmp_path / "with space", "r") as store:
            assert store["a"] == 1
        for location in ("lmdb://relative/path", "nosql://x"):
            with pytest.raises(ValueError, match="path"):
                Store(location)
        with pytest.raises(TypeError, match="str or a path"):
            Store(b"bytes")

    @pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
    def test_a_new_store_is_private_whatever_the_umask(self, tmp_path):
        before = os.umask(0)
        try:
            with Store(tmp_path / "a.store") as store:
                store["a"] = 1
                assert stat.S_IMODE(os.stat(tmp_path / "a.store").st_mode) == 0o700
                assert {stat.S_IMODE(path.stat().st_mode) for path in Path(store.location).iterdir()} == {0o600}
        finally:
            os.umask(before)


class TestMemory:
    def test_a_name_is_one_store_while_it_is_open(self):
        with Store("memory://shared") as one, Store("memory://shared", "w") as other, Store("memory://") as alone:
            one["a"] = 1
            assert other == {"a": 1}
            assert len(alone) == 0
            with pytest.raises(TypeError, match="lives in this process"):
                pickle.dumps(one)
        with pytest.raises(StoreNotFound):
            Store("memory://shared", "r")


class TestHandles:
    def test_two_handles_share_one_environment(self, tmp_path):
        (tmp_path / "link").symlink_to(tmp_path / "a.store")
        one = Store(tmp_path / "a.store")
        other = Store(tmp_path / "link")
        one["a"] = 1
        assert other["a"] == 1
        assert len(registry.engines) == 1
        one.close()
        other["b"] = 2
        other.close()
        assert not registry.engines

    def test_close_is_idempotent_and_final(self, tmp_path):
        store = Store(tmp_path / "a.store")
        users = store.namespace("users")
        store["a"] = 1
        items = store.items()
        store.close()
        store.close()
        assert store.closed
        assert users.closed
        assert "closed" in repr(store)
        for use in (
            lambda: store["a"],
            lambda: store.__setitem__("a", 1),
            lambda: "a" in store,
            lambda: len(store),
            lambda: list(items),
            lambda: users["a"],
            store.snapshot,
            store.namespaces,
            lambda: store.transaction().__enter__(),
        ):
            with pytest.raises(StoreClosed) as caught:
                use()
            assert isinstance(caught.value, ValueError)

    def test_a_handle_that_is_dropped_is_closed(self, tmp_path):
        Store(tmp_path / "a.store")["a"] = 1
        gc.collect()
        assert not registry.engines

    def test_a_transaction_keeps_the_store_that_nobody_else_remembers(self, tmp_path):
        with Store(tmp_path / "a.store").transaction() as txn:
            txn["a"] = 1
        with Store(tmp_path / "a.store", "r") as store:
            assert store == {"a": 1}

    def test_repr_shows_location_and_count(self, tmp_path):
        with Store(tmp_path / "a.store") as store:
            store["a"] = 1
            assert repr(store) == f"<Store '{tmp_path}/a.store', 1 items>"
            assert "namespace 'n'" in repr(store.namespace("n"))

    def test_handles_pickle_as_path_and_options(self, tmp_path):
        with Store(tmp_path / "a.store", "n", max_readers=99) as store:
            store["a"] = 1
            store.namespace("n")["b"] = 2
            with pickle.loads(pickle.dumps(store)) as copy:
                assert copy == {"a": 1}
                copy["c"] = 3
            with pickle.loads(pickle.dumps(store.namespace("n"))) as copy:
                assert copy == {"b": 2}
            assert store["c"] == 3

    def test_a_store_of_another_kind_or_option_is_refused(self, tmp_path):
        with Store(tmp_path / "a.store", map_size=1 << 24, durability="relaxed") as store:
            assert store.stats().durability == "relaxed"
            with Store(tmp_path / "a.store"):
                pass
            with pytest.raises(StoreLocked, match="map_size"):
                Store(tmp_path / "a.store", map_size=1 << 25)
            with pytest.raises(StoreLocked, match="durability"):
                Store(tmp_path / "a.store", durability="full")

    def test_the_only_opener_may_change_the_durability(self, tmp_path):
        for durability in ("full", "process", "relaxed", "full"):
            with Store(tmp_path / "a.store", durability=durability) as store:
                store[durability] = 1
                assert store.stats().durability == durability
        with Store(tmp_path / "a.store") as store:
            assert store.stats().durability == "full"
            assert len(store) == 3

    def test_what_an_engine_can_do_is_told(self, tmp_path):
        with Store("memory://") as store:
            assert store.supports("transaction")
            assert not store.supports("view")
            with pytest.raises(UnsupportedOperation, match="store\\[key\\]"):
                store.view("a")
        error = UnsupportedOperation("transaction", "cluster", "use modify")
        assert isinstance(error, NotImplementedError)
        assert (error.operation, error.engine) == ("transaction", "cluster")


LOOK_AND_CLOSE = """
import random, sys, threading, time
from objstore import Store, StoreClosed

sys.setswitchinterval(1e-6)  # without the guard, the process then ends within a second
with Store(sys.argv[1]) as store:
    store.update({number: bytes(random.choice([10, 5_000, 100_000])) for number in range(100)})
    store.set("expires", 1, ttl=1e6)
    size = sum(entry.size for entry in store.entries())

def look(store):
    try:
        while True:
            assert all(number in store for number in range(100))
            assert sum(entry.size for entry in store.entries()) == size
    except StoreClosed:
        pass

end = time.monotonic() + 3
while time.monotonic() < end:
    store = Store(sys.argv[1])
    threads = [threading.Thread(target=look, args=(store,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(random.uniform(0, 0.01))
    store.close()
    for thread in threads:
        thread.join()
"""


def test_a_store_may_be_closed_while_other_threads_look_into_it(tmp_path):
    # In a process of its own: what went wrong here would end it.
    subprocess.run([sys.executable, "-c", LOOK_AND_CLOSE, tmp_path / "a.store"], check=True)


class TestNamespaces:
    @pytest.fixture(params=["memory", "lmdb"])
    def store(self, request, tmp_path):
        with Store("memory://" if request.param == "memory" else tmp_path / "a.store") as store:
            yield store

    def test_each_has_its_own_keys(self, store):
        users, orders = store.namespace("users"), store.namespace("orders")
        store["a"], users["a"], orders["a"] = 0, 1, 2
        users["b"] = 3
        assert (store, users, orders) == ({"a": 0}, {"a": 1, "b": 3}, {"a": 2})
        assert store.namespaces() == users.namespaces() == ["orders", "users"]
        users.clear()
        assert (store, orders) == ({"a": 0}, {"a": 2})
        assert store.namespaces() == ["orders", "users"]
        store.drop_namespace("users")
        store.drop_namespace("never was")
        assert store.namespaces() == ["orders"]
        users["c"] = 1  # an old handle makes it anew
        assert users == {"c": 1}
        assert store.namespaces() == ["orders", "users"]
        assert len(store) == 1

    def test_one_that_nobody_wrote_to_is_not_there(self, store):
        assert len(store.namespace("nothing")) == 0
        assert store.namespaces() == []

    @pytest.mark.parametrize("name", ["", "\x00mine", "x" * 1001])
    def test_names_have_rules(self, store, name):
        with pytest.raises(ValueError, match="name"):
            store.namespace(name)
        with pytest.raises(TypeError):
            store.namespace(1)

    def test_names_that_share_a_hash_are_refused_and_nothing_is_mixed(self, store, monkeypatch):
        monkeypatch.setattr("objstore.space._hash", lambda text, size: b"h" * size)
        store.namespace("one")["a"] = 1
        with pytest.raises(StoreError, match="another name"):
            store.namespace("two")


class TestLoad:
    def test_any_number_in_batches(self, tmp_path):
        calls = []
        with Store(tmp_path / "a.store") as store:
            items = ((n, b"x" * 1000) for n in range(1000))
            assert store.load(items, batch_bytes=100_000, progress=lambda *call: calls.append(call)) == 1000
            assert len(store) == 1000
            assert calls[-1] == (1000, None)
            assert len(calls) == 11
            assert store.load({"a": 1}, progress=lambda *call: calls.append(call)) == 1
            assert calls[-1] == (1, 1)

    def test_what_was_stored_before_an_error_stays(self, tmp_path):
        def items():
            yield from ((n, b"x" * 1000) for n in range(95))
            raise LookupError

        with Store(tmp_path / "a.store") as store:
            with pytest.raises(LookupError):
                store.load(items(), batch_bytes=10_000)
            assert len(store) == 90


class TestPayload:
    """What is sealed or compressed is opened, and still not decoded."""

    def test_a_sealed_one_needs_the_key(self, tmp_path):
        key = bytes(range(32))
        for option in ("signing_key", "encryption_key"):
            path = tmp_path / option
            with Store(path, **{option: key}) as store:
                store["a"] = ["text"]
                assert pickle.loads(store.entry("a").payload().data) == ["text"]
            with Store(path, "r") as store, pytest.raises(BadSignature, match="nothing of it was decoded"):
                store.entry("a").payload()

    @pytest.mark.parametrize("method", ["zlib", "lz4", "zstd"])
    def test_a_compressed_one_is_expanded_to_a_bound(self, tmp_path, method):
        with Store(tmp_path / "a.store", compression=method, codec="bytes") as store:
            store["a"] = b"x" * 100_000
            entry = store.entry("a")
            assert entry.size < 1_000
            assert entry.payload().data == entry.payload(max_size=100_000).data == b"x" * 100_000
            with pytest.raises(DecodeError, match="takes 100000 bytes, and more than max_size=99999"):
                entry.payload(max_size=99_999)

    def test_one_of_another_codec_is_seen_too(self, tmp_path):
        with Store(tmp_path / "a.store") as store:
            store["a"] = 1
            store.namespace("texts", codec="json")["a"] = {"b": None}
        with Store(tmp_path / "a.store", "r") as store:
            assert store.namespace("texts").entry("a").payload().data == b'{"b":null}'

    def test_a_damaged_one_is_refused(self, tmp_path):
        with Store(tmp_path / "a.store") as store:
            store["a"] = "y" * 100
        data = tmp_path / "a.store" / "data.mdb"
        data.write_bytes(data.read_bytes().replace(b"y" * 100, b"z" * 100))
        with Store(tmp_path / "a.store", "r") as store, pytest.raises(CorruptRecord, match="the record of key 'a'"):
            store.entry("a").payload()
