"""Imports that are killed and begun again, beside those who write, in bounded memory.

The long form of the kills:

    OBJSTORE_KILLS=200 OBJSTORE_SEED=1 python -m pytest tests/test_importing_resuming.py -k any_moment -s
"""

from __future__ import annotations

import dbm.dumb
import json
import os
import pickle
import shelve
import signal
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import diskcache
import lmdb
import pytest
import sqlitedict
from programs import begun

from objstore import Store, import_into, space

COUNT = 120
NOTES = space.belonging_name("", "importing")
KILLS = int(os.environ.get("OBJSTORE_KILLS", "3"))

# Imports a source, and kills itself after so many entries.
IMPORT = """
    import os, signal, sys, warnings
    import objstore
    from objstore.copying import records

    target, source, most = sys.argv[1:4]
    records._BATCH_RECORDS = 10
    sys.path.insert(0, os.path.dirname(source))  # where the class is
    warnings.simplefilter("ignore", objstore.UnsealedWarning)

    def progress(done, total):
        if done >= int(most):
            os.kill(os.getpid(), signal.SIGKILL)

    objstore.import_into(target, source, trust=True, progress=progress)
"""


# A module of somebody's, whose class says so where it is unpickled: a line in a file.
COUNTING = """
class Counted:
    def __init__(self, number, path):
        self.arguments = number, path

    def __reduce__(self):
        return counted, self.arguments

def counted(number, path):
    with open(path, "a") as file:
        file.write(f"{number}\\n")
    return number
"""


@pytest.fixture
def tmp_path(place):
    """A directory that need not last, since it is a kill that is survived here, and no power cut."""
    return Path(place)


@pytest.fixture(autouse=True)
def counting(tmp_path, monkeypatch):
    (tmp_path / "counting.py").write_text(COUNTING)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("counting", None)


def all_counted(count, numbers=COUNT):
    """Text keys, and what tells of it when it is unpickled."""
    from counting import Counted

    return {f"{number:03}": Counted(number, str(count)) for number in range(numbers)}


def write_pickles(path, count):
    path.mkdir()
    for key, value in all_counted(count).items():
        (path / f"{key}.pickle").write_bytes(pickle.dumps(value))


def write_diskcache(path, count):
    with diskcache.FanoutCache(str(path), shards=3) as cache:
        for key, value in all_counted(count).items():
            cache[key] = value


def write_sqlitedict(path, count):
    for table in ("one", "two"):
        with sqlitedict.SqliteDict(str(path), tablename=table) as found:
            found.update(all_counted(count, COUNT // 2))
            found.commit()


def write_shelf(path, count):
    with shelve.Shelf(dbm.dumb.open(str(path))) as shelf:
        shelf.update(all_counted(count))


def write_jsonl(path, count):
    path.write_text("".join(json.dumps({"key": number, "value": number}) + "\n" for number in range(COUNT)))


def write_lmdb(path, count):
    with closing(lmdb.open(str(path), max_dbs=3)) as environment:
        named = environment.open_db(b"named")
        with environment.begin(write=True) as txn:
            for number in range(COUNT // 2):
                txn.put(b"%03d" % number, b"value")
                txn.put(b"%03d" % number, b"value", db=named)


WRITERS = [write_pickles, write_diskcache, write_sqlitedict, write_shelf, write_jsonl, write_lmdb]


def contents(store):
    spaces = [store, *map(store.namespace, store.namespaces())]
    return {(space._space.name, key): value for space in spaces for key, value in space.items()}


def killed(*arguments):
    """Run the import until it kills itself."""
    process = begun(textwrap.dedent(IMPORT), [str(each) for each in arguments], stdin=False)
    try:
        process.communicate(timeout=120)
    except subprocess.TimeoutExpired:  # it hangs, and shall not outlive the test
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__.partition("_")[2])
def test_who_was_killed_goes_on_where_it_was(tmp_path, write):
    path, target, count = tmp_path / "source", tmp_path / "a.store", tmp_path / "count"
    write(path, count)
    count.touch()
    killed(target, path, 50)
    decoded = len(count.read_text().split())
    with Store(target) as store:
        assert 0 < len(contents(store)) < COUNT
    report = import_into(target, path, trust=True)
    assert (report.imported, report.present, report.verified, report.ok) == (COUNT, 0, COUNT, True)
    with Store(target) as store:
        assert len(contents(store)) == COUNT
        assert store.check().ok
        assert NOTES not in space.names_by_prefix(store._engine.read()).values()
    if decoded:  # nothing of what was done is decoded again, before all of it is compared
        assert decoded < len(count.read_text().split()) <= 2 * COUNT + 10


def test_a_kill_at_any_moment(tmp_path, rng):
    path, target = tmp_path / "source", tmp_path / "a.store"
    write_diskcache(path, os.devnull)
    for _ in range(KILLS):
        killed(target, path, rng.randrange(1, 2 * COUNT))
    assert import_into(target, path, trust=True).verified == COUNT
    with Store(target) as store:
        assert dict(store) == {f"{number:03}": number for number in range(COUNT)}
        assert store.check().ok


def test_another_source_or_other_options_begin_at_the_beginning(tmp_path):
    path, target = tmp_path / "source", tmp_path / "a.store"
    write_sqlitedict(path, os.devnull)
    killed(target, path, 50)
    with Store(target) as store:
        before = len(contents(store))
        with sqlitedict.SqliteDict(str(path), tablename="one") as found:
            found["new"] = 1
            found.commit()
        report = import_into(store, path, trust=True)
        assert (report.imported, report.present) == (COUNT + 1 - before, before)
        assert report.ok


def test_on_servers(tmp_path, on_servers):
    path = tmp_path / "source"
    write_jsonl(path, None)
    killed(on_servers, path, 50)
    with Store(on_servers) as store:
        assert 0 < len(store) < COUNT
        report = import_into(store, path, trust=True)
        assert (report.imported, report.verified, report.ok) == (COUNT, COUNT, True)
        assert dict(store) == {number: number for number in range(COUNT)}
