"""Attacks on the keys: weak ones, wrong ones, ones that show somewhere, and what is encrypted twice with one.

A key that is none is refused before a store is touched.  A key stands in no text that the library makes: no `repr`, no
message, no log, no argument of a process.  And no two records are encrypted with the same bytes.
"""

from __future__ import annotations

import base64
import gc
import logging
import os
import pickle
import secrets
import subprocess
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import children
import pytest
from attacker import (
    KEY,
    OTHER,
    SEALINGS,
    WITHOUT_KEY,
    nothing_runs,  # noqa: F401
    open_sealed,
    patched,
    plain,
    plant,
    refuses,
    stolen,
    tree_key,
)

import objstore
from objstore import BadSignature, Store, StoreError, identity
from objstore.codecs import sealing
from objstore.codecs.keyring import keys_of
from objstore.record import DIGEST_BYTES, SALT_BYTES, read_header

pytestmark = pytest.mark.usefixtures("forked_checks")

OPTION = {"signed": "signing_key", "encrypted": "encryption_key"}

every_sealing = pytest.mark.parametrize("sealing", SEALINGS)


@pytest.fixture(autouse=True)
def no_keys_in_the_environment(monkeypatch):
    for name in ("OBJSTORE_SIGNING_KEY", "OBJSTORE_ENCRYPTION_KEY"):
        monkeypatch.delenv(name, raising=False)


def forms(key):
    """How a key could show in a text."""
    return {
        key.hex(),
        key.hex(" "),
        repr(key)[2:-1],
        base64.b64encode(key).decode(),
        str(list(key)),
        key.decode("latin-1"),
    }


def assert_hidden(key, *texts):
    for text in texts:
        for form in forms(key):
            assert form not in text
            assert form[: len(form) // 2] not in text


def all_text(exc):
    """What anybody would see of an error: it, its causes and contexts, as a traceback shows them."""
    seen = []
    while exc is not None:
        seen += [str(exc), repr(exc), repr(exc.args), *traceback.format_exception(exc)]
        exc = exc.__cause__ or exc.__context__
    return "".join(seen)


class TestWeakKeys:
    @every_sealing
    @pytest.mark.parametrize(
        "key",
        [
            b"",
            b"short",
            KEY[:31],
            bytes(32),
            bytes(64),
            b"\xff" * 40,
            b"0123456" * 7,
            b"abcabcabcabc" * 4,
            bytearray(31),
            "",
            "NOT THERE",
            [],
            [b""],
            [KEY, b""],
            [KEY, "NOT THERE"],
            [KEY, None],
            [KEY, 5],
            [[KEY]],
            0,
            1,
            1.5,
            True,
            object(),
            {KEY},
            {KEY: KEY},
            os,
        ],
        ids=lambda key: f"{type(key).__name__}-{key!r:.12}",
    )
    def test_it_is_refused_and_nothing_is_made(self, tmp_path, sealing, key):
        for function in (Store, objstore.check):
            with pytest.raises((ValueError, TypeError)) as caught:
                function(tmp_path / "a.store", **{OPTION[sealing]: key})
            assert not isinstance(caught.value, StoreError)
            assert_hidden(KEY, all_text(caught.value))
            if isinstance(key, bytes) and len(key) > 9:
                assert_hidden(key, str(caught.value))
        assert not (tmp_path / "a.store").exists()

    @every_sealing
    @pytest.mark.parametrize(
        "text", ["", "00", "not hexadecimal digits at all, but a secret", KEY.hex()[:-2], "00" * 32, ","]
    )
    @pytest.mark.parametrize("named", [True, False])
    def test_so_is_one_in_a_variable_and_its_text_is_not_shown(self, tmp_path, monkeypatch, sealing, text, named):
        variable = "MY_KEY" if named else f"OBJSTORE_{OPTION[sealing].upper()}"
        monkeypatch.setenv(variable, text)
        with pytest.raises(ValueError, match=variable) as caught:
            Store(tmp_path / "a.store", **({OPTION[sealing]: variable} if named else {}))
        assert len(text) < 3 or text not in all_text(caught.value)
        assert not (tmp_path / "a.store").exists()

    def test_a_key_that_was_given_as_text_is_not_shown(self):
        """The likeliest mistake: hexadecimal digits themselves in the place of the variable that holds them."""
        for text in (KEY.hex(), KEY.hex().upper(), f"{KEY.hex()},{OTHER.hex()}"):
            for options in ((text, None), (None, text), ([text], None)):
                with pytest.raises(ValueError, match="environment variable") as caught:
                    keys_of(*options)
                assert_hidden(KEY, all_text(caught.value).lower())

    def test_nothing_stands_for_no_key_but_false(self, tmp_path):
        for nothing in ("", b"", [], 0, ()):
            with pytest.raises((ValueError, TypeError)):
                Store(tmp_path / "a.store", signing_key=nothing)


class TestWrongKeys:
    @every_sealing
    @pytest.mark.parametrize(
        "wrong", [OTHER, [OTHER], KEY + b"\0", KEY[::-1], [OTHER, KEY[::-1]]], ids=lambda key: type(key).__name__
    )
    def test_another_key_opens_nothing(self, tmp_path, sealing, wrong):
        with open_sealed(tmp_path / "a.store", sealing) as store:
            store["a"] = 1
        with pytest.raises(BadSignature, match="none of those given") as caught:
            Store(tmp_path / "a.store", **{OPTION[sealing]: wrong})
        assert_hidden(KEY, all_text(caught.value))
        assert_hidden(OTHER, all_text(caught.value))

    @every_sealing
    def test_the_key_for_the_other_kind(self, tmp_path, sealing):
        with open_sealed(tmp_path / "a.store", sealing):
            pass
        other = "encrypted" if sealing == "signed" else "signed"
        with pytest.raises(BadSignature, match=f"give {OPTION[sealing]} and not {OPTION[other]}"):
            open_sealed(tmp_path / "a.store", other)
        for function in (objstore.check, lambda path, **keys: objstore.salvage(path, tmp_path / "b", **keys)):
            with suppress(BadSignature):
                assert not function(tmp_path / "a.store", **SEALINGS[other]).ok

    @every_sealing
    def test_a_store_that_is_not_sealed_is_refused_by_who_has_a_key(self, tmp_path, sealing):
        with Store(tmp_path / "a.store") as store:
            place = tree_key(store, "victim")
            plant(store, place, plain(place))
        with pytest.raises(BadSignature, match="not sealed"):
            open_sealed(tmp_path / "a.store", sealing)

    @every_sealing
    def test_the_old_key_alone_after_rekey(self, tmp_path, sealing):
        path, option = tmp_path / "a.store", OPTION[sealing]
        with Store(path, **{option: KEY}) as store:
            store["a"] = 1
            old = stolen(store, "a")
        with Store(path, **{option: [OTHER, KEY]}) as store:
            assert store.rekey().needed == ()
        with pytest.raises(BadSignature):
            Store(path, **{option: KEY})
        with Store(path, **{option: OTHER}) as store:
            assert store["a"] == 1
            # What was sealed with a key that is forgotten is refused: so rekeying ends a rollback, too.
            plant(store, tree_key(store, "a"), old)
            refuses(store, "a", BadSignature)
        with Store(path, **{option: [OTHER, KEY]}) as store:
            assert store["a"] == 1

    @every_sealing
    def test_a_ring_in_the_wrong_order_reads_all_and_seals_with_the_first(self, tmp_path, sealing):
        path, option = tmp_path / "a.store", OPTION[sealing]
        with Store(path, **{option: OTHER}) as store:
            store["a"] = 1
        with Store(path, **{option: [KEY, OTHER]}) as store:
            store["b"] = 2
            assert dict(store) == {"a": 1, "b": 2}
        with Store(path, **{option: OTHER}) as store:
            assert store["a"] == 1
            refuses(store, "b", BadSignature)
            assert [damage.key for damage in store.check().damaged] == ["b"]

    @every_sealing
    def test_a_record_of_a_key_that_was_taken_out_of_the_ring(self, sealing):
        option = OPTION[sealing]
        with Store("memory://", **{option: [OTHER, KEY]}) as store, Store("memory://", **{option: OTHER}) as other:
            store["a"] = 1
            plant(other, tree_key(other, "a"), stolen(store, "a"))
            refuses(other, "a", BadSignature)

    def test_both_kinds_at_once(self, tmp_path):
        with pytest.raises(ValueError, match="not both"):
            Store(tmp_path / "a.store", signing_key=KEY, encryption_key=OTHER)


class TestSecretsStaySecret:
    @every_sealing
    def test_in_no_text(self, tmp_path, sealing, caplog, capfd, recwarn):
        """A store is used in all ways, rightly and wrongly; what it says in all of that has no key in it."""
        caplog.set_level(logging.DEBUG)
        key, old = secrets.token_bytes(32), secrets.token_bytes(32)
        option = OPTION[sealing]
        texts = []

        def wrongly(call):
            with pytest.raises(Exception) as caught:  # noqa: PT011  (whatever it is, its text counts)
                call()
            texts.append(all_text(caught.value))

        with Store(tmp_path / "a.store", **{option: old}) as store:
            store.set("a", 1, ttl=60, tags=("tag",))
        with Store(tmp_path / "a.store", **{option: [key, old]}) as store:
            users = store.namespace("users")
            users["b"] = 2
            place = tree_key(store, "forged")
            plant(store, place, plain(place))
            objects = [
                store,
                users,
                store.snapshot(),
                store.transaction(),
                store.entry("a"),
                store.stats(),
                store.keys(),
            ]
            objects += [
                store.range(tag="tag"),
                store._space,
                store._space.seal,
                store._keys,
                *filter(None, store._keys),
            ]
            objects += [store.check(), store._engine]
            for each in objects:
                texts += [repr(each), str(each), f"{each}"]
            wrongly(lambda: store["forged"])
            wrongly(lambda: dict(store))
            wrongly(lambda: pickle.dumps(store))
            wrongly(lambda: pickle.dumps(users))
            wrongly(lambda: pickle.dumps(store._keys))
            wrongly(lambda: pickle.dumps(store._space.seal))
            wrongly(lambda: store.__setitem__("a", lambda: None))
            wrongly(lambda: store.backup(tmp_path / "b.store"))
            texts.append(repr(store.rekey()))
        wrongly(lambda: store["a"])
        wrongly(lambda: Store(tmp_path / "a.store", **{option: old}))
        wrongly(lambda: Store(tmp_path / "a.store", **{option: [old, key[:20]]}))
        wrongly(lambda: Store(tmp_path / "a.store", **{option: [key, 7]}))
        texts.append(repr(objstore.check(tmp_path / "a.store", **{option: key})))
        texts.append(repr(objstore.salvage(tmp_path / "a.store", tmp_path / "c.store", **{option: key})))
        texts += [caplog.text, *capfd.readouterr(), *map(str, recwarn)]
        for secret in (key, old):
            assert_hidden(secret, *texts)
        assert len("".join(texts)) > 1000

    @pytest.mark.skipif(not os.path.exists("/proc/self/cmdline"), reason="the arguments of processes are seen in /proc")
    @every_sealing
    @pytest.mark.usefixtures("checks_anew")
    def test_in_no_argument_or_variable_of_a_process(self, tmp_path, sealing, monkeypatch):
        shown = []

        class Watched(subprocess.Popen):
            def __init__(self, arguments, **options):
                super().__init__(arguments, **options)
                shown.extend(map(os.fsencode, arguments))
                for name in ("cmdline", "environ"):
                    with open(f"/proc/{self.pid}/{name}", "rb") as file:
                        shown.append(file.read())

        monkeypatch.setattr(subprocess, "Popen", Watched)
        key = secrets.token_bytes(32)
        with Store(tmp_path / "a.store", **{OPTION[sealing]: key}) as store:
            store["a"] = 1
            assert store.check().ok
            store.backup(tmp_path / "b.store")
            store.compact()
        assert objstore.check(tmp_path / "a.store", **{OPTION[sealing]: key}).ok
        assert len(shown) >= 12
        for form in (key, key.hex().encode(), base64.b64encode(key)):
            assert all(form not in each and form[:16] not in each for each in shown)

    @every_sealing
    def test_in_no_record_and_no_file(self, tmp_path, sealing):
        key = secrets.token_bytes(32)
        with Store(tmp_path / "a.store", **{OPTION[sealing]: key}) as store:
            store.update(dict.fromkeys(range(100), "value"))
            subkeys = [*next(filter(None, store._keys)).subkeys(b"objstore encrypt").values()]
            subkeys += [*next(filter(None, store._keys)).subkeys(b"objstore sign").values()]
        gc.collect()
        for file in (tmp_path / "a.store").iterdir():
            content = file.read_bytes()
            for secret in (key, *subkeys):
                assert not any(form in content for form in (secret, secret.hex().encode(), secret[:16]))

    def test_what_is_encrypted_is_in_no_file(self, tmp_path):
        secret = "this must not be read by anybody"
        with open_sealed(tmp_path / "a.store", "encrypted", compression="zlib") as store:
            store["a"] = secret
            store["b"] = [secret] * 1000
            store["c"] = secret.encode() * 10_000
            store["a"] = "gone"
            store.namespace("users")["d"] = secret
        assert secret.encode() not in (tmp_path / "a.store" / "data.mdb").read_bytes()


def salt_and_text(stored):
    """What is drawn for a record, and what is encrypted under it."""
    header = read_header(stored, len(stored))
    return header.seal[-SALT_BYTES:], stored[header.payload_at : -DIGEST_BYTES]


def xor(one, other):
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


class TestNonces:
    """A nonce that comes twice with a key would show the difference of two values, and let anybody forge."""

    def encrypted(self, value, count=1):
        with open_sealed("memory://", "encrypted") as store:
            found = []
            for _ in range(count):
                store["a"] = value
                found.append(salt_and_text(stolen(store, "a")))
            return found

    def test_two_encryptions_of_one_value_share_nothing(self):
        (salt, text), (other_salt, other_text) = self.encrypted({"same": "value"}, 2)
        assert salt != other_salt
        assert text[:-16] != other_text[:-16]
        assert text[-16:] != other_text[-16:]
        assert sum(a == b for a, b in zip(text, other_text, strict=True)) < len(text) // 2

    def test_the_difference_of_two_records_is_not_that_of_their_values(self):
        one, other = b"A" * 500, b"Z" * 500
        with open_sealed("memory://", "encrypted", codec="bytes") as store:
            texts = []
            for value in (one, other):
                store["a"] = value
                texts.append(salt_and_text(stolen(store, "a"))[1][2:502])
        difference = xor(one, other)
        found = xor(*texts)
        assert found != difference
        assert sum(a == b for a, b in zip(found, difference, strict=True)) < 50
        # Nor is one stream of bytes used twice within a record, as with a counter that begins anew.
        assert len({texts[0][at : at + 16] for at in range(0, 496, 16)}) == 31

    def test_twenty_thousand_salts_are_distinct(self):
        with open_sealed("memory://", "encrypted") as store:
            pack = store._space.pack
            salts = {bytes(pack("a", None)[1])[17:41] for _ in range(20_000)}
        assert len(salts) == 20_000
        # Nor do they share a part: as if they had fewer random bytes than it seems.
        for at in (0, 8, 16):
            assert len({salt[at : at + 8] for salt in salts}) == 20_000

    def test_no_two_records_share_a_key(self, monkeypatch):
        keys = []
        cipher, invalid_tag = sealing._aes_gcm()

        def watched(key):
            keys.append(key)
            return cipher(key)

        monkeypatch.setattr(sealing, "_aes_gcm", lambda: (watched, invalid_tag))
        with open_sealed("memory://", "encrypted") as store, open_sealed("memory://", "encrypted") as other:
            for each in (store, store.namespace("users"), other):
                each.update(dict.fromkeys(range(300)))
        assert len(set(keys)) == len(keys) == 900
        assert {len(key) for key in keys} == {32}

    def test_forked_children_draw_their_own(self):
        with open_sealed("memory://", "encrypted") as store:
            pack = store._space.pack
            pack("a", None)  # whatever is drawn ahead was drawn before the fork

            def draw():
                return [bytes(pack("a", None)[1])[17:41] for _ in range(100)]

            drawn = [children.result(draw) for _ in range(4)] + [draw()]
        assert len({salt for salts in drawn for salt in salts}) == 500

    def test_threads_draw_their_own(self):
        with open_sealed("memory://", "encrypted") as store, ThreadPoolExecutor(8) as pool:
            records = pool.map(lambda number: bytes(store._space.pack("a", None)[1]), range(2000))
            salts, texts = zip(*map(salt_and_text, records), strict=True)
        assert len(set(salts)) == len(set(texts)) == 2000

    def test_what_is_sealed_anew_is_drawn_anew(self):
        with open_sealed("memory://", "encrypted") as store:
            store.set("a", 1, ttl=60)
            before = salt_and_text(stolen(store, "a"))
            store.touch("a", 120)
            after = salt_and_text(stolen(store, "a"))
            store.rekey()
        assert before[0] != after[0]
        assert before[1] != after[1]

    def test_an_adversary_who_gives_the_salt_gains_nothing(self):
        """Each salt is another key, so what was encrypted under one opens under no other."""
        with open_sealed("memory://", "encrypted") as store:
            store["a"], store["b"] = 1, 2
            one, other = stolen(store, "a"), stolen(store, "b")
            place = tree_key(store, "a")
            plant(store, place, patched(place, one, 17, other[17:41]))
            refuses(store, "a", BadSignature)


def test_codes_are_compared_in_constant_time(monkeypatch):
    """Time is not to be measured in a test: `hmac.compare_digest` compares the codes of records and identities."""
    compared = []

    def watched(module):
        genuine = module.compare_digest
        monkeypatch.setattr(module, "compare_digest", lambda *codes: compared.append(codes) or genuine(*codes))

    watched(sealing)
    watched(identity)
    with open_sealed("memory://compared", "signed") as store:
        store["a"] = 1
        with open_sealed("memory://compared", "signed"):
            assert len(compared.pop()[0]) == 64
        assert store["a"] == 1
        assert len(compared.pop()[0]) == 32


@every_sealing
def test_false_is_no_key_whatever_the_environment_says(tmp_path, monkeypatch, sealing):
    with open_sealed(tmp_path / "a.store", sealing) as store:
        store["a"] = 1
    monkeypatch.setenv(f"OBJSTORE_{OPTION[sealing].upper()}", KEY.hex())
    with Store(tmp_path / "a.store") as store:
        assert store["a"] == 1
    with Store(tmp_path / "a.store", **WITHOUT_KEY) as store:
        refuses(store, "a", BadSignature)
