"""The command line, run as a user runs it."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from datetime import date, datetime, timezone
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import pytest
from programs import begun

from objstore import Store


def run(*arguments, stdin=""):
    process = begun(COMMAND, [str(each) for each in arguments], stderr=True)
    printed, complaints = process.communicate(stdin)
    return Done(process.returncode, printed, complaints)


COMMAND = "import runpy; runpy.run_module('objstore', run_name='__main__', alter_sys=True)"


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.store"


def test_set_get_ls_delete(path):
    assert run("set", path, "user:1", "{'name': 'Ada'}", "--tag", "people").returncode == 0
    assert run("set", path, "('user', 42)", "plain text").returncode == 0
    assert run("get", path, "user:1").stdout == "{'name': 'Ada'}\n"
    assert run("get", path, "('user', 42)").stdout == "'plain text'\n"
    assert run("ls", path).stdout == "'user:1'\n('user', 42)\n"
    assert run("ls", path, "--tag", "people").stdout == "'user:1'\n"
    assert run("ls", path, "--prefix", "('user',)").stdout == "('user', 42)\n"
    assert run("delete", path, "user:1").returncode == 0
    assert run("ls", path, "-r").stdout == "('user', 42)\n"


def test_values_from_standard_input_with_a_ttl_in_a_namespace(path):
    assert run("set", path, "42", "--file", "-", "--ttl", "1000", "-n", "users", stdin="from a pipe").returncode == 0
    assert run("get", path, "42", "-n", "users").stdout == "b'from a pipe'\n"
    line = run("ls", path, "--long", "-n", "users").stdout
    assert re.match(r" +\d+  pickle   \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  42$", line)
    assert re.search(r"^in 'users' +1 entries$", run("info", path).stdout, re.MULTILINE)


def test_what_ls_prints_can_be_given_back(path):
    keys = [
        7,
        "007",
        -2.5,
        None,
        b"x",
        date(2026, 1, 2),
        datetime(2026, 1, 2, 3, tzinfo=timezone.utc),
        (1, (UUID(int=5),)),
    ]
    with Store(path) as store:
        store.update({key: repr(key) for key in keys})
    for line in run("ls", path).stdout.splitlines():
        assert run("get", path, "--", line).stdout == f"{line!r}\n"


def test_a_prefix_of_digits_is_text(path):
    with Store(path) as store:
        store.update({"2026-01": 1, "2027-01": 2})
    assert run("ls", path, "--prefix", "2026").stdout == "'2026-01'\n"


def test_listing_and_info_never_unpickle(path):
    with Store(path) as store:
        store["bomb"] = Bomb()
    for listing in (["ls"], ["ls", "--long"], ["ls", "--json"], ["info"], ["info", "--json"], ["check"]):
        assert run(*listing, path).returncode == 0
    raw = subprocess.run(
        [sys.executable, "-m", "objstore", "get", path, "bomb", "--raw"], capture_output=True, check=True
    )
    assert raw.stdout.startswith(b"\x80\x05")
    refused = run("get", path, "bomb")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "cannot be decoded" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["get", "{path}", "nothing"], 1, "not there: 'nothing'"),
        (["delete", "{path}", "nothing"], 1, "not there: 'nothing'"),
        (["get", "{path}", "[1]"], 1, "list cannot be a key"),
        (["ls", "{path}/no"], 1, "there is no store"),
        (["set", "{path}", "key"], 2, "Give a value"),
        (["nonsense"], 2, "No such command"),
        (["ls", ""], 1, "not an empty text"),
        (["info", "http://x/y"], 1, "no engine is known"),
        (["set", "memory://x", "a", "1"], 2, "ends with the command"),
        (["demo", "{path}"], 1, "there already"),
        (["set", "{path}", "a", "1", "-n", ""], 1, "namespace has 1 to 1,000"),
        (["get", "{path}", "a", "-n", "users"], 1, "no namespace 'users' in"),
        (["info", "redis://127.0.0.1:1/x", "--depth", "0"], 2, "--depth"),
    ],
)
def test_what_is_refused_says_why(path, arguments, code, message):
    Store(path).close()
    result = run(*(argument.format(path=path) for argument in arguments))
    assert result.returncode == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_without_the_extra_there_is_a_hint():
    code = "import sys; sys.modules['click'] = None; from objstore.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "pip install click rich (the extra" in result.stderr
    asked_for = [sys.executable, "-c", code, "browse", "a.store"]
    result = subprocess.run(asked_for, capture_output=True, text=True, check=False)
    assert "pip install click rich textual" in result.stderr


def test_a_package_that_is_missing_is_named_by_every_command(path):
    code = """
import sys
sys.modules["redis"] = sys.modules["valkey"] = None
from click.testing import CliRunner
from objstore.cli.commands import objstore
for command in (["info"], ["ls"], ["get", "key"], ["set", "key", "1"], ["check"], ["copy", sys.argv[1]]):
    name, *rest = command
    done = CliRunner().invoke(objstore, [name, "redis://host/results", *rest])
    assert (done.exit_code, done.output.count("\\n")) == (1, 1), (command, done.output)
    assert "pip install redis" in done.output, (command, done.output)
"""
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def test_what_is_in_namespaces_alone_is_not_overlooked(path):
    with Store(path) as store:
        store.namespace("users")["ada"] = 1
    done = run("ls", path)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "nothing outside of namespaces; with -n NAME: 'users'\n"


def test_a_value_whose_quotes_the_shell_has_taken_is_stored_as_text_and_told(path):
    done = run("set", path, "a", "{a:1}")
    assert done.returncode == 0
    assert "stored as text" in done.stderr
    assert run("set", path, "b", "{a:1}", "--as", "text").stderr == ""
    assert run("get", path, "a").stdout == "'{a:1}'\n"


# What takes time is the standard library: here it is a part of it.
LESS_TO_PARSE = """
import sysconfig
all_paths = sysconfig.get_paths
sysconfig.get_paths = lambda *args, **options: {**all_paths(*args, **options), "stdlib": %r}
"""


def test_the_demo_compares_thousands_of_objects_in_a_new_process(path, tmp_path, monkeypatch):
    library, part = Path(sysconfig.get_paths()["stdlib"]), tmp_path / "part"
    part.mkdir()
    for name in sorted(library.glob("[a-g]*.py")):
        shutil.copy(name, part)
    for name in ("asyncio", "email", "json", "xml"):
        shutil.copytree(library / name, part / name)
    (tmp_path / "sitecustomize.py").write_text(LESS_TO_PARSE % str(part))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    command = [sys.executable, "-m", "objstore", "demo", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    stored = int(re.search(r"stored +([\d,]+) objects", result.stdout)[1].replace(",", ""))
    compared = int(re.search(r"compared ([\d,]+) objects", result.stdout)[1].replace(",", ""))
    assert stored == compared > 1000
    assert 'store["numbers"] == list(range(10_000)) is True' in result.stdout
    with Store(path, "r") as store:
        assert store["numbers"] == list(range(10_000))


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemError('unpickled')",)


class TestCare:
    def test_a_store_without_damage(self, path, tmp_path):
        with Store(path) as store:
            store.update(dict.fromkeys(range(100), "x" * 1000))
            store.clear()
            store["a"] = 1
        done = run("check", path)
        assert (done.returncode, done.stdout) == (0, "1 records, all is well\n")
        assert run("backup", path, tmp_path / "b.store").returncode == 0
        assert run("get", tmp_path / "b.store", "a").stdout == "1\n"
        assert re.fullmatch(r"[\d,]+ bytes before, [\d,]+ after\n", run("compact", path).stdout)
        done = run("salvage", path, tmp_path / "c.store")
        assert (done.returncode, done.stdout) == (0, "1 records salvaged; 0 lost\n")

    def test_a_damaged_store(self, path, tmp_path):
        with Store(path) as store:
            store["a"] = "x" * 1000
            store.namespace("users")["b"] = "y" * 1000
        (path / "data.mdb").write_bytes((path / "data.mdb").read_bytes().replace(b"y" * 1000, b"z" * 1000))
        done = run("check", path)
        assert done.returncode == 1
        assert "damaged: 'b' in namespace 'users': its bytes do not fit their digest\n" in done.stdout
        assert "something is wrong" in done.stdout
        done = run("backup", path, tmp_path / "b.store")
        assert done.returncode == 1
        assert "the record of 'b'" in done.stderr
        assert run("compact", path).returncode == 1
        done = run("salvage", path, tmp_path / "c.store")
        assert done.returncode == 1
        assert "1 records salvaged; 1 lost" in done.stdout
        assert run("get", tmp_path / "c.store", "a").stdout == f"'{'x' * 1000}'\n"

    def test_what_there_is_not(self, path):
        for command in ("check", "compact"):
            done = run(command, path)
            assert done.returncode == 1
            assert done.stderr.startswith("Error: there is no store")

    def test_info_tells_who_reads_and_writes(self, path):
        with Store(path) as store, store.snapshot(), store.transaction():
            printed = run("info", path).stdout
            assert re.search(rf"^writing +process {os.getpid()}, for [\d.]+ s$", printed, re.MULTILINE)
            assert re.search(rf"^reading 1 +process {os.getpid()}, for [\d.]+ s$", printed, re.MULTILINE)
