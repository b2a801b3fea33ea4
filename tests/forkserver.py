"""Programs that begin at once: forked from a process that has loaded the library, and has done nothing else.

A new interpreter takes 0.2 seconds, most of them to load the library, and the tests begin hundreds.  A program that
is forked is the same to whoever looks: it has a process, arguments, an environment and descriptors of its own, and
ends as an interpreter does.  Where loading is tested, or how a process is begun, a new interpreter it is.

The server is begun by the first who asks, and ends with the tests.  Each program is one connection to it: a request
with descriptors, then the id of the process, and at last its status.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import os
import pickle
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Processes can be waited for together with connections.
IS_POSSIBLE = hasattr(os, "pidfd_open") and hasattr(socket, "send_fds")

# Warnings are errors there, too.  From 3.12 on, Python warns of forks beside threads; that these go well is tested.
INTERPRETER = [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning"]

_LARGEST = 150_000  # bytes of a request
_number = struct.Struct("<q")


class Program:
    """A program that is under way; to be used as a `subprocess.Popen`.

    `stdin`: it is given a pipe, and nothing to read otherwise.  `stderr`: a pipe of its own, and that of what is
    printed otherwise.
    """

    def __init__(self, code, arguments, *, directory=ROOT, stdin=False, stderr=False, pass_fds=(), errors="strict"):
        request = pickle.dumps((code, ["-c", *arguments], dict(os.environ), str(directory), tuple(pass_fds)))
        assert len(request) <= _LARGEST
        reading, printing = os.pipe()
        hearing, complaining = os.pipe() if stderr else (None, os.dup(printing))
        taking, giving = os.pipe() if stdin else (os.open(os.devnull, os.O_RDONLY), None)
        self.stdout = os.fdopen(reading, encoding="utf-8", errors=errors)
        self.stderr = None if hearing is None else os.fdopen(hearing, encoding="utf-8", errors=errors)
        self.stdin = None if giving is None else os.fdopen(giving, "w", encoding="utf-8")
        self.returncode: int | None = None
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._connection.connect(_address())
            socket.send_fds(self._connection, [request], [taking, printing, complaining, *pass_fds])
            (self.pid,) = _number.unpack(self._connection.recv(_number.size))
        finally:
            for each in (taking, printing, complaining):
                os.close(each)

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        for each in (self.stdin, self.stdout, self.stderr):
            if each is not None:
                each.close()
        self.wait()

    def wait(self):
        """Its status, or minus the signal that ended it."""
        if self.returncode is None:
            (self.returncode,) = _number.unpack(self._connection.recv(_number.size))
            self._connection.close()
        return self.returncode

    def communicate(self, given="", timeout=None):
        """What it prints, and complains of, until all have closed the pipes that could use them."""
        if self.stdin is not None and not self.stdin.closed:
            with suppress(BrokenPipeError), self.stdin:
                self.stdin.write(given)  # no more than a pipe takes
        deadline = None if timeout is None else time.monotonic() + timeout
        told = {each: bytearray() for each in (self.stdout, self.stderr) if each is not None}
        hearing = [each for each in told if not each.closed]  # once more, it has nothing more to say
        while hearing:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = select.select(hearing, [], [], left)[0]
            if not ready:
                raise subprocess.TimeoutExpired("a program", timeout, output=bytes(told[self.stdout]))
            for each in ready:
                piece = os.read(each.fileno(), 1 << 16)
                told[each] += piece
                if not piece:
                    hearing.remove(each)
        for each in told:
            each.close()
        self.wait()
        printed, complaints = told[self.stdout], told.get(self.stderr)
        return printed.decode(errors=self.stdout.errors), None if complaints is None else complaints.decode()

    def send_signal(self, number):
        with suppress(ProcessLookupError):
            if self.returncode is None:
                os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


@cache
def _address() -> str:
    """Where the server listens, which forked children use as well."""
    address = os.path.join(tempfile.mkdtemp(prefix="objstore-"), "server")
    program = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import forkserver; forkserver.main()"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen(64)
        command = [*INTERPRETER, "-c", program, str(listener.fileno())]
        # It ends when nobody has the other end of this pipe any more, however that came about.
        pipes = {"stdin": subprocess.PIPE, "pass_fds": [listener.fileno()]}
        server = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes)  # Ctrl-C is not for it
    me = os.getpid()

    def end() -> None:
        if os.getpid() == me:
            server.terminate()  # children that nobody ended may have the pipe, too
            server.wait()
            server.stdin.close()
            shutil.rmtree(os.path.dirname(address))

    atexit.register(end)
    return address


def main() -> None:
    """The server, and each program that it forks."""
    import objstore.checking
    import objstore.engines.lmdb

    with suppress(ImportError):  # what the command line needs
        import objstore.cli.care
        import objstore.cli.reading
        import objstore.cli.writing  # noqa: F401

    gc.freeze()
    code = _serve(socket.socket(fileno=int(sys.argv[1])))
    if code is not None:
        space = vars(sys.modules["__main__"])
        for name in [name for name in space if not name.startswith("__")]:
            del space[name]
        exec(compile(code, "<string>", "exec"), space)


def _serve(listener: socket.socket) -> str | None:
    """Fork who is asked for, until nobody asks any more; in the forked, what is to be run."""
    poll = select.poll()
    poll.register(0, select.POLLHUP)  # the pipe of who began this
    poll.register(listener, select.POLLIN)
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == 0:
                shutil.rmtree(os.path.dirname(listener.getsockname()), ignore_errors=True)
                return None
            if descriptor in running:
                process, connection = running.pop(descriptor)
                poll.unregister(descriptor)
                status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
                os.close(descriptor)
                _answer(connection, status)
                connection.close()
                continue
            connection, _ = listener.accept()
            message, descriptors, _, _ = socket.recv_fds(connection, _LARGEST, 64)
            process = os.fork()
            if process == 0:
                listener.close()
                connection.close()
                for each, (_, other) in running.items():
                    os.close(each)
                    other.close()
                return _become(message, descriptors)
            for each in descriptors:
                os.close(each)
            waiting = os.pidfd_open(process)
            poll.register(waiting, select.POLLIN)
            running[waiting] = process, connection
            _answer(connection, process)


def _answer(connection: socket.socket, number: int) -> None:
    with suppress(ConnectionError):  # who asked does not wait for it
        connection.send(_number.pack(number))


def _become(message: bytes, descriptors: list[int]) -> str:
    """Take on what makes a process a program's: its session, arguments and all that."""
    code, arguments, environment, directory, wanted = pickle.loads(message)
    os.setsid()
    high = [fcntl.fcntl(each, fcntl.F_DUPFD, 500) for each in descriptors]
    for each in descriptors:
        os.close(each)
    for each, number in zip(high, (0, 1, 2, *wanted), strict=True):
        os.dup2(each, number)
        os.close(each)
    sys.argv[:] = arguments
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.path.remove(str(ROOT / "tests"))
    return code
