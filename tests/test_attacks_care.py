"""Attacks on those who look after a store: check, salvage, rekey, backup, compact, and the command line.

They look at every record, so what is forged must neither stop nor fool them.  With a key they tell what is forged;
without one they tell what they did not verify.
"""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
from contextlib import suppress

import pytest
from attacker import (
    KEY,
    OTHER,
    SEALINGS,
    WITHOUT_KEY,
    Marker,
    fitting,
    head_of,
    headed,
    nothing_runs,  # noqa: F401
    open_sealed,
    patched,
    plain,
    plant,
    refuses,
    resized,
    rewrite,
    seal_at,
    stolen,
    tree_key,
)

import objstore
from objstore import BadSignature, LostKey, Store, StoreCorrupt, StoreError, keys
from objstore.audit import audit
from objstore.codecs.keyring import NO_KEYS, KeyRing, Keys

pytestmark = pytest.mark.usefixtures("forked_checks")

GENUINE = {"a": 1, "b": [2], ("c", 3): "three"}
OPTION = {"signed": "signing_key", "encrypted": "encryption_key"}

every_sealing = pytest.mark.parametrize("sealing", SEALINGS)


def forge(store):
    """Plant forged records of every kind; their keys."""
    genuine = stolen(store, "a")
    forged = {
        "changed": lambda place: patched(place, genuine, len(genuine) - 9, b"\xee"),
        "moved": lambda place: fitting(place, head_of(genuine)),
        "of another key": lambda place: patched(place, genuine, seal_at(genuine) + 1, b"\7" * 8),
        "plain": plain,
        "short": lambda place: resized(place, head_of(genuine)[:-1]),
        "unsealed": headed,
    }
    for key, make in forged.items():
        plant(store, tree_key(store, key), make(tree_key(store, key)))
    return list(forged)


@pytest.fixture(params=SEALINGS)
def attacked(request, tmp_path):
    """The path of a sealed store, closed, its keys, and the keys of its forged records."""
    path = tmp_path / "a.store"
    with open_sealed(path, request.param) as store:
        store.update(GENUINE)
        store.namespace("users").update(GENUINE)
        forged = forge(store)
    return path, SEALINGS[request.param], forged


NOT_SEALED = ["plain", "unsealed"]


class TestCheck:
    def test_with_the_key_it_names_what_is_forged(self, attacked):
        path, options, forged = attacked
        with Store(path, **options) as store:
            reports = [store.check()]
        reports.append(objstore.check(path, **options))
        for report in reports:
            assert not report.ok
            assert [damage.key for damage in report.damaged] == forged
            assert {damage.namespace for damage in report.damaged} == {""}
            assert all(damage.reason for damage in report.damaged)
            assert report.unverified == 0
            assert report.problems == ()

    def test_without_it_says_what_it_did_not_verify(self, attacked):
        path, _, forged = attacked
        with Store(path, **WITHOUT_KEY) as store:
            report = store.check()
        assert [damage.key for damage in report.damaged] == NOT_SEALED
        assert report.unverified == 2 * len(GENUINE) + len(forged) - len(NOT_SEALED)

    @pytest.mark.parametrize("option", OPTION.values())
    def test_a_wrong_key_verifies_nothing(self, attacked, option):
        path, _, _ = attacked
        report = objstore.check(path, **{option: OTHER})
        assert not report.ok
        assert any("key" in problem for problem in report.problems)

    def test_in_memory_it_is_the_same(self):
        for sealing in SEALINGS:
            with open_sealed("memory://", sealing) as store:
                store.update(GENUINE)
                forged = forge(store)
                assert [damage.key for damage in store.check().damaged] == forged

    def test_in_a_namespace_that_lost_its_name(self, attacked):
        path, options, _ = attacked
        with Store(path, **options) as store:
            place = store.namespace("users")._space._catalog_key
        rewrite(path, {place: None})
        report = objstore.check(path, **options)
        assert sum("its seal covers that" in damage.reason for damage in report.damaged) == len(GENUINE)


class TestSalvage:
    def test_with_the_key_it_takes_what_is_genuine(self, attacked, tmp_path):
        path, options, forged = attacked
        report = objstore.salvage(path, tmp_path / "b.store", **options)
        assert [damage.key for damage in report.lost] == forged
        assert report.entries == 2 * len(GENUINE)
        with Store(tmp_path / "b.store", **options) as store:
            assert dict(store) == dict(store.namespace("users")) == GENUINE
            assert store.check().ok

    def test_without_it_takes_seals_along_and_whoever_reads_verifies_them(self, attacked, tmp_path):
        path, options, forged = attacked
        objstore.salvage(path, tmp_path / "b.store", **WITHOUT_KEY)
        with Store(tmp_path / "b.store", **options) as store:
            assert store.stats().id
            for key in forged:
                if key in store:
                    refuses(store, key)
            assert {key: store[key] for key in GENUINE} == GENUINE

    def test_an_identity_that_is_lost_is_not_guessed(self, attacked, tmp_path):
        path, options, _ = attacked
        with Store(path, **options) as store:
            store_id = store.stats().id
        rewrite(path, {b"\0i": b"gone"})
        with pytest.raises(StoreCorrupt, match="store_id"):
            objstore.salvage(path, tmp_path / "b.store", **options)
        # A false id gives nothing, and a right one all.
        assert objstore.salvage(path, tmp_path / "c.store", store_id="0" * 32, **options).entries == 0
        assert objstore.salvage(path, tmp_path / "d.store", store_id=store_id, **options).entries == 2 * len(GENUINE)


class TestRekey:
    def test_what_is_forged_is_left_as_it_is_and_told(self, attacked):
        path, options, forged = attacked
        (name,) = options
        with Store(path, **{name: [OTHER, KEY]}) as store:
            before = {key: stolen(store, key) for key in forged}
            report = store.rekey()
            assert [damage.key for damage in report.refused] == forged
            assert report.resealed == 2 * len(GENUINE)
            assert report.needed == ()
            assert {key: stolen(store, key) for key in forged} == before
        with Store(path, **{name: OTHER}) as store:
            for key in forged:
                refuses(store, key, BadSignature)
            assert {key: store[key] for key in GENUINE} == dict(store.namespace("users")) == GENUINE

    def test_one_that_names_the_newest_key_is_no_work_for_it(self, attacked):
        """It is not sealed anew, and not made valid; a check finds it."""
        path, options, _ = attacked
        (name,) = options
        with Store(path, **{name: [OTHER, KEY]}) as store:
            stored = stolen(store, "a")
            plant(
                store,
                tree_key(store, "b"),
                patched(tree_key(store, "b"), stored, seal_at(stored) + 1, KeyRing([OTHER]).newest),
            )
            assert "b" not in [damage.key for damage in store.rekey().refused]
            refuses(store, "b", BadSignature)
            assert "b" in [damage.key for damage in store.check().damaged]

    def test_what_is_replayed_meanwhile_is_still_needed(self, attacked):
        """Somebody who puts old records back keeps the old key alive, which the report tells."""
        path, options, _ = attacked
        (name,) = options
        with Store(path, **{name: [OTHER, KEY]}) as store:
            place, old = tree_key(store, "a"), stolen(store, "a")
            report = store.rekey(progress=lambda _done, _total: plant(store, place, old))
            assert report.needed == (KeyRing([KEY]).newest.hex(),)
            assert store.rekey().needed == ()

    @pytest.mark.parametrize("options", [WITHOUT_KEY, {}])
    def test_without_a_key(self, attacked, options):
        path, _, _ = attacked
        with Store(path, **options) as store, pytest.raises(StoreError, match="open it with its keys"):
            store.rekey()


class TestBackupAndCompact:
    def test_a_record_that_is_not_sealed_is_told_before_it_is_copied(self, attacked, tmp_path):
        """Whoever can write can keep a store from being copied: with a record without a seal, as with damage."""
        path, options, _ = attacked
        with Store(path, **options) as store:
            for action in (lambda: store.backup(tmp_path / "b.store"), store.compact):
                with pytest.raises(StoreCorrupt, match="'plain'"):
                    action()
            assert {key: store[key] for key in GENUINE} == GENUINE
            for key in NOT_SEALED:
                assert store.delete(key)
            store.backup(tmp_path / "b.store")
            store.compact()
            refuses(store, "moved", BadSignature)
        assert not objstore.check(tmp_path / "b.store", **options).ok

    def test_seals_go_along(self, attacked, tmp_path):
        path, options, forged = attacked
        with Store(path, **options) as store:
            assert store.delete_many(forged) == len(forged)
            store.backup(tmp_path / "b.store")
        report = objstore.check(tmp_path / "b.store", **options)
        assert report.ok
        assert (report.entries, report.unverified) == (2 * len(GENUINE), 0)


class TestCommandLine:
    @pytest.fixture
    def command(self, attacked, monkeypatch):
        """Runs a command with the key in the environment; its exit code and what it prints."""
        testing = pytest.importorskip("click.testing", reason="the command line needs click")
        pytest.importorskip("rich", reason="the command line needs rich")
        from objstore.cli.commands import objstore as commands

        _, options, _ = attacked
        for name, key in options.items():
            monkeypatch.setenv(f"OBJSTORE_{name.upper()}", key.hex())

        def run(*arguments):
            result = testing.CliRunner().invoke(commands, list(map(str, arguments)), color=True)  # as on a terminal
            assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
            return result.exit_code, result.output

        return run

    def test_what_is_forged_is_refused_by_name(self, attacked, command):
        path, _, forged = attacked
        for key in forged:
            code, said = command("get", path, key)
            assert code == 1
            assert repr(key) in said
            assert "nothing of it was decoded" in said
        assert command("get", path, "b") == (0, "[2]\n")

    def test_it_is_listed_and_can_be_removed(self, attacked, command):
        path, _, forged = attacked
        assert set(command("ls", path)[1].split()) >= set(map(repr, ["moved", "plain", "short"]))
        code, said = command("ls", "-l", path)
        assert code == 0
        assert len(said.splitlines()) == len(GENUINE) + len(forged)
        assert command("delete", path, *forged) == (0, "")
        assert command("check", path)[0] == 0

    def test_check_rekey_salvage_and_info(self, attacked, command, tmp_path, monkeypatch):
        path, options, forged = attacked
        code, said = command("check", path)
        assert code == 1
        assert all(f"damaged: {key!r}" in said for key in forged)
        code, said = command("info", path)
        assert code == 0
        assert KEY.hex() not in said
        assert command("get", "--raw", path, "plain")[0] == 0
        assert command("salvage", path, tmp_path / "b.store")[0] == 1
        assert command("get", tmp_path / "b.store", "b") == (0, "[2]\n")
        (name,) = options
        monkeypatch.setenv(f"OBJSTORE_{name.upper()}", f"{OTHER.hex()},{KEY.hex()}")
        code, said = command("rekey", path)
        assert code == 1
        assert all(repr(key) in said for key in forged)
        assert KEY.hex() not in said
        assert OTHER.hex() not in said

    def test_without_the_key_it_says_which_is_missing(self, attacked, command, monkeypatch):
        path, options, _ = attacked
        (name,) = options
        monkeypatch.delenv(f"OBJSTORE_{name.upper()}")
        code, said = command("get", path, "a")
        assert code == 1
        assert f"no {name} was given" in said

    def test_in_a_process_of_its_own_nothing_runs(self, attacked, tmp_path):
        path, options, _ = attacked
        (name,) = options
        mark = tmp_path / "it ran"
        with Store(path, **options) as store:
            place = tree_key(store, "victim")
            plant(store, place, plain(place, pickle.dumps(Marker(mark), 5)))
        command = [sys.executable, "-m", "objstore", "get", str(path), "victim"]
        environment = {**os.environ, f"OBJSTORE_{name.upper()}": KEY.hex()}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
        assert done.returncode == 1
        assert not mark.exists()
        # Where there is no seal, it does run: the canary can sing.
        with Store(tmp_path / "b.store") as store:
            store["victim"] = 1
            plant(store, place, plain(place, pickle.dumps(Marker(mark), 5)))
        command[-2] = str(tmp_path / "b.store")
        subprocess.run(command, capture_output=True, timeout=60, check=True)
        assert mark.exists()

    def test_no_tag_writes_to_the_terminal(self, attacked, command):
        """What is printed of a record was written by anybody; a terminal obeys what it is sent."""
        path, options, _ = attacked
        with Store(path, **options) as store:
            tags = struct.pack("<HH", 1, 8) + b"\x1b[2Jgone"
            plant(store, tree_key(store, "plain"), headed(tree_key(store, "plain"), flags=2, fields=tags))
        code, said = command("ls", "-l", path)
        assert code == 0
        assert "\x1b" not in said

    def test_nor_does_an_identity(self, tmp_path, command, monkeypatch):
        for name in OPTION.values():
            monkeypatch.delenv(f"OBJSTORE_{name.upper()}", raising=False)
        with Store(tmp_path / "b.store") as store:
            text = store._engine.get(b"\0i")[:-8]
            plant(store, b"\0i", fitting(b"\0i", text.replace(b'"created": "', b'"created": "\\u001b[2J')))
        code, said = command("info", tmp_path / "b.store")
        assert code == 0
        assert "created" in said
        assert "\x1b" not in said

    def test_nor_ends_the_listing(self, attacked, command):
        path, options, _ = attacked
        with Store(path, **options) as store:
            tags = struct.pack("<HH", 1, 3) + b"\xed\xa0\x80"
            plant(store, tree_key(store, "plain"), headed(tree_key(store, "plain"), flags=2, fields=tags))
        assert command("ls", "-l", path)[0] == 0


class TestRecordsMadeToStopACheck:
    """What an attacker finds who reads the library."""

    @pytest.mark.parametrize("expires_at", [-1, -(1 << 63), (1 << 56), (1 << 63) - 1])
    def test_an_expiry_outside_of_time(self, tmp_path, expires_at):
        path = tmp_path / "a.store"
        with Store(path, codec="json") as store:
            store.update({"a": 1, "b": 2})
            place = tree_key(store, "b")
            plant(store, place, headed(place, b"2", codec=3, flags=1, fields=struct.pack("<q", expires_at)))
            found = audit("here", store._engine.read().scan(b""), NO_KEYS)
            assert [damage.key for damage in found.damaged] == ["b"] or found.problems
        report = objstore.salvage(path, tmp_path / "b.store")
        with Store(tmp_path / "b.store") as store:
            assert store["a"] == 1
        assert report.entries + len(report.lost) == 2

    def deep(self, store):
        encoded = b"\x80" * 100_000 + b"\0" * 100_000
        place = keys.shorten(encoded)
        plant(store, place, headed(place, flags=4, fields=struct.pack("<I", len(encoded)) + encoded))

    @pytest.mark.parametrize(
        "action",
        [
            list,
            lambda store: [entry.key for entry in store.entries()],
            lambda store: store.popitem(),
            lambda store: store.check(),
            lambda store: store.rekey(),
        ],
        ids=["list", "entries", "popitem", "check", "rekey"],
    )
    def test_a_key_deeper_than_any(self, action):
        with Store("memory://", signing_key=KEY) as store:
            store["a"] = 1
            self.deep(store)
            with suppress(StoreError):
                action(store)

    def test_such_a_key_can_be_deleted(self):
        with Store("memory://", signing_key=KEY) as store:
            store["a"] = 1
            self.deep(store)
            assert store["a"] == 1
            store.range(prefix=()).clear()
            assert store.check().ok

    @every_sealing
    def test_a_key_too_long_to_write(self, tmp_path, sealing):
        """An integer of 5,000 digits is a key like others; damage to its record is to be told as well."""
        key = 10**5000
        with open_sealed(tmp_path / "a.store", sealing) as store:
            store[key] = 1
            place = tree_key(store, key)
            plant(store, place, b"\x01\x05")
            refuses(store, LostKey(place))
            plant(
                store, place, headed(place, flags=4, fields=struct.pack("<I", len(keys.encode(key))) + keys.encode(key))
            )
            report = store.check()
            assert [damage.key for damage in report.damaged] == [key]
            assert repr(report)
            with pytest.raises(StoreCorrupt):
                store.backup(tmp_path / "b.store")

    def test_a_namespace_without_a_name(self, location):
        """An entry of the catalog whose key has no hash in it, and whose content is none."""
        with Store(location) as store:
            store["a"] = 1
            plant(store, b"\1", b"")
            assert store["a"] == 1
            assert audit("here", store._engine.read().scan(b""), NO_KEYS).problems

    @pytest.mark.parametrize("sealing", [None, *SEALINGS])
    def test_any_bytes_under_any_key_of_the_tree(self, sealing, rng):
        """Everything that the adversary can put anywhere: a check ends, and finds that something is wrong."""
        options = {} if sealing is None else SEALINGS[sealing]
        ring = KeyRing([KEY])
        given = {None: NO_KEYS, "signed": Keys(signing=ring), "encrypted": Keys(encryption=ring)}[sealing]
        with Store("memory://", **options) as store:
            store.update(GENUINE)
            store.set("tagged", 1, ttl=60, tags=("tag",))
            store.namespace("users").update(GENUINE)
            genuine = list(store._engine.read().scan(b""))
        for _ in range(400):
            items = dict(genuine)
            for _ in range(rng.randrange(1, 4)):
                items.update([self.tampered(rng, *rng.choice(genuine))])
            found = audit("here", sorted(items.items()), given)
            assert isinstance(found.entries, int)

    def tampered(self, rng, place, stored):
        near, anywhere = place[:7] + rng.randbytes(rng.randrange(8)), rng.randbytes(rng.randrange(1, 30))
        place = rng.choice([place, near, anywhere])
        content = bytearray(rng.choice([stored[:-8], rng.randbytes(rng.randrange(1, 40))]) or b"\0")
        for _ in range(rng.randrange(3)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        return place, rng.choice([bytes(content), fitting(place, content)])
