"""Attacks on the identity of a store: it says whether records are sealed, and in which codec they are.

That of a sealed store is sealed itself, and whoever opens the store with its key takes no other one.  Who opens it
without a key believes what he finds, and so must name a codec that runs no code, or forbid pickles.
"""

from __future__ import annotations

import json
import struct
from contextlib import suppress

import attacker
import pytest
from attacker import (
    KEY,
    OTHER,
    SEALINGS,
    WITHOUT_KEY,
    fitting,
    nothing_runs,  # noqa: F401
    open_sealed,
    plain,
    plant,
    refuses,
    rewrite,
    stolen,
    the_file,
    tree_key,
)

import objstore
from objstore import BadSignature, Store, StoreCorrupt, StoreError, identity
from objstore.audit import audit
from objstore.codecs.keyring import keys_of
from objstore.engines.base import IDENTITY_KEY
from objstore.engines.lmdb import registry
from objstore.space import STATE_KEY as STATE

pytestmark = pytest.mark.usefixtures("forked_checks")

VICTIM = "victim"

sealed_either_way = pytest.mark.parametrize("sealing", SEALINGS)


def text_of(stored):
    return json.loads(stored[:-8])


def with_fields(stored, **changed):
    """An identity that says something else; `...` leaves a field out."""
    said = {**text_of(stored), **changed}
    text = json.dumps({name: value for name, value in said.items() if value is not ...}).encode()
    return fitting(IDENTITY_KEY, text)


def given(signing_key=False, encryption_key=False):
    return keys_of(signing_key, encryption_key)


def looks_right(path, **options):
    """Whether a check finds nothing: what it does in a process of its own, done here."""
    with the_file(path) as txn:
        found = audit(str(path), list(txn.cursor()), given(**options))
    return not (found.damaged or found.problems)


LIES = {
    "not sealed": {"sealing": None},
    "not sealed, and nothing of seals": {"sealing": None, "mac": ..., "key": ...},
    "sealing left out": {"sealing": ...},
    "sealed in a new way": {"sealing": "blessed"},
    "sealing of another type": {"sealing": True},
    "sealing empty": {"sealing": ""},
    "another codec": {"codec": "pickle"},
    "a codec of somebody's own": {"codec": "mine"},
    "no codec": {"codec": None},
    "codec left out": {"codec": ...},
    "codec of another type": {"codec": ["pickle"]},
    "another id": {"id": "0" * 32},
    "id left out": {"id": ...},
    "another kind": {"kind": "Cache"},
    "no kind": {"kind": None},
    "another time": {"created": "2000-01-01T00:00:00+00:00"},
    "no time": {"created": None},
    "another key": {"key": "00" * 8},
    "no key": {"key": None},
    "a key that is none": {"key": "no key"},
    "a key of another type": {"key": 7},
    "no code": {"mac": None},
    "code left out": {"mac": ...},
    "empty code": {"mac": ""},
    "zero code": {"mac": "00" * 32},
    "code of another type": {"mac": 5},
    "a list as code": {"mac": ["00"]},
    "format of another type": {"format": "1"},
    "format as a list": {"format": [1]},
    "no format": {"format": None},
    "a later format": {"format": 2},
    "other digests": {"digest": "none"},
    "a field more": {"trusted": True},
    "code of letters": {"mac": "\xe9" * 64},
    "no id": {"id": None},
}

TEXTS = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"7",
    b'"text"',
    b"1e999",
    b"NaN",
    b"\xff\xfe",
    b"1" * 5000,
    b"{",
    b'{"format": 1}',
]


class TestIdentity:
    @pytest.fixture(params=SEALINGS)
    def attacked(self, request, tmp_path):
        """The path of a sealed store that nobody has open, and how it is sealed."""
        path = tmp_path / "a.store"
        with open_sealed(path, request.param, codec="msgpack") as store:
            store["a"] = 1
            place = tree_key(store, VICTIM)
        rewrite(path, {place: plain(place)})
        return path, request.param

    def change(self, path, **changed):
        with the_file(path) as txn:
            txn.put(IDENTITY_KEY, with_fields(txn.get(IDENTITY_KEY), **changed))

    @pytest.mark.parametrize("lie", LIES)
    def test_who_has_the_key_takes_no_other(self, attacked, lie):
        path, sealing = attacked
        self.change(path, **LIES[lie])
        for options in ({}, {"codec": "msgpack"}, {"codec": "pickle"}, {"flag": "r"}):
            with pytest.raises(StoreError) as caught:
                open_sealed(path, sealing, **options)
            assert KEY.hex() not in str(caught.value)
        assert not looks_right(path, **SEALINGS[sealing])
        with pytest.raises(StoreError):
            objstore.salvage(path, path.with_name("b.store"), **SEALINGS[sealing])

    @pytest.mark.parametrize("other", ["signed", "encrypted"])
    def test_nor_the_other_kind_with_the_same_key(self, attacked, other):
        path, sealing = attacked
        self.change(path, sealing=other)
        with suppress(BadSignature):
            with open_sealed(path, other) as store:
                assert other == sealing
                refuses(store, VICTIM)

    @pytest.mark.parametrize("lie", LIES)
    def test_who_has_none_runs_into_nothing_else_than_errors(self, attacked, lie):
        """Without the key there is nothing to compare; with a codec that runs no code, nothing runs all the same."""
        path, _ = attacked
        self.change(path, **LIES[lie])
        with suppress(StoreError):
            with Store(path, codec="msgpack", **WITHOUT_KEY) as store:
                for key in (VICTIM, "a"):
                    with pytest.raises(StoreError):
                        store[key]
        assert not looks_right(path, **WITHOUT_KEY)  # the planted record is not sealed, others are

    def test_who_has_none_and_names_no_codec_believes_what_he_finds(self, attacked):
        """What a seal is for: a store that says it is not sealed is one, to somebody who expects no seal."""
        path, sealing = attacked
        self.change(path, sealing=None, codec="pickle")
        with Store(path, **WITHOUT_KEY) as store:
            store[VICTIM]
        assert attacker.ran.pop() == ("it ran",)
        with pytest.raises(BadSignature):
            open_sealed(path, sealing)

    def test_but_not_where_pickles_are_forbidden(self, attacked, monkeypatch):
        path, _ = attacked
        self.change(path, sealing=None, codec="pickle")
        monkeypatch.setenv("OBJSTORE_PICKLE", "forbid")
        with Store(path, **WITHOUT_KEY) as store:
            refuses(store, VICTIM, BadSignature)

    @pytest.mark.parametrize("text", TEXTS)
    def test_what_is_no_identity(self, attacked, text):
        path, sealing = attacked
        rewrite(path, {IDENTITY_KEY: fitting(IDENTITY_KEY, text)})
        for options in (SEALINGS[sealing], WITHOUT_KEY):
            with pytest.raises(StoreCorrupt):
                Store(path, **options)
            assert not looks_right(path, **options)

    @pytest.mark.parametrize("text", [b"[" * 200_000, b'{"a":' * 200_000])
    def test_a_bomb_of_json(self, attacked, text):
        path, sealing = attacked
        rewrite(path, {IDENTITY_KEY: fitting(IDENTITY_KEY, text)})
        assert not looks_right(path, **SEALINGS[sealing])
        for options in (SEALINGS[sealing], WITHOUT_KEY):
            with pytest.raises(StoreCorrupt):
                Store(path, **options)

    def test_every_flipped_bit(self, attacked):
        path, sealing = attacked
        with the_file(path) as txn:
            genuine = txn.get(IDENTITY_KEY)
        for bit in range(0, 8 * (len(genuine) - 8), 5):
            flipped = bytearray(genuine[:-8])
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises(StoreError):
                identity.check(
                    fitting(IDENTITY_KEY, flipped),
                    "here",
                    kind="Store",
                    codec=None,
                    keys=given(**SEALINGS[sealing]),
                )

    def test_one_of_another_key(self, attacked):
        path, sealing = attacked
        option = next(iter(SEALINGS[sealing]))
        with Store(path.with_name("other.store"), **{option: OTHER}) as other:
            foreign = other._engine.get(IDENTITY_KEY)
        rewrite(path, {IDENTITY_KEY: foreign})
        with pytest.raises(BadSignature):
            open_sealed(path, sealing)
        with Store(path, **{option: OTHER}) as store:
            refuses(store, VICTIM, BadSignature)
            refuses(store, "a", BadSignature)

    def test_it_is_missing(self, attacked):
        path, sealing = attacked
        rewrite(path, {IDENTITY_KEY: None})
        for options in (SEALINGS[sealing], WITHOUT_KEY):
            with pytest.raises(StoreCorrupt):
                Store(path, **options)

    def test_a_check_misses_it(self, tmp_path):
        with Store(tmp_path / "a.store") as store:
            store["a"] = 1
        with the_file(tmp_path / "a.store") as txn:
            flags, others = struct.unpack("<BQ", txn.get(STATE))
            txn.delete(IDENTITY_KEY)
            txn.put(STATE, struct.pack("<BQ", flags, others - 1))
        assert not looks_right(tmp_path / "a.store")


class TestIdentityInARace:
    """An adversary who writes while the store is being opened, or is open."""

    @sealed_either_way
    def test_what_was_verified_is_what_is_believed(self, location, sealing, monkeypatch):
        location = location if location != "memory://" else "memory://a race"
        genuine = identity.check
        with open_sealed(location, sealing, flag="n") as store:
            place = tree_key(store, VICTIM)
            plant(store, place, plain(place))

            def check_and_be_overtaken(*arguments, **options):
                genuine(*arguments, **options)
                plant(store, IDENTITY_KEY, with_fields(store._engine.get(IDENTITY_KEY), sealing=None))

            monkeypatch.setattr(identity, "check", check_and_be_overtaken)
            with suppress(BadSignature):
                with open_sealed(location, sealing) as raced:
                    raced[VICTIM]
        sang, attacker.ran[:] = list(attacker.ran), []
        assert sang == []

    @sealed_either_way
    def test_rekey_seals_no_identity_that_it_has_not_verified(self, sealing):
        option = next(iter(SEALINGS[sealing]))
        location = "memory://rekeyed"
        with Store(location, **{option: KEY}) as old:
            old["a"] = 1
            replayed = stolen(old, "a")
            with Store(location, **{option: [OTHER, KEY]}) as store:
                genuine = store.stats().id

                def meanwhile(_done, _total):
                    plant(store, tree_key(store, "a"), replayed)
                    lie = with_fields(store._engine.get(IDENTITY_KEY), id="chosen by the adversary", codec="json")
                    plant(store, IDENTITY_KEY, lie)

                with suppress(BadSignature):
                    store.rekey(progress=meanwhile)
                    store.rekey()
            with suppress(BadSignature):
                with Store(location, **{option: OTHER}) as opened:
                    assert opened.stats().id == genuine
                    assert opened.stats().codec == "pickle"


def test_no_store_was_left_open(tmp_path):
    """A store that refuses to open leaves nothing behind."""
    with open_sealed(tmp_path / "a.store", "signed"):
        pass
    before = set(registry.engines)
    for options in (SEALINGS["encrypted"], {"signing_key": OTHER}, {"signing_key": KEY, "codec": "json"}):
        with pytest.raises(StoreError):
            Store(tmp_path / "a.store", **options)
    assert set(registry.engines) == before
