"""What every test may ask for: a place for a store, a store there, a clock to set, a seed to replay.

Two rules hold for all tests, without a marker:

* A test leaves no environment open.  What a fixture of a module or of the session had open before the
  test began is not counted against it, and a test that failed is not asked.
* A random test takes its numbers from `rng` or from `seed`.  Pytest shows the seed where a test fails
  (and always with -s); run the test again with `OBJSTORE_SEED=<that number>` to replay it.
"""

from __future__ import annotations

import gc
import itertools
import os
import random
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import forkserver
import pytest
from hypothesis import settings
from servers import Cluster, Server, chosen, make_certificates, memory_directory, needed, start_single

from objstore import Store, UnsupportedOperation, checking
from objstore.engines.lmdb import registry

# A time limit for each example would only measure who else is using the machine.
settings.register_profile("objstore", deadline=None, print_blob=True)
settings.load_profile("objstore")

# Programs that tests begin load the library; each would compile it anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_failed = pytest.StashKey[bool]()

# What a test that runs on every engine may ask for, and servers refuse; `test_sharding` says how.
NOT_ON_SERVERS = {"transaction", "snapshot", "view", "backup", "compact"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, UnsupportedOperation) and error.engine == "redis" and error.operation in NOT_ON_SERVERS:
        report.outcome = "skipped"
        report.longrepr = (str(item.path), item.location[1] + 1, f"Skipped: not on servers: {error.operation}")
    item.stash[_failed] = report.failed or item.stash.get(_failed, False)
    return report


@pytest.fixture(autouse=True)
def no_environment_stays_open(request):
    """Fail a test that goes away and leaves a store open in this process."""
    before = set(registry.engines)
    yield
    if set(registry.engines) <= before:
        return
    gc.collect()
    left = {key: engine.location for key, engine in registry.engines.items() if key not in before}
    if left and not request.node.stash.get(_failed, False):
        pytest.fail(f"the test left these stores open: {sorted(left.values())}")


@pytest.fixture(params=["lmdb", "memory"])
def location(request, tmp_path):
    """A place for a store, on each engine of this machine."""
    return str(tmp_path / "a.store") if request.param == "lmdb" else "memory://"


_numbers = itertools.count()


@pytest.fixture
def on_servers(request):
    """A place for a store on a cluster that nobody else has; of few buckets, so that walks are short."""
    return request.getfixturevalue("cluster").url(f"test-{os.getpid()}-{next(_numbers)}", buckets=16)


@pytest.fixture(params=["lmdb", "memory", "servers"])
def everywhere(request, tmp_path):
    """A place for a store, on each engine: for a module whose tests say `location = everywhere`."""
    if request.param == "servers":
        return request.getfixturevalue("on_servers")
    return str(tmp_path / "a.store") if request.param == "lmdb" else "memory://"


@pytest.fixture(scope="session")
def cluster():
    """A cluster for everybody, without faults: a test takes a store name of its own, and breaks nothing."""
    with memory_directory() as path, Cluster.start(path, needed(chosen())) as made:
        yield made


@pytest.fixture(scope="session")
def single():
    """A server that stands alone, for everybody, without faults."""
    with memory_directory() as path, start_single(path, needed(chosen())) as made:
        yield made


@pytest.fixture
def new_cluster():
    """A cluster of this test alone, with a journal, to be broken."""
    with memory_directory() as path, Cluster.start(path, needed(chosen()), persistent=True) as made:
        yield made


@pytest.fixture
def new_single():
    """Starts servers of this test alone: `new_single(*options, program=..., password=..., certificates=...)`."""
    with ExitStack() as stack:

        def start(*options: str, program: str | None = None, **how: Any) -> Server:
            path = stack.enter_context(memory_directory())
            return stack.enter_context(start_single(path, needed(program or chosen()), *options, **how))

        yield start


@pytest.fixture(scope="session")
def certificates():
    """An authority, and a certificate of a server on this machine."""
    with memory_directory() as path:
        yield make_certificates(path)


@pytest.fixture
def open_path():
    """A place for a store that other users can reach, and whose modes a test may change."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory / "a.store"
    directory.chmod(0o700)
    for place, names, _ in os.walk(directory):
        for name in names:
            os.chmod(os.path.join(place, name), 0o700)
    shutil.rmtree(directory)


@pytest.fixture
def place():
    """A directory for stores that many processes make and throw away: in memory, where there is such a file system."""
    memory = "/dev/shm"
    where = memory if os.path.isdir(memory) and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where, prefix="objstore-") as path:
        yield path


@pytest.fixture
def checks_anew():
    """The processes that check a store are new interpreters in spite of `forked_checks`: how they begin is tested."""


@pytest.fixture
def forked_checks(request, monkeypatch):
    """The processes that check a store are forked (see `forkserver`), for tests that are not about how they begin."""
    if not forkserver.IS_POSSIBLE or "checks_anew" in request.fixturenames:
        return
    begin = subprocess.Popen

    def begin_or_fork(command, **options):
        if checking._PROGRAM not in command:
            return begin(command, **options)
        arguments = command[command.index(checking._PROGRAM) + 1 :]
        descriptors, errors = options["pass_fds"], options["errors"]
        return forkserver.Program(
            checking._PROGRAM, arguments, directory=os.getcwd(), stdin=True, pass_fds=descriptors, errors=errors
        )

    monkeypatch.setattr(subprocess, "Popen", begin_or_fork)


class Clock:
    """Seconds since 1970, as the test wants them: set `now`, or call `advance`."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock():
    """A clock that stands still until the test moves it."""
    return Clock()


@pytest.fixture
def store(location, clock):
    """An empty store on each engine, which goes by `clock`."""
    with Store(location, clock=clock) as store:
        yield store


@pytest.fixture
def seed():
    """The number that a random test grows from."""
    number = int(os.environ.get("OBJSTORE_SEED", random.randrange(1 << 32)))
    print(f"OBJSTORE_SEED={number}")
    return number


@pytest.fixture
def rng(seed):
    """Random numbers that OBJSTORE_SEED replays."""
    return random.Random(seed)
