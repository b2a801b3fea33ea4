"""Exports: pickle files and lines of JSON that give back what was stored, exactly; and the command."""

from __future__ import annotations

import json
import math
import os
import pickle
import stat
import sys
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import strategies
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from test_copying import KEY, OwnCodec

import objstore
from objstore import BadSignature, Cache, Store, StoreError, StoreExists, StoreNotFound
from objstore.cli.commands import objstore as command
from objstore.exchange import decoding, pickledirs
from objstore.exchange.jsonlines import Inexact, Item, read_line, write_line
from objstore.exchange.pickledirs import name_of, read_index

AWKWARD = {
    "Ada": 1,
    "ada": 2,
    "a/b": [1],
    "..": 3,
    ".hidden": 4,
    "": 5,
    "-rf": 6,
    "1": 7,
    1: 8,
    "x" * 500: 9,
    "y" * 199 + "ä" * 10: 10,
    "grüße": 11,
    "\ud800": 12,
    "line\nend\0": 13,
    "index.jsonl": 14,
    "=1": 15,
    "a~2": 16,
    "ada~2": 17,
    None: 18,
    2.5: 19,
    math.inf: 20,
    b"\0/": 21,
    ("user", (1, b"x")): 22,
    date(2026, 11, 26): 23,
    datetime(2026, 11, 26, 12, tzinfo=timezone.utc): 24,
    datetime(2026, 11, 26, 12, 0, 0, 5): 25,
    UUID(int=5): 26,
    10**30: 27,
    "Straße": 28,
    "STRASSE": 29,
    "한": 30,
    "\u1112\u1161\u11ab": 31,
}


@pytest.fixture
def place(place):
    return Path(place)


def exported(source, path, form, **options):
    """An export of which nothing is left out, at a path."""
    report = objstore.export(source, path, form, **options)
    assert (report.skipped, report.why, report.ok) == (0, (), True)
    return report.exported


def unpickled(directory):
    """What is in an exported directory, by namespace and key, read as anybody does."""
    found = {}
    for path, item in read_index(directory):
        with open(path, "rb") as file:
            found[item.namespace or "", item.key] = pickle.load(file)
            assert file.read() == b""
    return found


def lines(path):
    return [read_line(line) for line in Path(path).read_bytes().splitlines()]


class TestPickles:
    def test_awkward_keys_have_files_that_lead_nowhere(self, place):
        with Store("memory://") as store:
            store.update(AWKWARD)
            store.namespace("../users")["../../a"] = store.namespace("Ada.pickle")["b"] = 1
            exported(store, place / "a", "pickle")
            expected = {("", key): value for key, value in AWKWARD.items()}
            expected |= {("../users", "../../a"): 1, ("Ada.pickle", "b"): 1}
            assert unpickled(place / "a") == expected
        assert os.listdir(place) == ["a"]
        names = [name for _, names, files in os.walk(place / "a") for name in (*names, *files)]
        assert len(names) == len(AWKWARD) + 2 + 2 + 1
        top = os.listdir(place / "a")
        assert len({name.casefold() for name in top}) == len(top)
        assert all(name[0] not in ".-" and len(name.encode()) < 256 for name in names)
        assert {"Ada.pickle", "a%2Fb.pickle", "1.pickle", "=1.pickle", "grüße.pickle"} <= set(top)
        assert stat.S_IMODE((place / "a").stat().st_mode) == 0o700

    @settings(max_examples=50)
    @given(key=strategies.keys())
    def test_no_key_leads_out_of_the_directory(self, key):
        try:
            name = name_of(key)
        except ValueError:  # an integer that Python does not write
            return
        assert name[0] not in ".- "
        assert not {"/", "\\", "\0", "\n", "~", "%%"} & set(name)
        assert name.encode().decode().isprintable()

    def test_expiry_and_tags_are_in_the_index(self, place, clock):
        with Store("memory://", clock=clock) as store:
            store.set("a", 1, ttl=1000.5, tags=("red", "blue"))
            store.set("gone", 1, ttl=1)
            clock.advance(10)
            assert exported(store, place / "a", "pickle") == 1
        ((path, item),) = read_index(place / "a")
        assert item == Item("a", None, None, 1_800_000_000.0 + 1000.5, ("red", "blue"))
        assert path == str(place / "a" / "a.pickle")

    def test_large_arrays_are_one_pickle_each_and_can_be_written_to(self, place):
        array = np.arange(100_000.0)
        with Store(place / "a.store", compression="zlib") as store:
            store["array"] = {"x": array, "y": bytearray(100_000)}
            exported(place / "a.store", place / "a", "pickle")
        found = pickle.loads((place / "a" / "array.pickle").read_bytes())
        assert np.array_equal(found["x"], array)
        found["x"] += 1
        found["y"][0] = 1

    def test_other_codecs(self, place):
        with Store("memory://", codec="json") as store:
            store["a"] = {"b": [1]}
            store.namespace("raw", codec="bytes")["a"] = b"raw"
            store.namespace("trusted", codec="pickle")["a"] = {1, 2}
            report = objstore.export(store, place / "a", "pickle")
        assert unpickled(place / "a") == {("", "a"): {"b": [1]}, ("raw", "a"): b"raw"}
        assert [(damage.namespace, damage.key) for damage in report.why] == [("trusted", "a")]
        assert "runs code" in report.why[0].reason

    @pytest.mark.parametrize(
        "line",
        [
            b"{}",
            b'{"file": 1, "key": 1}',
            b'{"file": "../a.pickle", "key": 1}',
            b'{"file": "/etc/passwd", "key": 1}',
            b'{"file": "a/../../b", "key": 1}',
            b'{"file": "a//b", "key": 1}',
            b'{"file": "a\\u0000", "key": 1}',
            b'{"file": "a.pickle", "key": {}}',
            b"nothing",
        ],
    )
    def test_an_index_that_somebody_else_has_written(self, place, line):
        (place / "index.jsonl").write_bytes(b'{"file": "a.pickle", "key": "a"}\n' + line)
        index = read_index(place)
        assert next(index)[0] == str(place / "a.pickle")
        with pytest.raises(ValueError, match=r"line 2 of index\.jsonl makes no sense"):
            next(index)


HUGE = 10**5000


def exact_values():
    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    leaves = scalars | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))


def typed(value):
    """A value with its types, and -0.0 for what it is."""
    if isinstance(value, dict):
        return {name: typed(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [typed(inner) for inner in value]
    return type(value), repr(value)


class TestLines:
    @settings(max_examples=60)
    @given(key=strategies.keys(), value=exact_values())
    def test_what_is_written_is_read_back_equal_and_of_the_same_type(self, key, value):
        try:
            line = write_line(Item(key, value))
        except Inexact:  # an integer that Python does not write
            with pytest.raises(ValueError, match="digits"):
                repr((key, value))
            return
        assert line.isascii()
        assert line.endswith(b"\n")
        item = read_line(line)
        assert typed(item.value) == typed(value)
        with Store("memory://") as store:
            store[key] = 1
            assert store[item.key] == 1

    @pytest.mark.parametrize("microseconds", [1, -1, 3_600_000_001])
    def test_a_time_zone_that_is_off_by_less_than_a_second(self, microseconds):
        key = datetime(2000, 1, 1, tzinfo=timezone(timedelta(microseconds=microseconds)))
        assert read_line(write_line(Item(key, 1))).key == key

    def test_all_fields(self):
        item = Item(("user", 1), {"a": [1.5, None]}, "users", 1_800_000_000.25, ("red", "grün"))
        assert read_line(write_line(item)) == item
        assert json.loads(write_line(item)) == {
            "key": ["user", 1],
            "value": {"a": [1.5, None]},
            "namespace": "users",
            "expires_at": "2027-01-15T08:00:00.250000+00:00",
            "tags": ["red", "grün"],
        }

    @pytest.mark.parametrize(
        ("value", "why"),
        [
            ({"rows": [1, 2, 3, (1,)]}, "at ['rows'][3]: a tuple; export to pickle or dump"),
            ([{"a": {1: 2}}], "at [0]['a']: a dict with the key 1, which is no text; export to pickle or dump"),
            (math.nan, "the float nan; export to pickle or dump"),
            ([math.inf], "at [0]: the float inf; export to pickle or dump"),
            (b"x", "bytes; export to pickle or dump"),
            (["\ud800"], "at [0]: a text with a lone surrogate; export to pickle or dump"),
            ({"\udfff": 1}, "a dict with a key that holds a lone surrogate; export to pickle or dump"),
            (np.float64(1), "a numpy.float64; export to pickle or dump"),
            (date(2026, 1, 1), "a datetime.date; export to pickle or dump"),
            (type("Text", (str,), {})("a"), "a test_exporting.Text; export to pickle or dump"),
            ([HUGE], "it holds an integer of more digits than Python writes; export to pickle or dump"),
        ],
    )
    def test_what_json_does_not_give_back_is_not_written(self, value, why):
        with pytest.raises(Inexact) as caught:
            write_line(Item("a", value))
        assert str(caught.value) == why

    def test_nor_what_holds_itself_or_is_endless(self):
        circle = []
        circle.append(circle)
        deep = []
        for _ in range(100_000):
            deep = [deep]
        for value in (circle, {"a": circle}, deep):
            with pytest.raises(Inexact, match="nested too deeply"):
                write_line(Item("a", value))
        while deep:  # or to forget it would be a recursion as well
            deep = deep.pop()

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            (b"", "not JSON"),
            (b"[1]", "no object"),
            (b'{"key": 1}', "no field 'value'"),
            (b'{"value": 1}', "no field 'key'"),
            (b'{"key": 1, "value": 2, "more": 3}', "the field 'more' has no meaning"),
            (b'{"key": 1, "value": NaN}', "holds NaN"),
            (b'{"key": 1, "value": 1e999}', "too large for a float"),
            (b'{"key": 1, "value": 2', "not JSON"),
            (b"\xff", "not UTF-8"),
            (b"[" * 100_000, "nested too deeply"),
            (b'{"key": {"bytes": "?"}, "value": 1}', "makes no sense"),
            (b'{"key": {"date": "yesterday"}, "value": 1}', "makes no sense"),
            (b'{"key": {"float": "nan"}, "value": 1}', "makes no sense"),
            (b'{"key": {"a": "b"}, "value": 1}', "only with one field"),
            (b'{"key": {}, "value": 1}', "only with one field"),
            (b'{"key": {"bytes": 1}, "value": 1}', "only with one field"),
            (b'{"key": 1, "value": 1, "namespace": 1}', "namespace is no text"),
            (b'{"key": 1, "value": 1, "tags": "red"}', "tags are no array"),
            (b'{"key": 1, "value": 1, "tags": [1]}', "tags are no array"),
            (b'{"key": 1, "value": 1, "expires_at": 5}', "ISO 8601"),
            (b'{"key": 1, "value": 1, "expires_at": "2026-11-26T12:00:00"}', "no time zone"),
            (b'{"key": 1, "value": ' + b"1" * 5000 + b"}", "limit"),
        ],
    )
    def test_lines_that_tell_no_entry(self, line, why):
        with pytest.raises(ValueError, match=why):
            read_line(line)

    def test_lines_of_somebody_else(self):
        assert read_line(b'\xef\xbb\xbf {"id": 7, "name": "Ada"}\r\n', "id") == Item(7, {"id": 7, "name": "Ada"})
        with pytest.raises(ValueError, match="no field 'key'; the fields are 'id', 'name'"):
            read_line(b'{"id": 7, "name": "Ada"}', "key")


class TestExport:
    def test_namespaces_ranges_and_tags(self, place):
        with Store(place / "a.store") as store:
            store.update({("user", 1): 1, ("user", 2): 2, "text": 3})
            store.set("tagged", 4, tags=("red",))
            users = store.namespace("users")
            users.update({("user", 3): 5, "b": 6})
            users.set("tagged", 7, tags=("red",))
            everything = {
                "all": ({}, [1, 2, 3, 4, 5, 6, 7]),
                "default": ({"namespace": ""}, [1, 2, 3, 4]),
                "one": ({"namespace": "users"}, [5, 6, 7]),
                "prefix": ({"prefix": ("user",)}, [1, 2, 5]),
                "tag": ({"tag": "red"}, [4, 7]),
                "both": ({"tag": "red", "prefix": "t", "namespace": "users"}, [7]),
            }
            for name, (options, expected) in everything.items():
                exported(store, place / name, "jsonl", **options)
                assert sorted(item.value for item in lines(place / name)) == expected
            assert [item.namespace for item in lines(place / "all")] == [None] * 4 + ["users"] * 3
            with pytest.raises(ValueError, match="no namespace 'nobody'"):
                objstore.export(store, place / "none", "jsonl", namespace="nobody")
            with pytest.raises(TypeError, match="a prefix is"):
                objstore.export(store, place / "none", "jsonl", prefix=1)
        assert not (place / "none").exists()

    def test_what_cannot_be_read_or_written_is_left_out_and_told(self, place, monkeypatch):
        source = place / "a.store"
        with Store(source) as store:
            store.update({"a": 1, "b": "y" * 1000, "c": Raises(), "d": (1,), "e": [1]})
        data = (source / "data.mdb").read_bytes()
        (source / "data.mdb").write_bytes(data.replace(b"y" * 1000, b"z" * 1000))
        monkeypatch.delattr(sys.modules[__name__], "_missing")
        report = objstore.export(source, place / "a.jsonl", "jsonl")
        assert [item.key for item in lines(place / "a.jsonl")] == ["a", "e"]
        assert (report.exported, report.skipped, report.ok) == (2, 3, False)
        assert [damage.key for damage in report.why] == ["b", "c", "d"]
        reasons = " / ".join(damage.reason for damage in report.why)
        assert "damaged" in reasons
        assert "cannot be decoded" in reasons
        assert "a tuple" in reasons

    def test_what_raises_when_it_is_pickled_anew(self, place, monkeypatch):
        with Store("memory://") as store:
            store.update({"a": 1, "b": Sour(), "c": 2})
            monkeypatch.setattr(Sour, "is_sour", True)
            report = objstore.export(store, place / "a", "pickle")
        assert unpickled(place / "a") == {("", "a"): 1, ("", "c"): 2}
        assert [(damage.key, damage.reason) for damage in report.why] == [("b", "sour")]

    def test_only_so_many_are_told(self, place, monkeypatch):
        monkeypatch.setattr("objstore.exchange.exporting.MOST_LISTED", 3)
        with Store("memory://") as store:
            store.update(dict.fromkeys(range(10), (1,)))
            report = objstore.export(store, place / "a.jsonl", "jsonl")
        assert (report.exported, report.skipped, len(report.why)) == (0, 10, 3)

    def test_memoized_results_stay(self, place):
        with Store("memory://") as store:
            assert store.memoize(name="one", version="1")(abs)(-1) == 1
            assert exported(store, place / "a.jsonl", "jsonl") == 0

    @pytest.mark.parametrize("form", ["jsonl", "pickle"])
    def test_sealed_stores_need_their_key(self, place, form):
        with Store(place / "a.store", encryption_key=KEY) as store:
            store["a"] = 1
        with pytest.raises(BadSignature, match="give encryption_key"):
            objstore.export(place / "a.store", place / "a", form)
        assert not (place / "a").exists()
        assert exported(place / "a.store", place / "a", form, encryption_key=KEY) == 1

    def test_servers_and_caches(self, place, on_servers):
        with Store(on_servers) as store:
            store.update({number: number for number in range(100)})
            store.namespace("users").set("a", 1, tags=("red",))
            assert exported(store, place / "a.jsonl", "jsonl") == 101
            assert exported(store, place / "b.jsonl", "jsonl", tag="red") == 1
        assert [item.key for item in lines(place / "a.jsonl")] == [*range(100), "a"]
        with Cache(place / "a.cache", ttl=100) as cache:
            cache["a"] = 1
        assert exported(place / "a.cache", place / "c.jsonl", "jsonl") == 1

    def test_a_codec_of_somebodys_own_must_be_given(self, place):
        with Store(place / "a.store", codec=OwnCodec()) as store:
            store["a"] = "abc"
            assert exported(store, place / "a.jsonl", "jsonl") == 1
        with pytest.raises(StoreError, match="'own'"):
            objstore.export(place / "a.store", place / "b.jsonl", "jsonl")

    def test_progress(self, place, monkeypatch):
        monkeypatch.setattr(decoding, "_STEP", 10)
        seen = []
        with Store("memory://") as store:
            store.update(dict.fromkeys(range(25)))
            exported(store, place / "a.jsonl", "jsonl", progress=lambda *told: seen.append(told))
            assert seen == [(10, 25), (20, 25), (25, 25)]
            seen.clear()
            exported(store, place / "b.jsonl", "jsonl", tag="none", progress=lambda *told: seen.append(told))
            assert seen == [(0, 0)]


class Raises:
    def __reduce__(self):
        return _missing, ()


def _missing():
    """Is not there any more when it is unpickled."""


class Sour:
    is_sour = False

    def __reduce__(self):
        if self.is_sour:
            raise OSError("sour")
        return Sour, ()


class Enough(Exception):
    """Whoever exports has enough of it."""


class TestFiles:
    """What is there is whole, and nothing is overwritten."""

    @pytest.fixture
    def store(self):
        with Store("memory://") as store:
            store.update({number: [1] for number in range(10)})
            yield store

    @pytest.mark.parametrize("form", ["pickle", "jsonl", "dump"])
    def test_what_is_there_stays(self, store, place, form):
        (place / "a").write_text("mine")
        os.symlink("nowhere", place / "link")
        for name in ("a", "link"):
            with pytest.raises(StoreExists, match="something at"):
                objstore.export(store, place / name, form)
        if form != "pickle":
            exported(store, place / "a", form, force=True)
            assert (place / "a").read_bytes()[:4] != b"mine"
            assert stat.S_IMODE((place / "a").stat().st_mode) == 0o600
        (place / "directory").mkdir()
        with pytest.raises((StoreExists, ValueError)):
            objstore.export(store, place / "directory", form, force=True)
        assert sorted(os.listdir(place)) == ["a", "directory", "link"]

    @pytest.mark.parametrize("form", ["pickle", "jsonl", "dump"])
    def test_who_is_interrupted_leaves_nothing(self, store, place, form):
        def enough(_done, _total):
            raise Enough

        with pytest.raises(Enough):
            objstore.export(store, place / "a", form, progress=enough)
        assert os.listdir(place) == []

    @pytest.mark.parametrize("form", ["pickle", "jsonl", "dump"])
    def test_somebody_else_was_faster(self, store, place, form):
        def make(_done, _total):
            (place / "a").write_text("theirs")

        with pytest.raises(StoreExists):
            objstore.export(store, place / "a", form, progress=make)
        assert (place / "a").read_text() == "theirs"
        assert os.listdir(place) == ["a"]

    @pytest.mark.parametrize("form", ["jsonl", "dump"])
    def test_a_file_system_without_links(self, store, place, form, monkeypatch):
        def link(*_paths):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", link)
        exported(store, place / "a", form)
        with pytest.raises(StoreExists):
            objstore.export(store, place / "a", form)

    def test_where_nothing_can_be_written(self, store, place):
        for form in ("pickle", "jsonl", "dump"):
            with pytest.raises(StoreError, match="cannot be written: No such file"):
                objstore.export(store, place / "nowhere" / "a", form)

    def test_what_makes_no_sense(self, store, place):
        with pytest.raises(ValueError, match="one of 'pickle', 'jsonl', 'dump'"):
            objstore.export(store, place / "a", "csv")
        for options in ({"force": True}, {}):
            with pytest.raises(ValueError, match="makes a new directory"):
                objstore.export(store, place / "a" if options else "-", "pickle", **options)
        with pytest.raises(StoreNotFound):
            objstore.export(place / "none.store", place / "a", "dump")
        assert os.listdir(place) == []


class TestCommand:
    @pytest.fixture
    def run(self):
        return lambda *arguments: CliRunner().invoke(command, ["export", *map(str, arguments)])

    @pytest.fixture
    def source(self, place):
        with Store(place / "a.store") as store:
            store.update({"a": 1, "b\x1b[31m": (1,)})
            store.namespace("users")["c"] = [2]
        return place / "a.store"

    def test_it_exports_and_tells(self, run, source, place):
        done = run(source, place / "a", "--to", "pickle")
        assert (done.exit_code, done.stdout, done.stderr) == (0, "", "3 entries exported\n")
        assert len(unpickled(place / "a")) == 3
        done = run(source, "-", "--to", "jsonl")
        assert done.exit_code == 1
        assert [json.loads(line)["key"] for line in done.stdout.splitlines()] == ["a", "c"]
        told = "left out: 'b\\x1b[31m': a tuple; export to pickle or dump\n2 entries exported, 1 left out\n"
        assert done.stderr == told
        done = run(source, place / "a.dump", "--to", "dump")
        assert (done.exit_code, done.stderr) == (0, "3 entries exported\n")
        assert run(source, "-", "--to", "dump").stdout_bytes[:13] == b"objstore dump"

    def test_a_part_of_it(self, run, source):
        assert (
            run(source, "-", "--to", "jsonl", "-n", "users").stdout
            == '{"key": "c", "value": [2], "namespace": "users"}\n'
        )
        assert run(source, "-", "--to", "jsonl", "-n", "", "-p", "a").stdout == '{"key": "a", "value": 1}\n'
        assert run(source, "-", "--to", "jsonl", "-t", "red").stdout == ""

    def test_what_is_refused(self, run, source, place):
        for arguments, code, why in (
            ((source, place / "x"), 2, "Missing option '--to'"),
            ((source, place / "x", "--to", "csv"), 2, "'csv' is not one of"),
            (("memory://a", place / "x", "--to", "dump"), 2, "ends with the command"),
            ((place / "none", place / "x", "--to", "jsonl"), 1, "there is no store at"),
            ((place / "none", place / "x", "--to", "dump"), 1, "there is no store at"),
            ((source, source, "--to", "dump"), 1, "something at"),
            ((source, place / "x", "--to", "dump", "-n", "users"), 1, "whole store"),
            ((source, "-", "--to", "pickle"), 1, "makes a new directory"),
        ):
            done = run(*arguments)
            assert done.exit_code == code, done.output
            assert why in done.stderr
        assert os.listdir(place) == ["a.store"]

    @pytest.mark.parametrize("form", ["jsonl", "pickle"])
    def test_who_presses_control_c_leaves_no_half_file(self, run, source, place, form, monkeypatch):
        def interrupted(*_arguments):
            raise KeyboardInterrupt

        monkeypatch.setattr(decoding, "write_line", interrupted)
        monkeypatch.setattr(pickledirs, "dumps", interrupted)
        done = run(source, place / "a", "--to", form)
        assert done.exit_code != 0
        assert "exported" not in done.stderr
        assert os.listdir(place) == ["a.store"]
