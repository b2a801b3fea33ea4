"""Programs of their own: what could end or hang a process runs in another one, under a time limit."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import textwrap
import time
from contextlib import suppress

import forkserver
import pytest
from forkserver import ROOT

NOBODY = 65534


def begun(code, arguments, *, within=(), anew=False, stdin=True, stderr=False):
    """A program that has a session of its own, as a `Popen`: forked (see `forkserver`), or where that cannot be, or
    is asked for, in a new interpreter.  `stderr`: whether it has a pipe of its own, too.
    """
    if forkserver.IS_POSSIBLE and not within and not anew:
        return forkserver.Program(code, arguments, stdin=stdin, stderr=stderr)
    return subprocess.Popen(
        [*within, *forkserver.INTERPRETER, "-c", code, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE if stdin else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if stderr else subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(program, *arguments, prelude="", seconds=120, within=(), anew=False):
    """Run a program, which must end well and in time; what it prints.

    `within`: the command that runs it, where it needs surroundings of its own.  `anew`: in a new interpreter, where
    it matters what is loaded, or how it begins.
    """
    code = textwrap.dedent(prelude) + textwrap.dedent(program)
    process = begun(code, [str(each) for each in arguments], within=within, anew=anew, stdin=False)
    try:
        printed, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)  # whoever has enabled faulthandler says where he is
        time.sleep(1)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with all that it began: they would keep the pipe open
        printed, _ = process.communicate()
        pytest.fail(f"it hangs\n{printed}")
    assert process.returncode == 0, f"exit status {process.returncode}\n{printed}"
    return printed


def as_nobody(call):
    """What `call()` gives, or the error it raises, when a user without rights makes it in another process.

    Where the tests do not run as root, it is simply another process.
    """
    read_end, write_end = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            try:
                result = call()
            except Exception as exc:  # noqa: BLE001  (it is the result)
                result = exc
            os.write(write_end, pickle.dumps(result))
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        data = pipe.read()
    os.waitpid(process, 0)
    return pickle.loads(data)
