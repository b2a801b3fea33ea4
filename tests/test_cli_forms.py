"""What the command line takes and prints: values in every form, lists, and JSON for programs."""

import json
import math
import secrets
from datetime import datetime, timedelta, timezone

import pytest
import strategies
from click.testing import CliRunner
from hypothesis import given as for_all

from objstore import Cache, LostKey, Store, keys
from objstore.cli.commands import objstore
from objstore.cli.literals import literal, written


def call(*arguments, code=0, given=None):
    """What a command prints that ends with this code: to standard output, or to standard error where it fails."""
    result = CliRunner().invoke(objstore, [str(each) for each in arguments], input=given)
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr or result.stdout


def objects(*arguments, code=0):
    return [json.loads(line) for line in call(*arguments, "--json", code=code).splitlines()]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "a.store")


@pytest.fixture
def listed(path):
    """Five entries, one of them in a namespace."""
    with Store(path) as store:
        store.update({"a": 1, "b": 2, ("user", 1): 3})
        store.set("short", b"4", ttl=1000, tags=["one", "two"])
        store.namespace("users")["ada"] = 5
    return path


class TestSet:
    @pytest.mark.parametrize(
        ("given", "options", "value"),
        [
            ("{'a': (1, 2)}", [], {"a": (1, 2)}),
            ("no literal", [], "no literal"),
            ("{'a': (1, 2)}", ["--as", "literal"], {"a": (1, 2)}),
            ('{"a": [1, null, true]}', ["--as", "json"], {"a": [1, None, True]}),
            ("42", ["--as", "text"], "42"),
            ("grüße", ["--as", "bytes"], "grüße".encode()),
        ],
    )
    def test_a_value_is_what_is_said_of_it_as_an_argument_and_in_a_file(self, path, tmp_path, given, options, value):
        call("set", path, "argument", given, *options)
        file = tmp_path / "file"
        file.write_text(given)
        call("set", path, "file", "--file", file, *options)
        call("set", path, "pipe", "--file", "-", *options, given=given)
        with Store(path) as store:
            assert store["argument"] == value
            assert store["file"] == store["pipe"] == (value if options else given.encode())

    @pytest.mark.parametrize("given", ["{'a': 1}", "NaN", "[1,", ""])
    def test_what_is_no_json_is_refused_and_makes_no_store(self, path, tmp_path, given):
        assert "the value is no json" in call("set", path, "a", given, "--as", "json", code=1)
        assert not (tmp_path / "a.store").exists()

    def test_a_file_that_is_no_text_is_refused_as_text(self, path, tmp_path):
        (tmp_path / "file").write_bytes(b"\xff")
        assert "the value is no text" in call("set", path, "a", "--file", tmp_path / "file", "--as", "text", code=1)

    def test_a_file_that_is_missing_is_named(self, path):
        assert "no/such/file" in call("set", path, "a", "--file", "no/such/file", code=2)

    def test_add_stores_only_what_is_absent(self, path):
        call("set", path, "a", "1", "--add")
        assert "there already: a" in call("set", path, "a", "2", "--add", code=1)
        assert call("get", path, "a") == "1\n"

    def test_expiry_and_tags(self, path):
        call("set", path, "a", "1", "--ttl", "1000", "--tag", "one", "--tag", "two", "--add")
        with Store(path) as store:
            assert 990 < store.ttl("a") <= 1000
            assert store.entry("a").tags == ("one", "two")


class TestGet:
    @pytest.mark.parametrize("value", [None, True, 1, 2.5, "text \x1b[31m", [1, {"a": None}], {"é": []}, 10**4000])
    def test_json_is_the_value(self, path, value):
        with Store(path) as store:
            store["a"] = value
        printed = call("get", path, "a", "--json")
        assert printed.isascii()
        assert json.loads(printed) == value

    def test_what_json_would_not_give_back_is_refused_and_named(self, path):
        with Store(path) as store:
            store["a"] = {"rows": [1, (2,)]}
        message = call("get", path, "a", "--json", code=1)
        assert "JSON would not give this value back: at ['rows'][1]: a tuple" in message

    def test_what_a_terminal_would_obey_is_escaped(self, path):
        with Store(path) as store:
            store["a"] = Loud()
        assert call("get", path, "a") == "<\\x1b[31m>\n"

    def test_json_and_raw_are_two_things(self, listed):
        assert "not both" in call("get", listed, "a", "--json", "--raw", code=2)


class Loud:
    def __repr__(self):
        return "<\x1b[31m>"


class TestLs:
    def test_keys_between_two(self, listed):
        assert call("ls", listed, "--start", "b") == "'b'\n'short'\n"
        assert call("ls", listed, "--stop", "b") == "'a'\n"
        assert call("ls", listed, "--start", "a", "--stop", "short", "-r") == "'b'\n'a'\n"
        assert call("ls", listed, "--start", "('user', 0)") == "('user', 1)\n"
        assert "not both" in call("ls", listed, "--start", "a", "--prefix", "a", code=2)

    def test_no_more_than_asked_for(self, listed):
        assert call("ls", listed, "--limit", "2") == "'a'\n'b'\n"
        assert call("ls", listed, "--limit", "0") == ""
        assert len(objects("ls", listed, "--limit", "1")) == 1
        assert call("ls", listed, "-l", "--limit", "1").count("\n") == 1

    def test_json_is_an_object_for_each(self, listed):
        first, *_, short, pair = objects("ls", listed)
        assert first == {
            "key": "a",
            "literal": "'a'",
            "size": first["size"],
            "codec": "pickle",
            "expires_at": None,
            "tags": [],
        }
        assert first["size"] > 0
        assert pair["literal"] == "('user', 1)" and pair["key"] == ["user", 1]
        assert short["tags"] == ["one", "two"]
        left = datetime.fromisoformat(short["expires_at"]) - datetime.now(timezone.utc)
        assert timedelta(seconds=900) < left <= timedelta(seconds=1000)
        assert objects("ls", listed, "--long") == objects("ls", listed)
        assert [each["literal"] for each in objects("ls", listed, "-n", "users")] == ["'ada'"]

    def test_what_json_prints_can_be_given_back(self, path):
        known = [math.inf, -math.inf, (1, (math.inf,)), 10**5000, -(10**5000), 1.5, "", "\ud800", "\x1b", b"", (), None]
        for key in known:
            assert literal(written(key)) == key
        with Store(path) as store:
            store.update(dict.fromkeys(known))
        assert {literal(each["literal"]) for each in objects("ls", path)} == set(known)
        assert {literal(line) for line in call("ls", path).splitlines()} == set(known)

    @for_all(strategies.keys())
    def test_every_key_of_a_store_is_read_as_it_is_written(self, key):
        listed = keys.decode(keys.encode(key))
        assert keys.encode(literal(written(listed))) == keys.encode(key)

    def test_a_key_that_is_lost_has_no_literal(self, path, tmp_path):
        with Store(path) as store:
            store["x" * 2000] = 1
        data = tmp_path / "a.store" / "data.mdb"
        data.write_bytes(data.read_bytes().replace(b"x" * 1000, b"y" * 1000))
        with Store(path) as store:
            assert isinstance(store.first(), LostKey)
        assert [each["literal"] for each in objects("ls", path)] == [None]
        (report,) = objects("check", path, code=1)
        assert [each["literal"] for each in report["damaged"]] == [None]


@pytest.mark.usefixtures("forked_checks")
class TestReports:
    def test_info(self, listed):
        with Store(listed) as store, store.transaction():
            (told,) = objects("info", listed)
            assert told["id"] == store.stats().id
        assert told["entries"] == 4
        assert told["namespaces"] == {"users": 1}
        assert told["writing"].keys() == {"process", "age", "behind"}
        assert told["location"].endswith("a.store")
        assert told["sealing"] is None

    def test_info_of_a_cache(self, path):
        with Cache(path, max_entries=10) as cache:
            cache["a"] = 1
        (told,) = objects("info", path)
        assert (told["max_entries"], told["max_size"], told["policy"]) == (10, None, "lru")

    def test_care(self, listed, tmp_path):
        whole = {"ok": True, "entries": 5, "damaged": [], "problems": [], "suspect": False, "unverified": 0}
        assert objects("check", listed) == [whole]
        (copied,) = objects("backup", listed, tmp_path / "b.store")
        assert copied["target"] == str(tmp_path / "b.store")
        assert copied["file_bytes"] > 0
        (sizes,) = objects("compact", listed)
        assert sizes["before"] >= sizes["after"] > 0
        (saved,) = objects("salvage", listed, tmp_path / "c.store")
        assert saved == {"ok": True, "entries": 5, "strays": 0, "lost": [], "problems": []}
        (moved,) = objects("copy", listed, tmp_path / "d.store")
        assert (moved["ok"], moved["copied"], moved["verified"], moved["lost"]) == (True, 5, 5, [])

    def test_damage(self, path, tmp_path):
        with Store(path) as store:
            store.namespace("users")["b"] = "y" * 1000
        data = tmp_path / "a.store" / "data.mdb"
        data.write_bytes(data.read_bytes().replace(b"y" * 1000, b"z" * 1000))
        damage = {"namespace": "users", "literal": "'b'", "reason": "its bytes do not fit their digest"}
        (report,) = objects("check", path, code=1)
        assert (report["ok"], report["damaged"]) == (False, [damage])
        for command, field in (("salvage", "lost"), ("copy", "lost")):
            (report,) = objects(command, path, tmp_path / command, code=1)
            assert (report["ok"], report[field]) == (False, [damage])

    def test_rekey(self, path, monkeypatch):
        old, new = secrets.token_bytes(32), secrets.token_bytes(32)
        with Store(path, signing_key=old) as store:
            store["a"] = 1
        monkeypatch.setenv("OBJSTORE_SIGNING_KEY", f"{new.hex()},{old.hex()}")
        (report,) = objects("rekey", path)
        assert (report["ok"], report["resealed"], report["refused"], report["needed"]) == (True, 1, [], [])
        (told,) = objects("info", path)
        assert report["key"] == told["key"]
