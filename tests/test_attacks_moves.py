"""Attacks with genuine records: to another key, namespace or store, by somebody without the key.

Each record is right where it was sealed, and nowhere else.  What no seal can tell is time: an older record of the same
key, namespace and store is valid for ever, as is the lack of one.  The tests at the end say so.
"""

from __future__ import annotations

import shutil

import pytest
from attacker import (
    SEALINGS,
    fitting,
    head_of,
    nothing_runs,  # noqa: F401
    open_sealed,
    plant,
    refuses,
    rewrite,
    rewritten,
    stolen,
    the_file,
    tree_key,
)

import objstore
from objstore import BadSignature, Store, keys
from objstore.engines.base import IDENTITY_KEY
from objstore.record import read_header

pytestmark = pytest.mark.usefixtures("forked_checks")

LONG = "x" * 600

every_sealing = pytest.mark.parametrize("sealing", SEALINGS)


@pytest.fixture(params=SEALINGS)
def sealed(request, location):
    with open_sealed(location, request.param) as store:
        yield store


def moved(stored, place):
    """A record as it is, with the digest that it needs under another tree key."""
    return fitting(place, head_of(stored))


def move(source, key, target, other):
    """Put the record of a key under another one, which has one already."""
    place = tree_key(target, other)
    plant(target, place, moved(stolen(source, key), place))


class TestToAnotherKey:
    @pytest.mark.parametrize(
        ("key", "other"),
        [
            ("me", "you"),
            ("1", 1),
            (b"me", "me"),
            (("a", "b"), ("ab",)),
            (("a", "b"), "a"),
            ("me", LONG),
            (LONG, "me"),
            (LONG + "me", LONG + "you"),
            (("x" * 600, 1), ("x" * 600, 2)),
            (10**400, 10**400 + 1),
        ],
    )
    def test_it_is_refused(self, sealed, key, other):
        sealed[key] = "mine"
        sealed[other] = "yours"
        move(sealed, key, sealed, other)
        refuses(sealed, other, BadSignature)
        assert sealed[key] == "mine"
        assert len(list(sealed)) == 2  # one of them as a LostKey, where a long key is lost with its record
        assert sealed.delete(other)

    def test_nor_may_a_long_key_be_written_anew(self, sealed):
        """Long keys share what the tree holds of them; the whole one is in the header, which the seal covers."""
        mine, yours = LONG + "me", LONG + "you"
        sealed[mine], sealed[yours] = "mine", "yours"
        place = tree_key(sealed, yours)
        plant(sealed, place, rewritten(place, stolen(sealed, mine), long_key=keys.encode(yours)))
        refuses(sealed, yours, BadSignature)
        assert list(sealed) == [mine, yours]

    def test_swapped_both_ways(self, sealed):
        sealed["me"], sealed["you"], sealed["she"] = 1, 2, 3
        mine = stolen(sealed, "me")
        move(sealed, "you", sealed, "me")
        plant(sealed, tree_key(sealed, "you"), moved(mine, tree_key(sealed, "you")))
        refuses(sealed, "me", BadSignature)
        refuses(sealed, "you", BadSignature)
        assert sealed["she"] == 3

    def test_to_a_key_that_was_not_there(self, sealed):
        sealed["me"] = 1
        move(sealed, "me", sealed, "new")
        refuses(sealed, "new", BadSignature)
        assert len(sealed) == 2


class TestToAnotherNamespace:
    @pytest.mark.parametrize(
        ("one", "other"), [("users", "admins"), ("", "users"), ("users", ""), ("a", "a\0"), ("a", "\ud800")]
    )
    def test_it_is_refused(self, sealed, one, other):
        source = sealed.namespace(one) if one else sealed
        target = sealed.namespace(other) if other else sealed
        source["root"] = "from here"
        target["root"] = "from there"
        move(source, "root", target, "root")
        refuses(target, "root", BadSignature)
        assert source["root"] == "from here"
        assert "root" in target
        assert target.delete("root")

    def test_nor_by_another_name_in_the_catalog(self, sealed):
        """The catalog is not sealed; whoever renames a namespace makes its records unreadable."""
        users = sealed.namespace("users")
        users["root"] = 1
        place = users._space._catalog_key
        admins = sealed.namespace("admins")
        plant(sealed, admins._space._catalog_key, sealed._engine.get(place)[:8] + b"admins")
        target = tree_key(admins, "root")
        plant(sealed, target, moved(stolen(users, "root"), target))
        plant(sealed, place, None)
        assert sealed.namespaces() == ["admins"]
        refuses(sealed.namespace("admins"), "root", BadSignature)

    def test_nor_from_one_that_was_dropped(self, sealed):
        users = sealed.namespace("users")
        users["root"] = 1
        place, mine = tree_key(users, "root"), stolen(users, "root")
        sealed.drop_namespace("users")
        others = sealed.namespace("others")
        others["root"] = 2
        plant(sealed, tree_key(others, "root"), moved(mine, tree_key(others, "root")))
        refuses(others, "root", BadSignature)
        # Under its own key it is what it was: a rollback.
        plant(sealed, place, mine)
        assert users["root"] == 1


class TestToAnotherStore:
    def test_with_the_same_key_it_is_refused(self, sealed):
        with open_sealed("memory://", sealed.stats().sealing) as other:
            other["root"] = sealed["root"] = 1
            move(other, "root", sealed, "root")
            refuses(sealed, "root", BadSignature)
            assert other["root"] == 1

    @every_sealing
    def test_nor_when_its_identity_comes_along(self, tmp_path, sealing):
        """An identity is sealed, too, and valid wherever it is put: then the store's own records are refused."""
        paths = [tmp_path / "one.store", tmp_path / "two.store"]
        for number, path in enumerate(paths):
            with open_sealed(path, sealing) as store:
                store["number"] = number
                store["only here", number] = number
        with the_file(paths[0]) as txn:
            identity = txn.get(IDENTITY_KEY)
            foreign = txn.get(keys.tree_key("number"))
        rewrite(paths[1], {IDENTITY_KEY: identity})
        with open_sealed(paths[1], sealing) as store:
            refuses(store, "number", BadSignature)
            refuses(store, ("only here", 1), BadSignature)
        # Nothing of the two is mixed: what is read in it now is of the first one.
        rewrite(paths[1], {keys.tree_key("number"): foreign})
        with open_sealed(paths[1], sealing) as store:
            assert store["number"] == 0
            refuses(store, ("only here", 1), BadSignature)

    @every_sealing
    def test_one_that_was_made_anew_in_its_place_is_another(self, tmp_path, sealing):
        with open_sealed(tmp_path / "a.store", sealing) as store:
            store["root"] = "old"
            old = stolen(store, "root")
        with open_sealed(tmp_path / "a.store", sealing, flag="n") as store:
            store["root"] = "new"
            plant(store, tree_key(store, "root"), old)
            refuses(store, "root", BadSignature)


class TestWhatNoSealTells:
    """A rollback, or a deletion, is not seen: these tests say what is not promised."""

    def test_an_older_record_of_the_same_key_is_valid(self, sealed):
        sealed["money"] = 5
        old = stolen(sealed, "money")
        sealed["money"] = 4
        plant(sealed, tree_key(sealed, "money"), old)
        assert sealed["money"] == 5

    def test_so_is_one_that_was_deleted(self, sealed):
        sealed["money"] = 5
        old = stolen(sealed, "money")
        del sealed["money"]
        plant(sealed, tree_key(sealed, "money"), old)
        assert sealed["money"] == 5

    def test_a_record_that_is_taken_away_is_just_not_there(self, sealed):
        sealed["money"] = 5
        plant(sealed, tree_key(sealed, "money"), None)
        assert "money" not in sealed
        assert len(sealed) == 0

    @every_sealing
    def test_a_backup_is_the_same_store(self, tmp_path, sealing):
        """Both have one id, and records go from one to the other: so a backup can be put back in part."""
        with open_sealed(tmp_path / "a.store", sealing) as store:
            store["money"] = 5
            store.backup(tmp_path / "b.store")
            store["money"] = 4
            with open_sealed(tmp_path / "b.store", sealing) as backup:
                assert backup.stats().id == store.stats().id
                plant(store, tree_key(store, "money"), stolen(backup, "money"))
            assert store["money"] == 5

    @every_sealing
    def test_nor_is_an_older_file(self, tmp_path, sealing):
        path = tmp_path / "a.store"
        with open_sealed(path, sealing) as store:
            store["money"] = 5
        shutil.copy(path / "data.mdb", tmp_path / "old")
        with open_sealed(path, sealing) as store:
            store["money"] = 4
        shutil.copy(tmp_path / "old", path / "data.mdb")
        with open_sealed(path, sealing) as store:
            assert store["money"] == 5

    def test_names_counts_keys_tags_and_expiry_can_be_seen_by_everybody(self, sealed):
        sealed.set("secret value, open key", "hidden", tags=("open tag",))
        stored = stolen(sealed, "secret value, open key")
        header = read_header(stored, len(stored))
        assert header.tags == ("open tag",)
        assert (b"hidden" in stored) == (sealed.stats().sealing == "signed")

    def test_entries_show_what_a_record_says_before_its_seal_is_verified(self, sealed):
        """`entry` is for what is there, damaged or forged: `value` alone is verified."""
        sealed.set("key", 1, tags=("true",))
        place = tree_key(sealed, "key")
        plant(sealed, place, rewritten(place, stolen(sealed, "key"), tags=("false",)))
        assert sealed.entry("key").tags == ("false",)
        refuses(sealed, "key", BadSignature)
        with pytest.raises(BadSignature):
            sealed.touch("key", 5)


@every_sealing
def test_with_salvage_nothing_moves_either(tmp_path, sealing):
    with open_sealed(tmp_path / "a.store", sealing) as store:
        store["me"], store["you"], store["she"] = 1, 2, 3
        move(store, "you", store, "me")
    report = objstore.salvage(tmp_path / "a.store", tmp_path / "b.store", **SEALINGS[sealing])
    assert [each.key for each in report.lost] == ["me"]
    with open_sealed(tmp_path / "b.store", sealing) as store:
        assert dict(store) == {"you": 2, "she": 3}


def test_stores_that_are_not_sealed_promise_none_of_this(location):
    with Store(location, codec="json") as store:
        store["me"], store["you"] = 1, 2
        move(store, "you", store, "me")
        assert store["me"] == 2
