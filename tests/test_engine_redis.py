"""The engine on servers: what every engine does, and what is its own (books, buckets, scans without order, leases)."""

from __future__ import annotations

import itertools
import os
import threading
import time

import pytest
from children import result
from contract_engine import LETTERS, TreeContract, user_keys
from hypothesis import given
from hypothesis import strategies as st

from objstore.engines import connect
from objstore.engines.base import ANYTHING, Marks
from objstore.engines.redis import leases
from objstore.engines.redis.walking import walk
from objstore.errors import UnsupportedOperation

_numbers = itertools.count()


def opened(place, evictable=False, scheme="redis", **options):
    """An engine there, on a store that nobody else has."""
    url = place.url(f"engine-{os.getpid()}-{next(_numbers)}", **options).replace("redis:", f"{scheme}:")
    return connect(url, "c", {b"\x00i": b"identity"}, None, evictable=evictable)


@pytest.fixture(params=["cluster", "single"])
def engine(request):
    """A cluster through redis-py, and a server that stands alone through valkey-py."""
    scheme = "redis" if request.param == "cluster" else "valkey"
    engine = opened(request.getfixturevalue(request.param), scheme=scheme, buckets=7)
    yield engine
    engine.release()


class TestContract(TreeContract):
    @pytest.fixture
    def engine(self, cluster):
        engine = opened(cluster, buckets=7)
        yield engine
        engine.release()

    def test_a_forked_child_has_no_claim_and_ends_none(self, engine, monkeypatch):
        monkeypatch.setattr(leases, "LEASE", 0.5)
        super().test_a_forked_child_has_no_claim_and_ends_none(engine)

    def ended_with_its_process(self, engine, name):
        wait_for(lambda: engine.claim(name))  # when its lease ends, at the latest

    def test_it_keeps_the_contract_alone_as_well(self, single):
        engine = opened(single)
        self.test_what_was_put_is_there(engine)
        self.test_count_counts_the_whole_tree(engine)
        engine.release()


@pytest.fixture
def bare(cluster):
    """One without an index."""
    engine = opened(cluster, evictable=True, buckets=7)
    yield engine
    engine.release()


@pytest.fixture
def shards(engine):
    return engine.read()


def marks(**fields):
    return Marks(**fields)


def store(shards, key, record=b"record", now=0, found=ANYTHING, **fields):
    return shards.store(key, record, Marks(**fields), now, found)


class TestWrites:
    def test_only_over_what_was_found(self, shards):
        assert store(shards, b"\x10k", b"one", found=b"other") == 0
        assert store(shards, b"\x10k", b"one", found=None) == 1
        assert store(shards, b"\x10k", b"two", found=None) == 0
        assert store(shards, b"\x10k", b"two", found=b"on") == 0
        assert store(shards, b"\x10k", b"two", found=b"one") == 1
        assert shards.get(b"\x10k") == b"two"

    def test_large_ones_are_compared_as_well(self, shards):
        large, other = b"x" * 100_000, b"x" * 99_999 + b"y"
        store(shards, b"\x10k", large)
        assert store(shards, b"\x10k", b"two", found=other) == 0
        assert shards.remove(b"\x10k", 0, other) is False
        assert store(shards, b"\x10k", other, found=large) == 1
        assert shards.remove(b"\x10k", 0, other) is True
        assert shards.get(b"\x10k") is None

    def test_an_exchange_keeps_what_is_known(self, shards):
        store(shards, b"\x10k", b"one", expires_at=5_000_000, tags=(b"1234567",))
        store(shards, b"\x10l", b"one")
        assert shards.exchange([(b"\x10k", b"one", b"two"), (b"\x10l", b"else", b"two")]) == 1
        assert (shards.get(b"\x10k"), shards.get(b"\x10l")) == (b"two", b"one")
        assert list(shards.scan_tagged(b"1234567", b"\x10", None, False)) == [b"\x10k"]
        assert shards.count_between(b"\x10", None, 4_999_999) == 2
        assert shards.count_between(b"\x10", None, 5_000_000) == 1

    def test_a_namespace_is_new_once_in_a_bucket_and_keeps_its_name(self, shards):
        there = {"prefix": b"\x04prefix", "name": b"name"}
        assert store(shards, b"\x04prefixkey", **there) == 2
        assert store(shards, b"\x04prefixkey", **there) == 1
        assert store(shards, b"\x04prefixkey", prefix=b"\x04prefix", name=b"other") == -1
        shards.forget_namespace(b"\x04prefix")
        assert store(shards, b"\x04prefixkey", prefix=b"\x04prefix", name=b"other") == 2

    def test_many_are_stored_where_what_was_found_is_still_there(self, shards):
        store(shards, b"\x10a")
        there = shards.get(b"\x10a")
        items = [(key, b"new", Marks()) for key in (b"\x10a", b"\x10b", b"\x10c")]
        assert shards.store_many(items, 0, [None, None, b"other"]) == [0, 1, 0]
        assert shards.store_many(items, 0, [there, b"new", None]) == [1, 1, 1]
        assert [shards.get(key) for key, _, _ in items] == [b"new"] * 3

    def test_thousands_at_once_of_any_size(self, shards):
        items = [(b"\x10%05d" % number, bytes(number % 1000), Marks()) for number in range(3000)]
        items += [(b"\x11%02d" % number, bytes(1 << 20), Marks()) for number in range(12)]
        assert shards.store_many(items, 0) == [1] * len(items)
        assert list(shards.scan(b"\x10")) == [(key, record) for key, record, _ in items]
        keys = [key for key, _, _ in items]
        assert shards.remove_many([*keys, b"\x10none"], 0) == [True] * len(items) + [False]
        assert shards.count() == 3  # what the library keeps: layout, identity, durability


class TestBooks:
    """What is kept beside the records: order, ends, tags."""

    def test_a_record_that_is_over_counts_no_more(self, shards):
        store(shards, b"\x10a", expires_at=10)
        store(shards, b"\x10b")
        assert shards.count_between(b"\x10", None, 9) == 2
        assert shards.count_between(b"\x10", None, 10) == 1
        assert shards.count_between(b"\x10", b"\x10b", 10) == 0
        assert list(shards.scan_live_keys(b"\x10", None, False, 9)) == [b"\x10a", b"\x10b"]
        assert list(shards.scan_live_keys(b"\x10", None, True, 10)) == [b"\x10b"]
        assert shards.remove(b"\x10a", 10, ANYTHING) is False
        assert shards.get(b"\x10a") is None

    def test_what_is_stored_anew_has_its_new_end_and_its_new_tags(self, shards):
        store(shards, b"\x10a", expires_at=10, tags=(b"1111111", b"2222222"))
        store(shards, b"\x10a", expires_at=20, tags=(b"2222222", b"3333333"))
        tagged = {tag: list(shards.scan_tagged(tag * 7, b"\x10", None, False)) for tag in (b"1", b"2", b"3")}
        assert tagged == {b"1": [], b"2": [b"\x10a"], b"3": [b"\x10a"]}
        assert shards.count_between(b"\x10", None, 15) == 1
        store(shards, b"\x10a")
        assert shards.count_between(b"\x10", None, 1 << 50) == 1
        assert list(shards.scan_tagged(b"2222222", b"\x10", None, False)) == []

    def test_each_write_sweeps_a_little(self, engine, shards):
        layout = engine._layout
        keys = [b"\x10%d" % number for number in range(100)]
        bucket = layout.bucket(keys[0])
        same = [key for key in keys if layout.bucket(key) == bucket][:4]
        for key in same[:3]:
            store(shards, key, expires_at=1_000_000)
        store(shards, same[3], now=1_000_000)
        assert sorted(shards.scan_keys(b"\x10"))[:-1] == sorted(same[2:])[:-1]
        assert len(list(shards.scan_keys(b"\x10"))) == 2
        store(shards, same[3], now=1_000_000)
        assert list(shards.scan_keys(b"\x10")) == [same[3]]

    def test_a_sweep_takes_what_is_over_in_one_namespace(self, shards):
        users = {"prefix": b"\x04prefix", "name": b"name"}
        for number in range(1500):
            store(shards, b"\x10%d" % number, expires_at=1_000_000)
        for number in range(20):
            store(shards, b"\x04prefix%d" % number, expires_at=1_000_000, **users)
            store(shards, b"\x04prefix%d" % (number + 100), expires_at=2_000_000, **users)
        assert shards.sweep(b"", 999_999) == 0
        assert shards.sweep(b"\x04prefix", 1_000_000) == 20
        assert shards.sweep(b"", 1_000_000) == 1500
        assert shards.sweep(b"", 1_000_000) == 0
        assert len(list(shards.scan_keys(b"\x04", b"\x10"))) == 20

    def test_a_record_that_the_server_dropped_leaves_the_index_when_it_is_missed(self, engine, shards):
        for key in LETTERS:
            store(shards, key)
        slot, name = shards._place(LETTERS[1])
        engine._router.call(slot, (b"DEL", name))
        left = [key for key in LETTERS if key != LETTERS[1]]
        assert list(shards.scan_keys(b"\x10")) == LETTERS
        assert [key for key, _ in shards.scan(b"\x10")] == left
        assert list(shards.scan_keys(b"\x10")) == left

    def test_an_audit_sees_the_indexes_as_a_tree_has_them(self, engine, shards):
        store(shards, b"\x10a", b"record", expires_at=10**9, tags=(b"1234567",))
        found = dict(engine.audited())
        assert found[b"\x02" + (10**9).to_bytes(7, "big") + b"\x10a"] == b""
        assert found[b"\x031234567\x10a"] == found[b"\x06\x10a"] == b""
        assert found[b"\x10a"] == b"record"


class TestWithoutAnIndex:
    def test_everything_is_found_in_no_order(self, bare):
        shards = bare.read()
        keys = [b"\x10%d" % number for number in range(2500)]
        shards.store_many([(key, b"record", Marks()) for key in keys], 0)
        assert sorted(shards.scan_keys(b"\x10")) == sorted(keys)
        assert dict(shards.scan(b"\x10")) == dict.fromkeys(keys, b"record")
        assert sorted(shards.scan_keys(b"\x103", b"\x105")) == sorted(key for key in keys if b"\x103" <= key < b"\x105")
        assert shards.count_between(b"\x10", None, 0) == len(keys)
        assert shards.remove_between(b"\x103", b"\x105", 0) == sum(b"\x103" <= key < b"\x105" for key in keys)
        assert shards.remove_between(b"\x10", None, 0) > 0
        assert list(shards.scan_keys(b"\x10")) == []

    def test_order_is_refused(self, bare):
        assert "ordered" not in bare.capabilities
        with pytest.raises(UnsupportedOperation, match=r"reverse order .* has no index.*index=yes"):
            list(bare.read().scan_keys(b"\x10", None, True))

    def test_conditions_hold_all_the_same(self, bare):
        shards = bare.read()
        assert store(shards, b"\x10k", b"one", found=None) == 1
        assert store(shards, b"\x10k", b"two", found=None) == 0
        assert store(shards, b"\x10k", b"two", found=b"one") == 1
        assert shards.remove(b"\x10k", 0, b"one") is False
        assert shards.remove(b"\x10k", 0, ANYTHING) is True
        assert shards.remove(b"\x10k", 0, ANYTHING) is False


class TestWalks:
    @given(
        st.lists(st.lists(st.binary(max_size=2), unique=True).map(sorted), max_size=6),
        st.booleans(),
        st.integers(0, 3),
    )
    def test_many_orders_become_one(self, buckets, reverse, hidden):
        """Whatever lies in which bucket, and also where pages hide some of what they looked at."""
        asked = []

        def pages(wanted, count):
            asked.append(len(wanted))
            answers = []
            for bucket, position in wanted:
                keys = sorted(buckets[bucket], reverse=reverse)
                rest = [key for key in keys if position is None or (key < position if reverse else key > position)]
                page = rest[:count]
                shown = [key for key in page if len(key) != hidden]
                answers.append((shown, page[-1] if len(page) == count else None))
            return answers

        found = list(itertools.chain.from_iterable(walk(range(len(buckets)), pages, reverse)))
        expected = (key for keys in buckets for key in keys if len(key) != hidden)
        assert found == sorted(expected, reverse=reverse)

    def test_a_walk_that_ends_early_asks_for_little(self):
        counts = []

        def pages(wanted, count):
            counts.append(count)
            return [([b"%d" % bucket] * count, b"%d" % bucket) for bucket, _ in wanted]

        next(walk(range(100), pages, False))
        assert counts == [4]


class TestLeases:
    def test_a_claim_that_nobody_renews_ends(self, engine, monkeypatch):
        monkeypatch.setattr(leases, "LEASE", 0.2)
        claim = engine.claim(b"name")
        monkeypatch.setattr(leases, "LEASE", 60)
        token, engine._leases._held = claim.token, {}  # as of a process that is no more
        other = wait_for(lambda: engine.claim(b"name"))
        assert other.token != token
        claim.release()  # which is not his any more
        assert engine.claim(b"name") is None

    def test_a_claim_is_renewed_as_long_as_it_is_held(self, engine, monkeypatch):
        monkeypatch.setattr(leases, "LEASE", 0.5)
        monkeypatch.setattr(leases, "_RENEWED_EVERY", 0.05)
        claim = engine.claim(b"name")
        ends = time.monotonic() + 1.2
        while time.monotonic() < ends:
            assert engine.claim(b"name") is None
            time.sleep(0.05)
        claim.release()
        assert engine.claim(b"name") is not None

    def test_who_waits_in_another_process_is_seen(self, engine):
        claim = engine.claim(b"name")
        assert result(lambda: engine.await_claim(b"name").poll()) is None
        assert claim.is_awaited()

    def test_many_processes_and_one_claim(self, engine):
        claim = engine.claim(b"name")
        assert result(lambda: engine.claim(b"name")) is None
        claim.release()


class TestSharing:
    def test_one_engine_for_all_who_open_one_location(self, cluster):
        url = cluster.url(f"shared-{os.getpid()}")
        first = connect(url, "c", {}, None)
        second = connect(url, "c", {}, None)
        assert first is second
        first.release()
        second.store_again = second.read().store(b"\x10k", b"record", Marks(), 0, ANYTHING)
        assert second.get(b"\x10k") == b"record"
        second.release()
        third = connect(url, "w", {}, None)
        assert third is not first
        assert user_keys(third.read()) == [b"\x10k"]
        third.release()

    def test_many_threads(self, engine):
        errors = []

        def work(number):
            try:
                shards = engine.read()
                for turn in range(40):
                    key = b"\x10%d-%d" % (number, turn)
                    store(shards, key, b"%d" % turn)
                    assert shards.get(key) == b"%d" % turn
            except BaseException as exc:
                errors.append(exc)
                raise

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert len(user_keys(engine.read())) == 320


def wait_for(function, seconds=10):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        found = function()
        if found is not None:
            return found
        time.sleep(0.01)
    raise AssertionError("it never came")
