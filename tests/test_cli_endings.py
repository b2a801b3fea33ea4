"""How commands end: the exit codes, signals while they work, a reader who has gone, and what is drawn meanwhile.

Signals are real ones, to the whole group of processes, as from a terminal.  A command that works is interrupted where
it says how far it is: at the first step, and past the middle; so nothing depends on time.
"""

import fcntl
import os
import pty
import re
import secrets
import signal
import struct
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from programs import begun

import objstore
from objstore import Store
from objstore.cli.commands import objstore as command_line

# Whoever runs the tests in the background may have signals ignored, and this would inherit that.
COMMAND = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
runpy.run_module("objstore", run_name="__main__", alter_sys=True)
"""

# Ends itself at a share of its work.
INTERRUPTING = """
import os, signal
from objstore.cli import working

class Interrupting(working.Progress):
    def update(self, task, *, completed, total):
        super().update(task, completed=completed, total=total)
        if completed > total * %f:
            os.killpg(0, signal.%s)

working.Progress = Interrupting
"""


def run(*arguments, prelude="", given=""):
    """Exit code, what is printed, and what is complained of."""
    process = begun(prelude + COMMAND, [str(each) for each in arguments], stderr=True)
    printed, complaints = process.communicate(given)
    return process.returncode, printed, complaints


def interrupted(*arguments, at=0.0, by="SIGINT"):
    """What is complained of by a command that is interrupted."""
    code, printed, complaints = run(*arguments, prelude=INTERRUPTING % (at, by))
    assert (code, printed) == (128 + getattr(signal, by), "")
    assert complaints.endswith("Interrupted.\n")
    assert "Traceback" not in complaints
    return complaints


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A store with some hundred pages, half of them free."""
    path = tmp_path_factory.mktemp("source") / "a.store"
    with Store(path) as store:
        store.update({number: str(number) * 400 for number in range(10_000)})
        store.range(1000, 10_000).clear()
    return path


def whole(path):
    """Whether a store is right, and holds all of the source."""
    with Store(path, "r") as store:
        return objstore.check(path).ok and dict(store) == {number: str(number) * 400 for number in range(1000)}


class TestASignal:
    @pytest.mark.parametrize(("at", "by"), [(0.0, "SIGINT"), (0.5, "SIGTERM")])
    def test_leaves_the_store_as_it_was(self, source, tmp_path, at, by):
        target = tmp_path / "b.store"
        before = os.path.getsize(source / "data.mdb")
        assert "there is no backup" in interrupted("backup", source, target, at=at, by=by)
        assert "the store is as it was" in interrupted("compact", source, at=at, by=by)
        assert "the store is as it was" in interrupted("salvage", source, target, at=at, by=by)
        interrupted("check", source, at=at, by=by)
        assert os.listdir(tmp_path) == []
        assert sorted(os.listdir(source.parent)) == ["a.store"]
        assert os.path.getsize(source / "data.mdb") == before
        assert whole(source)

    def test_a_copy_goes_on_where_it_was(self, source, tmp_path):
        target = tmp_path / "b.store"
        for at in (0.0, 0.5):
            assert "it goes on where it was" in interrupted("copy", source, target, at=at)
        assert run("copy", source, target)[0] == 0
        assert whole(target)

    @pytest.mark.parametrize("by", ["SIGINT", "SIGTERM", "SIGHUP"])
    def test_a_benchmark_removes_its_store(self, tmp_path, by):
        assert "is removed" in interrupted("bench", tmp_path, "--seconds", "0.2", by=by)
        assert os.listdir(tmp_path) == []

    def test_while_it_waits_for_standard_input_makes_no_store(self, tmp_path):
        process = begun(COMMAND, ["set", str(tmp_path / "a.store"), "a", "--file", "-"], stderr=True)
        process.stdin.write("half of it")
        process.stdin.flush()
        wait_until_read(process.stdin)
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
        assert process.communicate() == ("", "Interrupted.\n")
        assert process.returncode == 130
        assert os.listdir(tmp_path) == []


def wait_until_read(pipe):
    """Return when nothing that was written is in the pipe any more: somebody has read it, and waits for more."""
    while struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]:
        os.sched_yield()


class TestExitCodes:
    def test_0_and_1_and_2(self, source):
        assert run("get", source, "0", "--json")[0] == 0
        assert run("get", source, "nothing")[::2] == (1, "Error: not there: 'nothing'\n")
        assert run("get", source)[0] == 2
        assert run("get", "--nonsense")[0] == 2

    def test_141_where_nobody_reads_on(self, source):
        # More than a pipe takes.
        command = f"set -o pipefail; {sys.executable} -m objstore ls {source} --json | head -n 1"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 141
        assert (done.stdout.count("\n"), done.stderr) == (1, "")

    def test_they_are_in_the_help(self):
        code, printed, _ = run("--help")
        assert code == 0
        assert re.findall(r"^ +(\d+)  ", printed, re.MULTILINE) == ["0", "1", "2", "130", "141"]


class TestProgress:
    def test_it_is_drawn_on_a_terminal(self, tmp_path, monkeypatch, forked_checks):
        monkeypatch.setenv("OBJSTORE_SIGNING_KEY", secrets.token_hex(32))
        monkeypatch.setenv("TERM", "xterm")
        with Store(tmp_path / "a") as store:
            store.update(dict.fromkeys(range(1000), "x" * 400))
        commands = {
            f"check {tmp_path}/a": "checking",
            f"backup {tmp_path}/a {tmp_path}/b": "copying",
            f"compact {tmp_path}/a": "compacting",
            f"salvage {tmp_path}/a {tmp_path}/c": "salvaging",
            f"rekey {tmp_path}/a": "rekeying",
            f"copy {tmp_path}/a {tmp_path}/d": "copying",
            f"bench {tmp_path} --seconds 0.1": "measuring",
        }
        for command, what in commands.items():
            drawn = on_a_terminal(monkeypatch, *command.split())
            assert what in drawn
            assert re.search(r"\d+/[\d?]", drawn)  # what is done at once has no total
        assert "2000/2000" in on_a_terminal(monkeypatch, "copy", f"{tmp_path}/a", f"{tmp_path}/e")  # and compared

    def test_it_is_silent_elsewhere(self, source):
        assert run("check", source)[2] == ""


def on_a_terminal(monkeypatch, *arguments):
    """What a command that ends well draws on a terminal that is its standard error."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with ThreadPoolExecutor(1) as reader, monkeypatch.context() as patch:
        drawn = reader.submit(all_of, master)
        with os.fdopen(slave, "w") as terminal:
            patch.setattr(sys, "stderr", terminal)
            with pytest.raises(SystemExit) as ended:
                command_line(arguments)
    assert not ended.value.code
    return drawn.result()


def all_of(master):
    """What comes out of a terminal until nobody has its other end any more."""
    drawn = b""
    with suppress(OSError):
        while piece := os.read(master, 1 << 16):
            drawn += piece
    os.close(master)
    return drawn.decode()
