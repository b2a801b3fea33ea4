"""Keys are taken only if they can be keys, and never shown."""

from __future__ import annotations

import os
import pickle
import secrets

import pytest

from objstore import Store
from objstore.codecs.keyring import NO_KEYS, KeyRing, keys_of, portable

KEY = bytes(range(32))
OLD = bytes(range(100, 132))
IDS = [KeyRing([key]).newest for key in (KEY, OLD)]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """An environment that says nothing of keys, to be written to."""
    for name in ("OBJSTORE_SIGNING_KEY", "OBJSTORE_ENCRYPTION_KEY"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


class TestRing:
    def test_it_has_the_newest_first(self):
        ring = KeyRing([KEY, OLD])
        assert list(ring) == IDS
        assert ring.newest == IDS[0]
        assert ring[IDS[1]] == OLD

    def test_an_id_says_nothing_of_the_key_and_is_the_same_for_ever(self):
        assert IDS[0].hex() == "e06c9e9295904696"
        assert not any(KEY[at : at + 3] in IDS[0] for at in range(30))

    def test_there_is_another_key_for_each_purpose_and_key(self):
        ring = KeyRing([KEY, OLD])
        made = [*ring.subkeys(b"one").values(), *ring.subkeys(b"other").values(), KEY, OLD]
        assert len(set(made)) == 6
        assert {len(key) for key in made} == {32}

    def test_digits_are_random_enough(self):
        for _ in range(200):
            KeyRing([secrets.token_hex(32).encode()])

    def test_a_key_given_twice_is_one(self):
        assert len(KeyRing([KEY, OLD, KEY])) == 2

    def test_a_long_key_counts_to_its_last_byte(self):
        long = secrets.token_bytes(500)
        assert KeyRing([long]).newest != KeyRing([long[:-1] + bytes([long[-1] ^ 1])]).newest

    def test_it_is_never_shown_or_pickled(self):
        ring = KeyRing([KEY])
        assert repr(ring) == f"<KeyRing {IDS[0].hex()}>"
        assert KEY.hex() not in repr(ring)
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(ring)

    @pytest.mark.parametrize(
        ("keys", "error", "message"),
        [
            ([], ValueError, "at least one"),
            ([b""], ValueError, "at least 32 random bytes, not 0"),
            ([KEY[:31]], ValueError, "at least 32 random bytes, not 31"),
            ([bytes(32)], ValueError, "not these"),
            ([b"password" * 8], ValueError, "not these"),
            ([KEY, b"short"], ValueError, "not 5"),
            ([None], TypeError, "not NoneType"),
            ([17], TypeError, "not int"),
        ],
    )
    def test_what_can_be_no_key_is_refused(self, keys, error, message):
        with pytest.raises(error, match=message):
            KeyRing(keys)


class TestGiven:
    def test_bytes(self):
        assert list(keys_of(KEY, None).signing) == IDS[:1]
        assert list(keys_of(None, KEY).encryption) == IDS[:1]
        assert list(keys_of(bytearray(KEY), None).signing) == IDS[:1]

    def test_several(self):
        assert list(keys_of([KEY, OLD], None).signing) == IDS
        assert list(keys_of((OLD, KEY), None).signing) == IDS[::-1]

    def test_by_the_name_of_a_variable(self, environment):
        environment.setenv("MINE", KEY.hex())
        environment.setenv("BOTH", f"{KEY.hex()}, {OLD.hex().upper()}")
        assert list(keys_of("MINE", None).signing) == IDS[:1]
        assert list(keys_of(None, "BOTH").encryption) == IDS
        assert list(keys_of(["MINE", OLD], None).signing) == IDS

    def test_nothing(self):
        assert keys_of(None, None) == NO_KEYS
        assert not NO_KEYS

    def test_by_the_environment_where_nothing_is_given(self, environment):
        environment.setenv("OBJSTORE_SIGNING_KEY", KEY.hex())
        environment.setenv("OBJSTORE_ENCRYPTION_KEY", OLD.hex())
        both = keys_of(None, None)
        assert (list(both.signing), list(both.encryption)) == (IDS[:1], IDS[1:])

    def test_false_is_none_whatever_the_environment_says(self, environment):
        environment.setenv("OBJSTORE_SIGNING_KEY", KEY.hex())
        assert keys_of(False, False) == NO_KEYS
        assert keys_of(False, None) == NO_KEYS
        assert list(keys_of(False, OLD).encryption) == IDS[1:]

    def test_what_is_given_counts_before_the_environment_of_either_kind(self, environment):
        environment.setenv("OBJSTORE_SIGNING_KEY", KEY.hex())
        environment.setenv("OBJSTORE_ENCRYPTION_KEY", KEY.hex())
        given = keys_of(OLD, None)
        assert list(given.signing) == IDS[1:]
        assert given.encryption is None

    def test_both_kinds_are_one_too_many(self):
        with pytest.raises(ValueError, match="not both"):
            keys_of(KEY, OLD)

    @pytest.mark.parametrize("option", [17, 1.5, True, {"a": 1}, object(), {KEY}])
    def test_what_is_nothing_of_this_is_refused(self, option):
        with pytest.raises(TypeError, match="name of an environment variable"):
            keys_of(option, None)

    @pytest.mark.parametrize("option", [b"", "", [], ()])
    def test_an_empty_key_is_an_error_and_not_none(self, option):
        with pytest.raises(ValueError, match="key"):
            keys_of(option, None)
        with pytest.raises(ValueError, match="key"):
            keys_of(None, option)

    @pytest.mark.parametrize("text", [KEY.hex(), KEY.hex().upper(), "cY9_urlsafe_token", "a name", f"{KEY.hex()},"])
    def test_what_may_be_the_key_itself_is_not_shown(self, text):
        for options in ((text, None), (None, [text])):
            with pytest.raises(ValueError, match="no environment variable of the name that was given") as caught:
                keys_of(*options)
            assert text not in str(caught.value)

    def test_a_variable_that_is_not_there(self):
        with pytest.raises(ValueError, match="no environment variable 'NOT_THERE'"):
            keys_of("NOT_THERE", None)

    @pytest.mark.parametrize("text", ["", " ", ",", "not hexadecimal", KEY.hex()[:-1], KEY.hex()[:62], f"{KEY.hex()},"])
    def test_a_variable_that_holds_none_is_named_and_not_shown(self, environment, text):
        for name in ("OBJSTORE_SIGNING_KEY", "MINE"):
            environment.setenv(name, text)
            with pytest.raises(ValueError, match=f"'{name}' holds no key") as caught:
                keys_of(None if name == "OBJSTORE_SIGNING_KEY" else name, None)
            assert caught.value.__cause__ is None
            assert caught.value.__suppress_context__
            assert len(text) < 3 or text not in str(caught.value)


class TestSecrets:
    @pytest.mark.parametrize("option", [None, False, "MINE", ["MINE", "OTHER"]])
    def test_names_travel(self, option):
        assert portable(option) == option
        pickle.dumps(portable(option))

    @pytest.mark.parametrize("option", [KEY, bytearray(KEY), [KEY], ["MINE", KEY]])
    def test_keys_do_not(self, option):
        assert KEY.hex() not in repr(vars(portable(option)))
        with pytest.raises(TypeError, match="cannot be pickled, because its key would be"):
            pickle.dumps(portable(option))

    @pytest.mark.parametrize("name", ["signing_key", "encryption_key"])
    def test_a_handle_does_not_show_them_or_take_them_along(self, tmp_path, name):
        with Store(tmp_path / "a.store", **{name: KEY}) as store:
            store["key"] = "value"
            assert KEY.hex() not in repr(store) + repr(store.stats())
            assert repr(KEY) not in repr(vars(store))
            with pytest.raises(TypeError, match="cannot be pickled, because its key would be"):
                pickle.dumps(store)
            with pytest.raises(TypeError, match="because its key"):
                pickle.dumps(store.namespace("users"))

    @pytest.mark.parametrize("name", ["signing_key", "encryption_key"])
    def test_a_handle_that_names_them_arrives_where_the_name_means_something(self, tmp_path, environment, name):
        environment.setenv("MINE", KEY.hex())
        with Store(tmp_path / "a.store", **{name: "MINE"}) as store:
            store["key"] = "value"
            pickled = pickle.dumps(store)
        assert KEY not in pickled
        assert KEY.hex().encode() not in pickled
        with pickle.loads(pickled) as back:
            assert back["key"] == "value"
        environment.delenv("MINE")
        with pytest.raises(ValueError, match="no environment variable 'MINE'"):
            pickle.loads(pickled)

    def test_they_are_not_in_what_a_store_writes(self, tmp_path):
        key = os.urandom(32)
        for name in ("signing_key", "encryption_key"):
            path = tmp_path / name
            with Store(path, **{name: key}) as store:
                store["key"] = "value"
            for file in path.iterdir():
                content = file.read_bytes()
                assert key not in content
                assert key.hex().encode() not in content
