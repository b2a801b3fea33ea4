"""Importing what other programs have stored: real sources of every format, written by the packages themselves.

What a source holds must be in the store afterwards, equal and of the same types; no code in it may run without
consent; and whatever is left behind is told.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import importlib
import io
import json
import os
import pathlib
import pickle
import shelve
import shutil
import sqlite3
import sys
import uuid
import zlib
from contextlib import closing
from functools import partial

import diskcache
import lmdb
import lmdbm
import numpy as np
import pytest
import sqlitedict
import zict
from click.testing import CliRunner

import objstore
from objstore import Cache, SourceError, Store, import_into
from objstore.cli.commands import objstore as command
from objstore.copying import records
from objstore.exchange import landing, reports, sqlite
from objstore.exchange.consent import names_in

DATA = {
    "text": "grüße",
    "number": -(2**70),
    "nested": [1, {"x": (1, 2.5, None, True)}],
    "bytes": b"\xff\x00",
    "no bytes": b"",
    "bytearray": bytearray(b"xy"),
    "set": {1, "z"},
    "frozenset": frozenset([1]),
    "complex": 1j,
    "range": range(5),
    "slice": slice(1, 2),
    "moment": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
    "span": datetime.timedelta(1),
    "decimal": decimal.Decimal("1.5"),
    "fraction": fractions.Fraction(1, 3),
    "uuid": uuid.UUID(int=5),
    "path": pathlib.PosixPath("/x"),
    "ordered": collections.OrderedDict(b=1, a=2),
    "counter": collections.Counter("aab"),
    "queue": collections.deque([1, 2], 5),
    "default": collections.defaultdict(list, {1: [2]}),
}

RAN = []


def explode():
    """What a hostile pickle calls."""
    RAN.append("ran")


class Person:
    """A class of this module, which no import may load unasked."""

    def __init__(self, name):
        self.name = name

    def __eq__(self, other):
        return type(other) is Person and self.name == other.name

    __hash__ = None


class Bomb:
    """Calls something when it is unpickled."""

    def __reduce__(self):
        return explode, ()


@pytest.fixture
def ran():
    """What has run of what it must not."""
    RAN.clear()
    return RAN


@pytest.fixture
def tmp_path(place):
    """A directory that need not last."""
    return pathlib.Path(place)


# Real sources, each written by its own package


def write_pickles(path, data, protocol=4):
    path.mkdir()
    for key, value in data.items():
        (path / f"{key}.pickle").write_bytes(pickle.dumps(value, protocol))


def dbm_writer(name):
    def write(path, data):
        try:
            module = importlib.import_module(f"dbm.{name}")
        except ImportError as exc:
            pytest.skip(f"this Python has no dbm.{name}: {exc}")
        with shelve.Shelf(module.open(str(path), "n")) as shelf:
            shelf.update(data)

    return write


def write_sqlite_shelf(path, data):
    """As `dbm.sqlite3` does, which Python has from 3.13 on."""
    if sys.version_info >= (3, 13):
        dbm_writer("sqlite3")(path, data)
        return
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE Dict (key BLOB UNIQUE NOT NULL, value BLOB NOT NULL)")
        rows = [(key.encode(), pickle.dumps(value)) for key, value in data.items()]
        connection.executemany("INSERT INTO Dict VALUES (CAST(? AS BLOB), CAST(? AS BLOB))", rows)


def write_diskcache(path, data):
    with diskcache.Cache(str(path)) as cache:
        for key, value in data.items():
            cache[key] = value


def write_fanout(path, data):
    with diskcache.FanoutCache(str(path), shards=3) as cache:
        for key, value in data.items():
            cache[key] = value


def write_sqlitedict(path, data, **options):
    with sqlitedict.SqliteDict(str(path), autocommit=False, **options) as table:
        table.update(data)
        table.commit()


def zlib_encode(value):
    return sqlite3.Binary(zlib.compress(pickle.dumps(value)))


def write_small_sqlitedict(path, data):
    write_sqlitedict(path, data, encode=zlib_encode, decode=lambda raw: pickle.loads(zlib.decompress(bytes(raw))))


def write_lmdbm(path, data):
    with lmdbm.Lmdb.open(str(path), "c") as database:
        for key, value in data.items():
            database[key] = pickle.dumps(value)


def write_zict(path, data):
    with closing(zict.LMDB(str(path), map_size=1 << 24)) as database:
        for key, value in data.items():
            database[key] = pickle.dumps(value)


KEY = bytes(range(32))

RAW = {"keys": "text", "values": "pickle"}

PICKLED = {
    **{f"pickle-{protocol}": (partial(write_pickles, protocol=protocol), {}) for protocol in range(6)},
    "dumb": (dbm_writer("dumb"), {}),
    "gnu": (dbm_writer("gnu"), {}),
    "ndbm": (dbm_writer("ndbm"), {}),
    "sqlite3": (write_sqlite_shelf, {}),
    "diskcache": (write_diskcache, {}),
    "fanout": (write_fanout, {}),
    "sqlitedict": (write_sqlitedict, {}),
    "sqlitedict-zlib": (write_small_sqlitedict, {}),
    "lmdbm": (write_lmdbm, RAW),
    "zict": (write_zict, RAW),
}


@pytest.fixture(params=PICKLED)
def pickled(request, tmp_path):
    """What writes a source that holds pickles, where, and how it is read."""
    write, how = PICKLED[request.param]
    return lambda data: (write(tmp_path / "source", data), str(tmp_path / "source"))[1], how


@pytest.fixture
def memory():
    with Store("memory://") as store:
        yield store


def files_of(path):
    """Every file of a source, with its bytes, but for those in which LMDB keeps who reads."""
    around = (
        [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file() and each.name != "lock.mdb"]
    )
    return {str(each): each.read_bytes() for each in around if each.is_file() and each.name != "lock.mdb"}


def same(one, other):
    return one.keys() == other.keys() and all(
        type(one[key]) is type(other[key]) and one[key] == other[key] for key in other
    )


class TestEveryFormatWithPickles:
    def test_plain_data_needs_no_flag_and_the_source_stays_as_it_is(self, pickled, memory, tmp_path):
        write, how = pickled
        path = write(DATA)
        before = files_of(tmp_path)
        report = import_into(memory, path, **how)
        assert report.ok
        assert (report.imported, report.verified, report.present) == (len(DATA), len(DATA), 0)
        assert same(dict(memory), DATA)
        again = import_into(memory, path, **how)
        assert (again.imported, again.verified, again.present) == (0, len(DATA), len(DATA))
        assert files_of(tmp_path) == before

    def test_code_is_not_run_without_consent(self, pickled, memory, ran):
        write, how = pickled
        path = write({"bomb": Bomb(), "person": Person("Ada"), "plain": 1})
        report = import_into(memory, path, **how)
        assert dict(memory) == {"plain": 1}
        assert (report.imported, report.unread, report.ok, ran) == (1, 2, False, [])
        assert {f"{Person.__module__}.Person"} < set(report.needs)
        report = import_into(memory, path, allow=[Person], **how)
        assert (report.imported, report.present, report.unread, ran) == (1, 1, 1, [])
        assert memory["person"] == Person("Ada")

    def test_forbidden_pickles_stay_so(self, pickled, monkeypatch):
        write, how = pickled
        path = write({"plain": [1]})
        monkeypatch.setenv("OBJSTORE_PICKLE", "forbid")
        with Store("memory://", codec="json") as store:
            report = import_into(store, path, trust=True, **how)
            assert (report.imported, report.unread, len(store)) == (0, 1, 0)
            assert "OBJSTORE_PICKLE=forbid" in report.unread_first[0].reason


class TestConsent:
    @pytest.fixture
    def people(self, tmp_path, monkeypatch):
        """A module of somebody's, and a pickle of a script that had the class itself."""
        (tmp_path / "people.py").write_text("class Person:\n    pass\n")
        monkeypatch.syspath_prepend(tmp_path)
        people = importlib.import_module("people")
        yield people
        del sys.modules["people"]

    def pickle_of_script(self, tmp_path, people, monkeypatch, protocol):
        monkeypatch.setattr(people.Person, "__module__", "__main__")
        monkeypatch.setattr(sys.modules["__main__"], "Person", people.Person, raising=False)
        person = people.Person()
        person.name = "Ada"
        (tmp_path / "person.pickle").write_bytes(pickle.dumps([person, person], protocol))
        monkeypatch.undo()
        monkeypatch.syspath_prepend(tmp_path)

    @pytest.mark.parametrize("protocol", range(6))
    def test_a_class_that_has_moved(self, tmp_path, memory, people, monkeypatch, protocol):
        self.pickle_of_script(tmp_path, people, monkeypatch, protocol)
        path = tmp_path / "person.pickle"
        report = import_into(memory, path)
        assert report.needs == ("__main__.Person",)
        report = import_into(memory, path, rename={"__main__.Person": "people.Person"})
        assert report.ok
        one, other = memory["person"]
        assert (one.name, type(one)) == ("Ada", people.Person)
        assert one is other

    def test_trust_runs_what_there_is(self, tmp_path, memory, ran):
        (tmp_path / "bomb.pickle").write_bytes(pickle.dumps(Bomb()))
        assert not import_into(memory, tmp_path / "bomb.pickle").ok
        assert ran == []
        assert import_into(memory, tmp_path / "bomb.pickle", trust=True).ok
        assert ran == ["ran"] * 2  # imported, and compared

    def test_a_module_that_is_not_there(self, tmp_path, memory, people):
        (tmp_path / "person.pickle").write_bytes(pickle.dumps(people.Person()).replace(b"people", b"poeple"))
        report = import_into(memory, tmp_path / "person.pickle", trust=True)
        assert "No module named 'poeple'" in report.unread_first[0].reason
        assert "PYTHONPATH=." in report.unread_first[0].reason
        with pytest.raises(ValueError, match=r"no 'poeple\.Person'.*PYTHONPATH=\."):
            import_into(memory, tmp_path / "person.pickle", allow=["poeple.Person"])

    @pytest.mark.parametrize("protocol", range(6))
    def test_what_a_pickle_names_is_found_without_running_it(self, protocol):
        data = pickle.dumps([Person("Ada"), collections.ChainMap(), Person("Bob"), len], protocol)
        names = set(names_in(data))
        assert {(Person.__module__, "Person"), ("collections", "ChainMap")} <= names
        assert names_in(data[: len(data) // 2]) == names_in(data)[: len(names_in(data[: len(data) // 2]))]

    def test_what_runs_anything_is_never_allowed(self, tmp_path, memory):
        (tmp_path / "a.pickle").write_bytes(b"c__builtin__\neval\n(V1\ntR.")
        report = import_into(memory, tmp_path / "a.pickle")
        assert report.needs == ()
        assert "only trust" in report.unread_first[0].reason

    def test_old_pickles_encode_nothing_but_bytes(self, tmp_path, memory):
        data = pickle.dumps(b"\xff", 2)
        (tmp_path / "a.pickle").write_bytes(data.replace(b"latin1", b"rot-13"))
        assert b"latin1" in data
        assert "rot-13" in import_into(memory, tmp_path / "a.pickle").unread_first[0].reason

    def test_arrays_and_numbers_of_numpy_are_data(self, tmp_path, memory):
        values = {"array": np.arange(100_000.0), "number": np.float32(2.5), "records": np.zeros(2, "i4,f8")}
        for protocol in range(6):
            write_pickles(tmp_path / str(protocol), values, protocol)
            report = import_into(memory, tmp_path / str(protocol), namespace=str(protocol))
            assert report.ok
            stored = dict(memory.namespace(str(protocol)))
            assert all((stored[key] == value).all() for key, value in values.items())
            assert all(stored[key].dtype == value.dtype for key, value in values.items())


class TestPickleFiles:
    def test_a_single_file_and_directories_as_namespaces(self, tmp_path, memory):
        write_pickles(tmp_path / "all", {"a.b": 1})
        write_pickles(tmp_path / "all" / "users", {"ada": 2})
        (tmp_path / "v1.2").write_bytes(pickle.dumps("no suffix"))
        assert import_into(memory, tmp_path / "all", tmp_path / "v1.2").ok
        assert dict(memory) == {"a.b": 1, "v1.2": "no suffix"}
        assert dict(memory.namespace("users")) == {"ada": 2}

    def test_what_is_no_pickle_and_what_holds_more_than_one_is_left(self, tmp_path, memory):
        write_pickles(tmp_path / "all", {"good": 1})
        two = io.BytesIO()
        for protocol in (4, 0):
            pickle.dump("x" * 10, two, protocol)
        (tmp_path / "all" / "two.pickle").write_bytes(two.getvalue())
        (tmp_path / "all" / "more.pickle").write_bytes(pickle.dumps(1) + b"\n")
        (tmp_path / "all" / "cut.pickle").write_bytes(pickle.dumps("x" * 100)[:-9])
        (tmp_path / "all" / "empty.pickle").touch()
        (tmp_path / "all" / "notes.md").write_text("# notes")
        (tmp_path / "all" / ".hidden").write_text("nobody's")
        os.mkfifo(tmp_path / "all" / "pipe.pickle")
        report = import_into(memory, tmp_path / "all")
        assert dict(memory) == {"good": 1}
        reasons = {left.key: left.reason for left in report.unread_first}
        assert reasons.keys() == {"two.pickle", "more.pickle", "cut.pickle", "empty.pickle", "notes.md", "pipe.pickle"}
        assert reasons["more.pickle"].startswith("1 bytes follow its first object")
        assert "follow its first object" in reasons["two.pickle"]
        assert "cannot be loaded" in reasons["cut.pickle"]
        assert "no pickle" in reasons["notes.md"]

    def test_stores_and_caches_in_a_directory_are_told_and_not_entered(self, tmp_path, memory):
        write_pickles(tmp_path / "all", {"good": 1})
        Store(tmp_path / "all" / "a.store").close()
        write_pickles(tmp_path / "all" / "dc", {"val": 1})
        (tmp_path / "all" / "dc" / "cache.db").touch()
        report = import_into(memory, tmp_path / "all")
        assert dict(memory) == {"good": 1}
        assert memory.namespaces() == []
        assert [(left.key, "by itself" in left.reason) for left in report.unread_first] == [
            ("a.store", True),
            ("dc", True),
        ]


class TestShelves:
    @pytest.mark.parametrize("suffix", ["", ".dir", ".dat", ".bak"])
    def test_a_shelf_is_named_by_any_of_its_files(self, tmp_path, memory, suffix):
        dbm_writer("dumb")(tmp_path / "a.shelf", {"x": 1})
        assert import_into(memory, f"{tmp_path}/a.shelf{suffix}").imported == 1

    def test_a_shelf_of_a_module_that_is_not_there(self, tmp_path, memory):
        (tmp_path / "a").write_bytes(bytes.fromhex("cf9a5713") + bytes(100))
        (tmp_path / "b.db").write_bytes(bytes(12) + bytes.fromhex("61150600") + bytes(100))
        for name, module, hint in (("a", "gnu", "python3-gdbm"), ("b", "ndbm", "libdb")):
            with pytest.raises(SourceError, match=f"dbm.{module}") as raised:
                import_into(memory, tmp_path / name)
            if importlib.util.find_spec({"gnu": "_gdbm", "ndbm": "_dbm"}[module]) is None:
                assert hint in str(raised.value)

    def test_damaged_ones(self, tmp_path, memory):
        dbm_writer("dumb")(tmp_path / "a", {"x": "y" * 1000, "z": 1})
        data = (tmp_path / "a.dat").read_bytes()
        (tmp_path / "a.dat").write_bytes(data[:600])
        report = import_into(memory, tmp_path / "a")
        assert report.unread == 2
        (tmp_path / "a.dat").unlink()
        with pytest.raises(SourceError, match=r"a\.dat is missing"):
            import_into(memory, tmp_path / "a")


class TestDiskcache:
    def test_keys_tags_expiry_files_and_parts(self, tmp_path, memory):
        keys = ["text", 5, 2.5, b"bytes", ("tuple", 1, (None,))]
        large = {"large text": "ü" * 50_000, "large bytes": b"x" * 50_000, "large list": list(range(50_000))}
        with diskcache.FanoutCache(str(tmp_path / "source"), shards=2, cull_limit=0) as cache:
            for key in keys:
                cache.set(key, repr(key), tag="tagged")
            for key, value in large.items():
                cache[key] = value
            cache.set("short", 1, expire=1e-6)
            cache.set("long", 2, expire=1000, tag=7)
            inner, queue, table = cache.cache("inner/one"), cache.deque("queue"), cache.index("table")
            inner["a"] = 1
            queue.extend("xy")
            table[("k", 1)] = "v"
            for part in (inner, queue.cache, table.cache):  # which the cache itself does not close
                part.close()
        report = import_into(memory, tmp_path / "source")
        assert report.ok
        assert report.expired == 1
        assert {key: memory[key] for key in keys} == {key: repr(key) for key in keys}
        assert {key: memory[key] for key in large} == large
        assert memory.entry(5).tags == ("tagged",)
        assert memory.entry("long").tags == ("7",)
        assert 900 < memory.ttl("long") <= 1000
        assert memory.ttl(5) is None
        assert memory.namespaces() == ["cache/inner/one", "deque/queue", "index/table"]
        assert list(memory.namespace("deque/queue").values()) == ["x", "y"]
        assert dict(memory.namespace("index/table")) == {("k", 1): "v"}

    def test_json_disk(self, tmp_path, memory):
        with diskcache.Cache(str(tmp_path / "source"), disk=diskcache.JSONDisk) as cache:
            cache["a"] = {"x": [1, None]}
            cache[["b", 1]] = "y" * 200_000
        assert import_into(memory, tmp_path / "source").ok
        assert dict(memory) == {"a": {"x": [1, None]}, ("b", 1): "y" * 200_000}

    def test_a_file_that_is_gone_or_elsewhere_is_told(self, tmp_path, memory):
        (tmp_path / "secret").write_text("secret")
        with diskcache.Cache(str(tmp_path / "source")) as cache:
            cache["gone"] = "x" * 50_000
            cache["elsewhere"] = "x" * 50_000
            cache["here"] = 1
            (name,) = cache._sql("SELECT filename FROM Cache WHERE key = 'gone'").fetchall()[0]
            (tmp_path / "source" / name).unlink()
            cache._sql("UPDATE Cache SET filename = '../secret' WHERE key = 'elsewhere'")
        report = import_into(memory, tmp_path / "source")
        assert dict(memory) == {"here": 1}
        assert sorted(left.key for left in report.unread_first) == ["'elsewhere'", "'gone'"]

    def test_beside_a_writer(self, tmp_path, memory):
        with diskcache.Cache(str(tmp_path / "source")) as cache:
            for number in range(50):
                cache[number] = number
            report = import_into(memory, tmp_path / "source", progress=lambda *_: cache.set("late", 1))
            assert (report.imported, report.verified, report.differing) == (50, 50, 1)
            assert "import again" in report.differing_first[0].reason
            assert import_into(memory, tmp_path / "source").ok
            assert memory["late"] == cache["late"] == 1


class TestSqlitedict:
    def test_several_tables_are_namespaces(self, tmp_path, memory):
        write_sqlitedict(tmp_path / "a.db", {"x": 1}, tablename="one")
        write_sqlitedict(tmp_path / "a.db", {"x": 2}, tablename='two "2"')
        assert import_into(memory, tmp_path / "a.db").ok
        assert {name: dict(memory.namespace(name)) for name in memory.namespaces()} == {
            "one": {"x": 1},
            'two "2"': {"x": 2},
        }

    def test_text_is_not_guessed_at(self, tmp_path, memory):
        write_sqlitedict(tmp_path / "a.db", {"x": [1]}, encode=json.dumps, decode=json.loads)
        assert "--values json" in import_into(memory, tmp_path / "a.db").unread_first[0].reason
        assert import_into(memory, tmp_path / "a.db", values="json").ok
        assert memory["x"] == [1]

    def test_a_table_that_is_none_and_a_file_cut_short(self, tmp_path, memory):
        write_sqlitedict(tmp_path / "a.db", dict.fromkeys(map(str, range(300)), "y" * 100))
        data = (tmp_path / "a.db").read_bytes()
        (tmp_path / "a.db").write_bytes(data[: len(data) // 2])
        with pytest.raises(SourceError, match=r"a\.db' cannot be read as an SQLite file \(.*malformed"):
            import_into(memory, tmp_path / "a.db")
        with closing(sqlite3.connect(tmp_path / "b.db")) as connection, connection:
            connection.execute("CREATE TABLE other (a, b, c)")
        with pytest.raises(SourceError, match="--from"):
            import_into(memory, tmp_path / "b.db")
        with pytest.raises(SourceError, match="no table of a SqliteDict"):
            import_into(memory, tmp_path / "b.db", format="sqlitedict")

    def test_no_writer_waits_for_a_reader_between_its_pages(self, tmp_path, memory, monkeypatch):
        monkeypatch.setattr(records, "_BATCH_RECORDS", 7)
        monkeypatch.setattr(sqlite, "_PAGE_ROWS", 5)
        write_sqlitedict(tmp_path / "a.db", {f"{number:03}": number for number in range(50)})
        with closing(sqlite3.connect(tmp_path / "a.db", timeout=0, isolation_level=None)) as writer:

            def write(done, _total):
                writer.execute("UPDATE unnamed SET value = ? WHERE key = '000'", (pickle.dumps(done),))

            report = import_into(memory, tmp_path / "a.db", progress=write)
        assert (report.imported, len(memory), report.verified) == (50, 50, 49)
        assert [left.key for left in report.differing_first] == ["'000'"]

    def test_a_cache_that_is_written_while_it_is_read_as_if_nobody_had_it_open(self, tmp_path, memory, monkeypatch):
        monkeypatch.setattr(records, "_BATCH_RECORDS", 7)
        write_diskcache(tmp_path / "source", {f"{number:03}": number for number in range(50)})
        writers = []

        def write(_done, _total):
            writers.append(diskcache.Cache(str(tmp_path / "source")))
            writers[-1]["late"] = 1
            writers[-1].close()

        with pytest.raises(SourceError, match="written while it was read"):
            import_into(memory, tmp_path / "source", progress=write)
        assert import_into(memory, tmp_path / "source").ok
        assert memory["late"] == 1

    def test_a_journal_of_a_writer_that_was_killed_is_read_and_kept(self, tmp_path, memory):
        (tmp_path / "dead").mkdir()
        with closing(sqlite3.connect(tmp_path / "live.db")) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE t (key TEXT PRIMARY KEY, value BLOB)")
            connection.execute("INSERT INTO t VALUES ('x', ?)", (pickle.dumps(1),))
            connection.commit()
            for name in ("live.db", "live.db-wal"):
                shutil.copy(tmp_path / name, tmp_path / "dead")
            before = files_of(tmp_path / "dead")
            assert import_into(memory, tmp_path / "dead" / "live.db", tmp_path / "live.db").verified == 2
        after = files_of(tmp_path / "dead")
        assert {name: after[name] for name in before} == before


class TestLmdb:
    @pytest.mark.parametrize("version", [0, 1])
    @pytest.mark.parametrize("subdir", [True, False])
    def test_named_databases_are_namespaces(self, tmp_path, memory, version, subdir):
        path = str(tmp_path / "source")
        with closing(lmdb.open(path, subdir=subdir, max_dbs=5, lib_version=version)) as environment:
            one, many = environment.open_db(b"one"), environment.open_db(b"many", dupsort=True)
            with environment.begin(write=True) as txn:
                txn.put(b"\xff", b"x" * 48)  # as long as the description of a database
                txn.put(b"key", b"value", db=one)
                for value in (b"1", b"2"):
                    txn.put(b"both", value, db=many)
                txn.put(b"single", b"3", db=many)
        report = import_into(memory, path)
        assert dict(memory) == {b"\xff": b"x" * 48}
        assert {name: dict(memory.namespace(name)) for name in memory.namespaces()} == {
            "one": {b"key": b"value"},
            "many": {b"single": b"3"},
        }
        assert [left.key for left in report.unread_first] == ["b'both'"]
        assert "2 values" in report.unread_first[0].reason

    def test_what_keys_and_values_are_is_said(self, tmp_path, memory):
        with lmdbm.Lmdb.open(str(tmp_path / "source"), "c") as database:
            database.update({"a": b"[1]", "b": b"\xff", b"\xff": b"1"})
        report = import_into(memory, tmp_path / "source", keys="text", values="json")
        assert dict(memory) == {"a": [1]}
        assert {left.key: left.reason[:20] for left in report.unread_first} == {
            "b'b'": "its value is not UTF",
            "b'\\xff'": "its key is not UTF-8",
        }

    def test_one_that_is_open_or_cut_short(self, tmp_path, memory):
        with lmdbm.Lmdb.open(str(tmp_path / "source"), "c") as database:
            database.update({str(number): b"x" * 3000 for number in range(100)})
            with pytest.raises(SourceError, match="close it in this process"):
                import_into(memory, tmp_path / "source")
        data = tmp_path / "source" / "data.mdb"
        data.write_bytes(data.read_bytes()[:100_000])
        with pytest.raises(SourceError, match="cut short: 100000 bytes of"):
            import_into(memory, tmp_path / "source")

    def test_a_store_is_copied_and_not_imported(self, tmp_path, memory):
        Store(tmp_path / "a.store").close()
        shutil.copy(tmp_path / "a.store" / "data.mdb", tmp_path / "bare.mdb")
        for source in (
            tmp_path / "a.store",
            tmp_path / "a.store" / "data.mdb",
            tmp_path / "bare.mdb",
            "redis://host/a",
        ):
            with pytest.raises(SourceError, match="use `objstore copy`"):
                import_into(memory, source)


class TestJsonLines:
    LINES = (
        b'{"key": "a", "value": [1], "tags": ["t"]}\n\n{"key": [1, "b"], "value": null, "namespace": "n"}\n'
        b'{"key": "old", "value": 1, "expires_at": "2001-01-01T00:00:00+00:00"}\nnonsense\n{"key": "last", "value": 2}'
    )

    def test_lines_of_an_export(self, tmp_path, memory):
        (tmp_path / "a").write_bytes(self.LINES)
        report = import_into(memory, tmp_path / "a")
        assert dict(memory) == {"a": [1], "last": 2}
        assert dict(memory.namespace("n")) == {(1, "b"): None}
        assert memory.entry("a").tags == ("t",)
        assert (report.expired, [left.key for left in report.unread_first]) == (1, ["line 5"])

    def test_lines_of_others(self, tmp_path, memory):
        (tmp_path / "a.jsonl").write_bytes(b'{"id": 1, "name": "Ada"}\n{"name": "Bob"}\n')
        report = import_into(memory, tmp_path / "a.jsonl", key_field="id")
        assert dict(memory) == {1: {"id": 1, "name": "Ada"}}
        assert "no field 'id'" in report.unread_first[0].reason


class TestWhatThisLibraryExports:
    @pytest.mark.parametrize("form", ["pickle", "jsonl", "dump"])
    def test_comes_back(self, tmp_path, form):
        with Store("memory://") as store:
            store.update({("t", 1): 1, "a/b": [1, 2], 42: "x", "A": 1, "a": 2, b"\xff": None})
            store.set("tagged", 1, ttl=1000, tags=["t"])
            store.namespace("na/me")["q"] = {}
            assert objstore.export(store, tmp_path / "out", format=form).ok
            report = import_into(tmp_path / "a.store", tmp_path / "out")
            assert report.ok
            assert (report.imported, report.verified) == (8, 8)
            with Store(tmp_path / "a.store", "r") as back:
                assert dict(back) == dict(store)
                assert dict(back.namespace("na/me")) == {"q": {}}
                assert back.entry("tagged").tags == ("t",)
                assert back.ttl("tagged") == pytest.approx(store.ttl("tagged"), abs=1)

    def test_an_index_that_lies(self, tmp_path, memory):
        memory.update({"a": 1, "b": 2})
        objstore.export(memory, tmp_path / "out", format="pickle")
        (tmp_path / "out" / "b.pickle").unlink()
        (tmp_path / "out" / "c.pickle").write_bytes(pickle.dumps(3))
        with Store("memory://") as store:
            report = import_into(store, tmp_path / "out")
            assert (dict(store), [left.key for left in report.unread_first]) == ({"a": 1, "c": 3}, ["b.pickle"])
            (tmp_path / "out" / "index.jsonl").write_text('{"file": "../../a", "key": 1}')
            with pytest.raises(SourceError, match=r"line 1 of index\.jsonl"):
                import_into(store, tmp_path / "out")

    def test_a_dump_is_a_whole_store(self, tmp_path, memory):
        memory["a"] = 1
        objstore.export(memory, tmp_path / "out", format="dump")
        for more in ({"namespace": "n"}, {}):
            with pytest.raises(ValueError, match="by itself"):
                import_into(tmp_path / "a.store", *[tmp_path / "out"] * (2 - len(more)), **more)
        data = (tmp_path / "out").read_bytes()
        (tmp_path / "out").write_bytes(data[: len(data) - 10])
        report = import_into(tmp_path / "a.store", tmp_path / "out")
        assert not report.ok
        assert report.unread == len(report.unread_first) > 0


class TestRecognising:
    def test_by_content_and_not_by_name(self, tmp_path, memory):
        for name, (write, _) in PICKLED.items():
            if name in ("gnu", "ndbm", "dumb", "lmdbm", "zict"):
                continue
            write(tmp_path / name, {"x": name})
            misnamed = (tmp_path / name).rename(tmp_path / f"{name}.csv")
            assert import_into(memory, misnamed, namespace=name).ok, name
            assert dict(memory.namespace(name)) == {"x": name}

    @pytest.mark.parametrize("content", [b"", b"key,value\n1,2\n", b"{nonsense", b"(", os.urandom(1000) + b"x"])
    def test_what_cannot_be_told_names_the_formats(self, tmp_path, memory, content):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(SourceError, match="--from") as raised:
            import_into(memory, tmp_path / "a")
        assert "sqlitedict" in str(raised.value)

    def test_nothing_there_and_nothing_in_it(self, tmp_path, memory):
        with pytest.raises(SourceError, match="there is nothing at"):
            import_into(tmp_path / "new.store", tmp_path / "a")
        assert not (tmp_path / "new.store").exists()
        (tmp_path / "empty").mkdir()
        with pytest.raises(SourceError, match="--from"):
            import_into(memory, tmp_path / "empty")
        with pytest.raises(ValueError, match="at least one"):
            import_into(memory)
        for form in ("pickle", "diskcache", "sqlitedict", "lmdb", "shelve", "jsonl"):
            with pytest.raises(SourceError):
                import_into(memory, tmp_path / "a", format=form)

    @pytest.mark.parametrize("option", [{"format": "csv"}, {"keys": "json"}, {"values": "yaml"}])
    def test_options_that_make_no_sense(self, tmp_path, memory, option):
        with pytest.raises(ValueError, match="one of"):
            import_into(memory, tmp_path, **option)


class TestTheTarget:
    @pytest.fixture
    def source(self, tmp_path):
        write_diskcache(tmp_path / "source", {f"key{number}": [number] for number in range(50)})
        return tmp_path / "source"

    def test_what_is_there_is_not_overwritten_silently(self, source, memory, clock):
        memory["key7"] = "mine"
        memory.set("key8", [8], tags=["mine"])
        memory.set("key9", "expired", ttl=1e-6)
        report = import_into(memory, source)
        assert (report.imported, report.present, report.verified, report.differing) == (48, 1, 49, 1)
        assert report.differing_first[0].key == "'key7'"
        assert "--replace" in report.differing_first[0].reason
        assert memory["key7"] == "mine"
        assert memory.entry("key8").tags == ("mine",)
        report = import_into(memory, source, replace=True)
        assert report.ok
        assert (report.imported, report.replaced, report.present) == (1, 1, 49)
        assert memory["key7"] == [7]

    def test_two_sources_with_one_key(self, tmp_path, memory):
        write_pickles(tmp_path / "one", {"a": 1})
        (tmp_path / "one" / "a.pkl").write_bytes(pickle.dumps(2))
        report = import_into(memory, tmp_path / "one")
        assert (report.imported, report.verified, report.differing) == (1, 1, 1)
        report = import_into(memory, tmp_path / "one", replace=True)
        assert (report.replaced, report.present, report.differing, memory["a"]) == (1, 1, 1, 2)

    def test_somebody_writes_between_the_look_and_the_write(self, source, memory, monkeypatch):
        put = landing.Landing.put

        def later(self, *arguments):
            memory.add("key5", "somebody's")
            return put(self, *arguments)

        monkeypatch.setattr(landing.Landing, "put", later)
        report = import_into(memory, source)
        assert memory["key5"] == "somebody's"
        assert (report.imported, report.verified, report.differing) == (49, 49, 1)

    def test_everywhere(self, source, everywhere):
        with Store(everywhere) as store:
            store["key7"] = "mine"
            report = import_into(store, source)
            assert (report.imported, report.verified, report.differing) == (49, 49, 1)
            report = import_into(store.namespace("n"), source)
            assert (report.imported, report.verified) == (50, 50)
            assert store.namespaces() == ["n"]
            assert import_into(store, source, namespace="n").present == 50
            if store.supports("backup"):
                assert store.check().ok

    def test_sealed_and_compressed_ones(self, source, tmp_path):
        for options in ({"signing_key": KEY}, {"encryption_key": KEY}, {"compression": "zlib"}):
            with Store("memory://", **options) as store:
                assert import_into(store, source).verified == 50
                assert import_into(store, source).present == 50

    def test_a_cache_keeps_its_bound_and_its_ttl(self, source, tmp_path):
        with Cache(tmp_path / "a.cache", max_entries=20, ttl=1000) as cache:
            report = import_into(cache, source)
            assert report.ok
            assert (report.imported, report.verified + report.evicted) == (50, 50)
            assert 10 < len(cache) <= 20
            assert cache.ttl(cache.last()) <= 1000
        with Cache(tmp_path / "b.cache", max_size=1 << 24):
            pass
        assert import_into(tmp_path / "b.cache", source).verified == 50

    def test_what_its_codec_does_not_take_is_told(self, tmp_path):
        write_pickles(tmp_path / "all", {"good": {"a": 1}, "bad": {1: b""}})
        with Store("memory://", codec="json") as store:
            report = import_into(store, tmp_path / "all")
            assert (dict(store), report.verified, report.unread) == ({"good": {"a": 1}}, 1, 1)
            assert "cannot be encoded as json" in report.unread_first[0].reason

    def test_keys_that_can_be_none(self, tmp_path, memory):
        with diskcache.Cache(str(tmp_path / "source")) as cache:
            cache[frozenset([1])] = 1
            cache["fine"] = 2
        report = import_into(memory, tmp_path / "source")
        assert dict(memory) == {"fine": 2}
        assert "frozenset" in report.unread_first[0].reason

    def test_the_list_is_bounded_and_the_count_is_not(self, tmp_path, memory, monkeypatch):
        monkeypatch.setattr(reports, "MOST_LISTED", 3)
        (tmp_path / "a.jsonl").write_bytes(b'{"key": 1, "value": 1}\n' + b"{}\n" * 10)
        report = import_into(memory, tmp_path / "a.jsonl")
        assert (report.unread, len(report.unread_first)) == (10, 3)

    def test_progress_ends_where_it_says(self, source, memory, monkeypatch):
        monkeypatch.setattr(records, "_BATCH_RECORDS", 7)
        told = []
        import_into(memory, source, progress=lambda *each: told.append(each))
        assert told == sorted(told)
        assert told[-1] == (100, 100)
        assert {total for _, total in told} == {100}


def test_what_is_larger_than_a_cache_is_left_and_nothing_else(tmp_path):
    write_pickles(tmp_path / "all", {"a": 1, "large": "x" * 300_000, "z": 2})
    with Cache(tmp_path / "a.cache", max_size=200_000) as cache:
        report = import_into(cache, tmp_path / "all")
        assert dict(cache) == {"a": 1, "z": 2}
    assert (report.imported, report.unread, report.evicted) == (2, 1, 0)
    assert "the whole cache holds 200,000" in report.unread_first[0].reason


class TestTheCommand:
    def run(self, *arguments):
        return CliRunner().invoke(command, ["import", *map(str, arguments)])

    def test_all_is_well(self, tmp_path):
        write_pickles(tmp_path / "all", {"a": 1, "b": 2})
        done = self.run(tmp_path / "a.store", tmp_path / "all", "-n", "users")
        assert (done.exit_code, done.output) == (0, "2 entries imported; 2 compared and the same\n")
        with Store(tmp_path / "a.store", "r") as store:
            assert dict(store.namespace("users")) == {"a": 1, "b": 2}

    def test_what_is_left_names_the_flags(self, tmp_path):
        write_pickles(tmp_path / "all", {"plain": 1})
        (tmp_path / "all" / "person\x1b.pickle").write_bytes(pickle.dumps(Person("Ada")))
        named = f"c{Person.__module__}\nPerson\n".encode()
        script = pickle.dumps(Person("Eve"), 2)
        assert named in script
        (tmp_path / "all" / "script.pickle").write_bytes(script.replace(named, b"c__main__\nPerson\n"))
        done = self.run(tmp_path / "a.store", tmp_path / "all")
        assert done.exit_code == 1
        assert f"--allow {Person.__module__}.Person" in done.output
        assert "--trust" in done.output
        assert "\x1b" not in done.output
        assert "--rename __main__.Person=MODULE.Person" in done.output
        refused = self.run(tmp_path / "a.store", tmp_path / "all", "--allow", "__main__.Person")
        assert refused.exit_code == 2
        assert "--rename __main__.Person=MODULE.Person" in refused.output
        done = self.run(
            *(tmp_path / "a.store", tmp_path / "all", "--allow", f"{Person.__module__}.Person"),
            *("--rename", f"__main__.Person={Person.__module__}.Person"),
        )
        assert (done.exit_code, done.output) == (0, "2 entries imported, 1 were there; 3 compared and the same\n")

    def test_what_differs(self, tmp_path):
        write_pickles(tmp_path / "all", {"a": 1})
        with Store(tmp_path / "a.store") as store:
            store["a"] = 2
        done = self.run(tmp_path / "a.store", tmp_path / "all")
        assert done.exit_code == 1
        assert "differs: 'a' of" in done.output
        assert self.run(tmp_path / "a.store", tmp_path / "all", "--replace").exit_code == 0

    @pytest.mark.parametrize(
        ("options", "code", "message"),
        [
            ([], 1, "--from"),
            (["--from", "csv"], 2, "csv"),
            (["--rename", "a.B"], 2, "OLD.Name=NEW.Name"),
            (["--allow", "nothing.there"], 1, "PYTHONPATH=."),
            (["--allow", "os"], 1, "Error"),
            (["--from", "lmdb"], 1, "no file of LMDB"),
            (["-n", ""], 1, "--from"),
        ],
    )
    def test_what_is_refused_says_why(self, tmp_path, options, code, message):
        (tmp_path / "source").write_text("nothing that is known")
        done = self.run(tmp_path / "a.store", tmp_path / "source", *options)
        assert done.exit_code == code
        assert message in done.output

    def test_a_store_in_memory_ends_with_it(self, tmp_path):
        assert self.run("memory://", tmp_path).exit_code == 2
        with pytest.raises(ValueError, match="open the target first"):
            write_pickles(tmp_path / "all", {"a": 1})
            import_into("memory://x", tmp_path / "all")

    def test_interrupted(self, tmp_path, monkeypatch):
        def interrupt(*_arguments, **_options):
            raise KeyboardInterrupt

        monkeypatch.setattr(objstore, "import_into", interrupt)
        done = self.run(tmp_path / "a.store", tmp_path)
        assert done.exit_code == 130
        assert "goes on where it was" in done.output

    def test_what_is_alike_is_told_a_few_times_and_namespaces_are_named(self, tmp_path):
        (tmp_path / "lines.jsonl").write_text('{"id": 1}\n' * 300)
        done = self.run(tmp_path / "a.store", tmp_path / "lines.jsonl")
        assert done.output.count("no field 'key'; if this is no export, name the field that is the key") == 5
        assert "(key_field, --key)" in done.output
        assert "... and 295 more like these" in done.output
        write_pickles(tmp_path / "all", {})
        write_pickles(tmp_path / "all" / "users", {"ada": 1})
        done = self.run(tmp_path / "a.store", tmp_path / "all")
        assert done.output == "1 entries imported; 1 compared and the same; into the namespaces 'users'\n"

    def test_what_a_module_prints_is_none_of_the_report(self, tmp_path, monkeypatch):
        (tmp_path / "talking.py").write_text("class Person:\n    pass\n\nprint('written')\n")
        monkeypatch.syspath_prepend(tmp_path)
        write_pickles(tmp_path / "all", {"a": 1})
        done = CliRunner().invoke(
            command, ["import", str(tmp_path / "a.store"), str(tmp_path / "all"), "--allow", "talking.Person", "--json"]
        )
        assert json.loads(done.stdout)["ok"]

    def test_for_programs(self, tmp_path):
        write_pickles(tmp_path / "all", {"a": 1, "person": Person("Ada")})
        done = self.run(tmp_path / "a.store", tmp_path / "all", "--json")
        told = json.loads(done.output)
        assert (done.exit_code, told["ok"], told["imported"], told["unread"]) == (1, False, 1, 1)
        assert told["needs"] == [f"{Person.__module__}.Person"]
        assert told["unread_first"][0]["key"] == "person.pickle"
