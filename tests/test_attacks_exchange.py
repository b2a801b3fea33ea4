"""Attacks on import, export and completion: sources that were forged, and what others have chosen as a name.

None of it may run, lead out of its directory, hang, or end an import with anything but a report or a SourceError; and
no entry may be lost, or become another, and nobody be told.
"""

from __future__ import annotations

import os
import pathlib
import pickle
import shlex
import shutil
import sqlite3
import subprocess
import sys
import zlib
from contextlib import closing

import diskcache
import lmdb
import numpy as np
import pytest
from click.testing import CliRunner

from objstore import SourceError, Store, StoreExists, export, import_into
from objstore.cli.commands import objstore as command
from objstore.exchange import lines


@pytest.fixture
def tmp_path(place):
    """A directory that need not last."""
    return pathlib.Path(place)


@pytest.fixture
def memory():
    with Store("memory://") as store:
        yield store


class TestForgedDiskcache:
    """A row of SQLite may have anything in any column."""

    @pytest.fixture
    def forged(self, tmp_path):
        def forge(**columns):
            with diskcache.Cache(str(tmp_path / "cache")) as cache:
                cache["forged"] = 1
                cache["sound"] = 2
            with closing(sqlite3.connect(tmp_path / "cache" / "cache.db")) as connection, connection:
                for column, value in columns.items():
                    connection.execute(f"UPDATE Cache SET {column} = ? WHERE key = 'forged'", (value,))
            return tmp_path / "cache"

        return forge

    @pytest.mark.parametrize(
        ("columns", "why"),
        [
            ({"filename": "a\0b"}, "embedded null"),
            ({"filename": b"\xff"}, "no text"),
            ({"filename": "pipe"}, "no regular file"),
            ({"filename": "circle"}, "circle"),
            ({"filename": "../../x"}, "outside"),
            ({"filename": "/etc/hostname"}, "outside"),
            ({"expire_time": "soon"}, "no number"),
            ({"mode": 4, "value": 5}, "cannot be loaded"),
        ],
    )
    def test_a_row_that_makes_no_sense_is_told_and_stops_no_other(self, forged, memory, columns, why):
        path = forged(**columns)
        os.mkfifo(path / "pipe")
        (path / "circle").symlink_to("circle")
        report = import_into(memory, path)
        assert (report.imported, report.unread, dict(memory)) == (1, 1, {"sound": 2})
        assert why in report.unread_first[0].reason

    @pytest.mark.parametrize(
        ("columns", "there"),
        [
            ({"size": "x"}, True),
            ({"size": -1e300}, True),
            ({"rowid": 2**63 - 1}, True),
            ({"rowid": -(2**63)}, True),
            ({"expire_time": float("inf")}, True),
            ({"expire_time": float("-inf")}, False),
        ],
    )
    def test_a_row_at_the_bounds_is_as_any_other(self, forged, memory, columns, there):
        assert import_into(memory, forged(**columns)).ok
        assert ("forged" in memory) is there

    def test_keys_that_nest_deeply_are_no_json(self, forged, memory):
        deep = zlib.compress(b"[" * 100_000)
        path = forged(key=deep)
        with closing(sqlite3.connect(path / "cache.db")) as connection, connection:
            connection.execute("DELETE FROM Cache WHERE key = 'sound'")
        assert import_into(memory, path).ok
        assert list(memory) == [deep]


class TestForgedShelves:
    @pytest.mark.parametrize(
        "index",
        [
            "'k', (0, 10**12)",
            f"'k', (0, {10**18})",
            f"'k', (0, {10**30})",
            "'k', (-5, 5)",
            "'k', ('a', 'b')",
            "5, (0, 5)",
            "'k', (0,)",
            "-" * 50_000 + "1",
        ],
    )
    def test_an_index_that_makes_no_sense_is_told(self, tmp_path, memory, index):
        (tmp_path / "a.dir").write_text(index + "\n")
        (tmp_path / "a.dat").write_bytes(pickle.dumps(1))
        with pytest.raises(SourceError, match="cannot be read"):
            import_into(memory, tmp_path / "a")

    @pytest.mark.parametrize("row", [(5, b"x"), (b"k", 5), (b"k", 1.5)])
    def test_rows_are_bytes(self, tmp_path, memory, row):
        with closing(sqlite3.connect(tmp_path / "a")) as connection, connection:
            connection.execute("CREATE TABLE Dict (key BLOB UNIQUE NOT NULL, value BLOB NOT NULL)")
            connection.execute("INSERT INTO Dict VALUES (?, ?)", row)
        with pytest.raises(SourceError, match="no bytes"):
            import_into(memory, tmp_path / "a")

    def test_a_view_is_no_shelf(self, tmp_path, memory):
        """It has no rows with numbers, and may have any number of them."""
        with closing(sqlite3.connect(tmp_path / "a")) as connection, connection:
            connection.execute("CREATE TABLE other (key BLOB, value BLOB, more BLOB)")
            connection.execute("CREATE VIEW Dict AS SELECT a.key, b.value FROM other a, other b")
        for form in ("auto", "shelve"):
            with pytest.raises(SourceError):
                import_into(memory, tmp_path / "a", format=form)


def test_a_table_whose_numbers_are_none(tmp_path, memory):
    (tmp_path / "a").mkdir()
    with closing(sqlite3.connect(tmp_path / "a" / "cache.db")) as connection, connection:
        connection.execute("CREATE TABLE Cache (rowid TEXT, key, raw, expire_time, tag, size, mode, filename, value)")
        connection.execute("INSERT INTO Cache VALUES ('x', 'k', 1, NULL, NULL, 0, 1, NULL, 5)")
    with pytest.raises(SourceError, match="no numbers"):
        import_into(memory, tmp_path / "a")


def test_a_key_of_lmdb_that_begins_with_the_name_of_a_database_is_a_key(tmp_path, memory):
    """LMDB reads a name up to a NUL; what is a name has 48 bytes under it, as may any key."""
    with lmdb.open(str(tmp_path / "a"), max_dbs=2) as environment:
        database = environment.open_db(b"foo")
        with environment.begin(write=True) as txn:
            txn.put(b"inside", b"1", db=database)
            txn.put(b"foo\0bar", b"v" * 48)
            txn.put(b"foo\0", b"w" * 48)
    assert import_into(memory, tmp_path / "a").ok
    assert dict(memory) == {b"foo\0": b"w" * 48, b"foo\0bar": b"v" * 48}
    assert dict(memory.namespace("foo")) == {b"inside": b"1"}
    assert memory.namespaces() == ["foo"]


def test_databases_of_lmdb_behind_many_values_that_look_like_their_descriptions(tmp_path, memory):
    with lmdb.open(str(tmp_path / "a"), max_dbs=2, map_size=1 << 24) as environment:
        database = environment.open_db(b"zoo")
        with environment.begin(write=True) as txn:
            txn.put(b"inside", b"1", db=database)
            for number in range(4200):
                txn.put(b"%05d" % number, b"v" * 48)
    assert import_into(memory, tmp_path / "a").ok
    assert (len(memory), dict(memory.namespace("zoo"))) == (4200, {b"inside": b"1"})


def test_what_follows_the_longest_line_is_no_line(tmp_path, memory, monkeypatch):
    monkeypatch.setattr(lines, "_LONGEST", 100)
    line = b'{"key": 1, "value": "'
    forged = line.ljust(100, b"x") + b'{"key": 2, "value": "forged"}\n'
    (tmp_path / "a.jsonl").write_bytes(forged + b'{"key": 3, "value": 3}\n' + forged.rstrip(b"\n"))
    report = import_into(memory, tmp_path / "a.jsonl")
    assert (dict(memory), report.imported, report.unread) == ({3: 3}, 1, 2)
    assert [left.key for left in report.unread_first] == ["line 1", "line 3"]
    assert all("longer than 100 bytes" in left.reason for left in report.unread_first)


@pytest.mark.parametrize("format_", ["jsonl", "dump"])
def test_no_export_takes_the_place_of_a_device(tmp_path, memory, format_):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for name in ("pipe", "link"):
        with pytest.raises(StoreExists, match="no file"):
            export(memory, tmp_path / name, format_, force=True)
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_char_device()


class TestDtypes:
    """NumPy believes the state of a dtype, and what has another form than it writes ends the process."""

    def state(self, *parts):
        """A pickle of a dtype with that state."""
        told = b"".join(pickle.dumps(part, 2)[2:-1] for part in parts)
        return b"cnumpy\ndtype\n(VV12\nI00\nI01\ntR(" + told + b"tb."

    @pytest.mark.parametrize(
        "parts",
        [
            (3, "|", (None, ("f0", "f1"), {"f0": 1, "f1": 2}), 12, 1, 16),
            (3, "|", None, ("f0",), {"f0": 1}, 12, 1, 16),
            (3, "|", None, ("f0",), {}, 12, 1, 16),
            (3, "|", None, ("f0",), None, 12, 1, 16),
            (3, "|", None, (1,), {1: 2}, 12, 1, 16),
            (3, "|", 5, None, None, 12, 1, 16),
            (3, "|", (5, (2,)), None, None, 12, 1, 16),
            (4, "|", None, None, None, 12, 1, 16, (None, None)),
            (4, "|", None, None, None, 12, 1, 16, (None, (b"s", 0, 0, 0))),
            (3, "|", None, None, None, 2**70, 1, 16),
            (),
        ],
    )
    def test_a_state_that_numpy_does_not_write_does_not_reach_it(self, tmp_path, memory, parts):
        (tmp_path / "a.pickle").write_bytes(self.state(*parts))
        report = import_into(memory, tmp_path / "a.pickle")
        assert (report.unread, len(memory)) == (1, 0)
        assert "forged" in report.unread_first[0].reason

    @pytest.mark.parametrize("protocol", range(6))
    def test_what_numpy_writes_does(self, tmp_path, memory, protocol):
        plain = [">f8", "U3", "M8[s]", "m8[25us]", "M8", "O", "i4,f8", ("i4", (2, 3)), "V5", "c16", []]
        fields = [[("a", "i4", (2,)), ("b", "M8[ns]")], [(("title", "n"), "O")]]
        beside = [np.dtype("M8[s]", metadata={"a": 1}), np.dtype("i4,f8", align=True)]
        dtypes = [np.dtype(each) for each in (*plain, *fields, *beside)]
        (tmp_path / "a.pickle").write_bytes(pickle.dumps(dtypes, protocol))
        assert import_into(memory, tmp_path / "a.pickle").ok
        assert memory["a"] == dtypes


class TestTheReport:
    """What it shows of a pickle is what a user may type next."""

    def told(self, tmp_path, name, file="a.pickle"):
        module, _, qualified = name.rpartition(".")
        data = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(each)]) + each.encode() for each in (module, qualified))
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / file).write_bytes(data + b"\x93.")
        done = CliRunner().invoke(command, ["import", str(tmp_path / "a.store"), str(tmp_path / "source")])
        assert done.exit_code == 1
        return done.output.splitlines()

    def test_the_options_that_it_proposes_are_words_of_a_shell(self, tmp_path):
        hint = self.told(tmp_path, "__main__.x;touch $(ran)")[1]
        assert shlex.split(hint.partition("give ")[2].partition(", with")[0]) == [
            "--rename",
            "__main__.x;touch $(ran)=MODULE.x;touch $(ran)",
        ]

    @pytest.mark.parametrize(
        ("name", "file", "hints"), [("a\nleft: b.c", "a.pickle", 0), ("a.b", "a\n5 entries imported\n.pickle", 2)]
    )
    def test_a_line_is_one_line(self, tmp_path, name, file, hints):
        told = self.told(tmp_path, name, file)
        assert [line.partition(":")[0] for line in told[:-1]] == [
            "left",
            "to take over what needs these names, if you know them",
            "or --trust, if you trust whoever wrote it",
        ][: 1 + hints]
        assert "5 entries" not in told


class TestCompletion:
    HOSTILE = ("a$(touch ran)", "a`touch ran`", "a'; touch ran; '", 'a"; touch ran; "', "a\\", "a!!", "a\ntouch ran")
    LINES = ("a", '"a', "'a", '"a\\')

    def test_bash_runs_nothing_of_a_key(self, tmp_path):
        """Each line is completed as bash does it, and then run, as who presses Enter does."""
        with Store(tmp_path / "a.store") as store:
            store.update(dict.fromkeys(self.HOSTILE, 1))
        (tmp_path / "objstore").write_text(f'#!/bin/sh\nexec {sys.executable} -m objstore "$@"\n')
        (tmp_path / "objstore").chmod(0o755)
        program = 'eval "$(objstore completion bash)"\n' + "".join(
            f"COMP_LINE={shlex.quote('objstore get a.store ' + begun)} COMP_POINT=${{#COMP_LINE}}\n"
            "_objstore_completion objstore\n"
            f"printf '%s\\0' {shlex.quote(begun)} \"${{COMPREPLY[@]}}\" ''\n"
            for begun in self.LINES
        )
        environment = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}
        done = subprocess.run(
            ["bash", "-c", program], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
        )
        assert done.stderr == ""
        offered = [each.split("\0") for each in done.stdout.removesuffix("\0\0").split("\0\0")]
        typed = [(begun, value) for begun, *values in offered for value in values]
        assert {begun for begun, _ in typed} == {"a", "'a", '"a'}  # after a backslash nothing is offered
        for begun, value in typed:
            quote = begun[:1] if begun[:1] in ('"', "'") else ""
            words = shlex.split(f"{quote}{value}{quote}")
            assert len(words) == 1
            subprocess.run(["bash", "-c", f"printf %s {quote}{value}{quote}"], check=True, cwd=tmp_path)
        assert not (tmp_path / "ran").exists()


def test_an_index_leads_nowhere_behind_a_link(tmp_path, memory):
    for name in ("secret", "source"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.pickle").write_bytes(pickle.dumps(name))
    (tmp_path / "source" / "link").symlink_to("../secret")
    lines_ = ['{"file": "link/a.pickle", "key": "stolen"}', '{"file": "a.pickle", "key": "sound"}']
    (tmp_path / "source" / "index.jsonl").write_text("\n".join(lines_))
    report = import_into(memory, tmp_path / "source")
    assert (dict(memory), report.unread) == ({"sound": "source"}, 1)
    assert "elsewhere" in report.unread_first[0].reason


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_fish_offers_whole_keys(tmp_path):
    """A part of one may be another, which somebody then deletes."""
    with Store(tmp_path / "a.store") as store:
        store.update(dict.fromkeys(["with, a comma", ("with", 1, 2)], 1))
    (tmp_path / "objstore").write_text(f'#!/bin/sh\nexec {sys.executable} -m objstore "$@"\n')
    (tmp_path / "objstore").chmod(0o755)
    program = "objstore completion fish | source; complete -C 'objstore get a.store with'"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["fish", "-c", program], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
    )
    assert done.stdout.splitlines() == ["with, a comma"]


@pytest.mark.parametrize("key", [10**5000, ("a", -(10**5000))], ids=["alone", "in a tuple"])
def test_a_number_of_thousands_of_digits_is_a_key_of_a_pickle_file(tmp_path, memory, key):
    memory[key] = "there"
    assert export(memory, tmp_path / "exported", "pickle").ok
    with Store("memory://") as other:
        assert import_into(other, tmp_path / "exported").ok
        assert (len(other), other[key]) == (1, "there")
