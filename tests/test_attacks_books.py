"""Attacks on the books: the catalog of namespaces, the counts and the state, rewritten by anybody.

They are not sealed: whoever can write the file can make a count lie, as he can take records away.  But a lie runs no
code, gives no false value, ends in an error of the library's own, and a check tells.
"""

from __future__ import annotations

import pickle
import struct
from contextlib import suppress

import attacker
import pytest
from attacker import (
    SEALINGS,
    headed,
    nothing_runs,  # noqa: F401
    open_sealed,
    plain,
    plant,
    refuses,
    tree_key,
)

import objstore
from objstore import BadSignature, Store, StoreCorrupt, StoreError
from objstore.space import STATE_KEY as STATE
from objstore.space import Space

pytestmark = pytest.mark.usefixtures("forked_checks")

VICTIM = "victim"

sealed_either_way = pytest.mark.parametrize("sealing", SEALINGS)


class TestCatalog:
    @pytest.fixture
    def safe(self, location):
        """A store whose codec runs no code, and a namespace of it with a planted pickle."""
        with Store(location, codec="msgpack") as store:
            users = store.namespace("users")
            users["a"] = 1
            place = tree_key(users, VICTIM)
            users[VICTIM] = 2
            plant(store, place, plain(place))
            yield store, users

    def catalog(self, store, users, name, count=2):
        plant(store, users._space._catalog_key, struct.pack("<Q", count) + name)

    def test_a_codec_that_runs_code_is_not_taken_on_trust(self, safe):
        store, users = safe
        self.catalog(store, users, b"users\xffpickle")
        for source in (store, store.snapshot()):
            with pytest.raises(StoreError, match="runs code"):
                source.namespace("users")
        with store.transaction() as txn, pytest.raises(StoreError, match="runs code"):
            txn.namespace("users")
        # A handle that is open stays what it is.
        refuses(users, VICTIM, objstore.DecodeError)
        assert users["a"] == 1

    @pytest.mark.parametrize("codec", [b"json", b"bytes", b"mine", b"", b"\xff", b"pickle\0", b"PICKLE", b"\xc3"])
    def test_nor_does_another_one_unpickle(self, safe, codec):
        store, users = safe
        self.catalog(store, users, b"users\xff" + codec)
        with suppress(StoreError):
            refuses(store.namespace("users"), VICTIM, StoreError)
        refuses(users, VICTIM, objstore.DecodeError)

    @pytest.mark.parametrize("codec", ["msgpack", "json", "bytes"])
    def test_nor_where_the_codec_was_named(self, safe, codec):
        store, users = safe
        self.catalog(store, users, b"users\xffpickle")
        with pytest.raises(StoreError):
            store.namespace("users", codec=codec)
        self.catalog(store, users, b"users\xff" + codec.encode())
        with suppress(StoreError):
            refuses(store.namespace("users", codec=codec), VICTIM, StoreError)

    def test_an_allow_list_holds_for_namespaces(self, location):
        with Store(location, codec=objstore.Pickle(allow=[])) as store:
            users = store.namespace("users")
            users[VICTIM] = 1
            place = tree_key(users, VICTIM)
            plant(store, place, plain(place))
            for name in (b"users", b"users\xffpickle"):
                self.catalog(store, users, name, 1)
                refuses(store.namespace("users"), VICTIM, objstore.DecodeError)

    @pytest.mark.parametrize(
        "stored",
        [
            b"",
            b"\1",
            bytes(7),
            bytes(8),
            bytes(8) + b"other",
            bytes(8) + b"\xfe",
            bytes(8) + b"u" * 2000,
            bytes(8) + b"\0",
        ],
    )
    def test_what_is_no_entry(self, safe, stored):
        store, users = safe
        plant(store, users._space._catalog_key, stored)
        with pytest.raises(StoreError):
            store.namespace("users")
        with suppress(StoreError):
            store.namespaces()
        assert users["a"] == 1
        assert not store.check().ok

    @sealed_either_way
    def test_in_a_sealed_store_a_record_says_which_codec_it_has(self, location, sealing):
        with open_sealed(location, sealing, codec="pickle") as store:
            numbers = store.namespace("numbers", codec="msgpack")
            numbers[VICTIM] = pickle.dumps(attacker.Canary())
            plant(store, numbers._space._catalog_key, struct.pack("<Q", 1) + b"numbers\xffpickle")
            refuses(store.namespace("numbers"), VICTIM, BadSignature)
            plant(store, numbers._space._catalog_key, struct.pack("<Q", 1) + b"numbers")
            refuses(store.namespace("numbers"), VICTIM, BadSignature)


class TestCounts:
    """A wrong count is believed where it can be; where it cannot, the store says that it is damaged."""

    @pytest.mark.parametrize("count", [500, (1 << 64) - 1])
    @pytest.mark.parametrize(
        "action", [len, repr, list, lambda store: store.stats()], ids=["len", "repr", "list", "stats"]
    )
    def test_more_others_than_there_are_items(self, location, count, action):
        with Store(location) as store:
            store["a"] = 1
            plant(store, STATE, struct.pack("<BQ", 0, count))
            with suppress(StoreError):
                action(store)
            assert store["a"] == 1

    @pytest.mark.parametrize("action", [len, repr], ids=["len", "repr"])
    def test_more_items_than_there_can_be(self, location, action):
        with Store(location) as store:
            users = store.namespace("users")
            users["a"] = 1
            plant(store, users._space._catalog_key, struct.pack("<Q", (1 << 64) - 1) + b"users")
            with suppress(StoreError):
                action(users)

    @pytest.mark.parametrize(
        ("count", "action"),
        [
            (0, lambda store, users: users.clear()),
            (0, lambda store, users: users.delete("a")),
            (0, lambda store, users: store.drop_namespace("users")),
            ((1 << 64) - 1, lambda store, users: users.__setitem__("new", 1)),
        ],
        ids=["clear", "delete", "drop", "set"],
    )
    def test_a_count_that_would_be_less_than_nothing_or_too_much(self, location, count, action):
        with Store(location) as store:
            users = store.namespace("users")
            users["a"] = 1
            plant(store, users._space._catalog_key, struct.pack("<Q", count) + b"users")
            with suppress(StoreError):
                action(store, users)
            assert store.check() is not None

    @pytest.mark.parametrize("action", [list, lambda users: list(users.items()), lambda users: list(users.range())])
    def test_a_count_takes_no_memory(self, location, action):
        with Store(location) as store:
            users = store.namespace("users")
            users["a"] = 1
            plant(store, users._space._catalog_key, struct.pack("<Q", 1 << 60) + b"users")
            with suppress(StoreError):
                action(users)

    @pytest.mark.parametrize("state", [None, b"", bytes(1), bytes(8), bytes(10)])
    def test_a_state_that_is_none(self, location, state):
        with Store(location) as store:
            store["a"] = 1
            plant(store, STATE, state)
            for action in (len, repr, list, lambda each: each.set("b", 1, ttl=5), lambda each: each.delete("a")):
                with pytest.raises(StoreCorrupt):
                    action(store)
            assert store["a"] == 1
            assert not store.check().ok

    @pytest.mark.parametrize("state", [None, b""])
    def test_nor_does_in_believe_it(self, location, state):
        with Store(location) as store:
            store["a"] = 1
            plant(store, STATE, state)
            with suppress(StoreCorrupt):
                assert "a" in store

    def test_flags_that_were_cleared_or_set(self, location, clock):
        with Store(location, clock=clock) as store:
            store.set("a", 1, ttl=5, tags=("tag",))
            store["b"] = 2
            for flags in (0, 1, 2, 3, 255):
                plant(store, STATE, bytes([flags]) + stolen_state(store)[1:])
                assert dict(store) == {"a": 1, "b": 2}
                store["c"] = 3
                assert store.delete("c")
            clock.advance(6)
            plant(store, STATE, bytes(1) + stolen_state(store)[1:])
            assert store.get("a") is None


def stolen_state(store):
    return store._engine.get(STATE)


class _StillGoing(Exception):
    pass


class TestRecordsThatContradictThemselves:
    """Without a seal a record may say what no record says: it is there for one look and absent for the other."""

    @pytest.fixture(
        params={
            "expires before 1970": (1, struct.pack("<q", -1)),
            "has another key": (4, struct.pack("<I", 6) + b"\x40other"),
        }.items(),
        ids=lambda param: param[0],
    )
    def attacked(self, request, location, monkeypatch):
        flags, fields = request.param[1]
        with Store(location) as store:
            store["a"] = store[VICTIM] = 1
            place = tree_key(store, VICTIM)
            plant(store, place, headed(place, pickle.dumps(2, 5), flags=flags, fields=fields))
            looks = []
            genuine = Space.unusual_value

            def counted(*arguments):
                looks.append(arguments)
                if len(looks) > 50:
                    raise _StillGoing
                return genuine(*arguments)

            monkeypatch.setattr(Space, "unusual_value", counted)
            yield store

    @pytest.mark.parametrize("action", [lambda store: store.popitem(), lambda store: store.setdefault(VICTIM, 5)])
    def test_nobody_goes_round_for_ever(self, attacked, action):
        with suppress(StoreError):
            action(attacked)

    @pytest.mark.parametrize(
        "action", [lambda store: store[VICTIM], lambda store: store.increment(VICTIM), lambda store: store.pop(VICTIM)]
    )
    def test_what_is_there_can_be_read_or_is_refused(self, attacked, action):
        assert VICTIM in attacked
        with suppress(StoreError):
            action(attacked)

    def test_the_rest_is_as_it_was(self, attacked):
        assert attacked["a"] == 1
        assert attacked.delete(VICTIM)
        assert list(attacked) == ["a"]
