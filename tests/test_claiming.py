"""Claims between processes: whoever ends, however, frees what he has, and nobody else's."""

from __future__ import annotations

import fcntl
import os
import signal
from contextlib import contextmanager

import pytest
from programs import begun

from objstore.engines import connect
from objstore.engines.lmdb import claiming

# It says a word when it is somewhere, and waits for one to go on.
PRELUDE = """
import os, sys, time
from objstore.engines import connect

engine = connect(sys.argv[1], sys.argv[2], {}, None)

def say(word):
    print(word, flush=True)

def wait():
    assert sys.stdin.readline()
"""


@contextmanager
def child(code, path, flag="w"):
    process = begun(PRELUDE + code, [str(path), flag])
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def hear(process):
    return process.stdout.readline().strip()


def tell(process):
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "a.store")


@pytest.fixture
def engine(path):
    engine = connect(path, "c", {}, None)
    yield engine
    engine.release()


HOLD = """
claim = engine.claim(b"name")
say("holds" if claim else "nothing")
"""


def test_another_process_has_it_until_it_releases_it(engine, path):
    with child(HOLD + "wait(); claim.release(); say('released'); wait()", path) as other:
        assert hear(other) == "holds"
        assert engine.claim(b"name") is None
        assert engine.claim(b"another") is not None
        tell(other)
        assert hear(other) == "released"
        assert engine.claim(b"name") is not None


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_killed_frees_it(engine, path, how):
    with child(HOLD + "wait()", path) as other:
        assert hear(other) == "holds"
        assert engine.claim(b"name") is None
        other.send_signal(how)
        other.wait()
        assert engine.claim(b"name") is not None


def test_a_process_that_is_killed_frees_it_whatever_it_forked(engine, path):
    forks = "forked = os.fork()\nif not forked: time.sleep(60); os._exit(0)\nsay(forked)\nwait()"
    with child(HOLD + forks, path) as other:
        assert hear(other) == "holds"
        forked = int(hear(other))
        try:
            assert engine.claim(b"name") is None
            other.kill()
            other.wait()
            os.kill(forked, 0)  # it lives
            assert engine.claim(b"name") is not None
        finally:
            os.kill(forked, signal.SIGKILL)


@pytest.mark.parametrize("end", ["os._exit(0)", "engine.release(); engine.close_at_exit(); os._exit(0)", "sys.exit()"])
def test_a_child_of_the_holder_frees_nothing_however_it_ends(engine, path, end):
    forks = f"""
if not os.fork():
    mine = engine.claim(b"name") is not None or engine.claim(b"of the child") is None
    engine.get(b"key")  # opens it anew
    claim.release()
    say("child has it" if mine else "child has not")
    {end}
os.wait()
say("ended")
wait()
"""
    with child(HOLD + forks, path) as other:
        assert [hear(other), hear(other), hear(other)] == ["holds", "child has not", "ended"]
        assert engine.claim(b"name") is None


def test_a_child_keeps_its_own_claim_when_it_gives_up_what_it_inherited(engine, path):
    forks = """
reading, writing = os.pipe()
if not os.fork():
    os.read(reading, 1)
    mine = engine.claim(b"name")
    claim.release()
    say("child has it" if mine else "child has not")
    wait()
    os._exit(0)
claim.release()
os.write(writing, b".")
os.wait()
"""
    with child(HOLD + forks, path) as other:
        assert [hear(other), hear(other)] == ["holds", "child has it"]
        assert engine.claim(b"name") is None
        tell(other)
        other.wait()
        assert engine.claim(b"name") is not None


def test_the_holder_sees_whether_another_process_waits(engine, path):
    claim = engine.claim(b"name")
    waits = """
waiting = engine.await_claim(b"name")
say(waiting.poll())
wait()
waiting.close()
say("closed")
wait()
waiting = engine.await_claim(b"name")
say("again")
wait()
while not (claim := waiting.poll()): time.sleep(0.001)
say("has it")
wait()
"""
    with child(waits, path) as other:
        assert hear(other) == "None"
        assert claim.is_awaited()
        assert claim.is_awaited()  # the look takes nothing away
        tell(other)
        assert hear(other) == "closed"
        assert not claim.is_awaited()
        tell(other)
        assert hear(other) == "again"
        assert claim.is_awaited()
        claim.release()
        tell(other)
        assert hear(other) == "has it"
        assert engine.claim(b"name") is None


def test_who_waits_says_so_again_where_the_holder_looked_in_that_moment(engine, path):
    claim = engine.claim(b"name")
    sign = claiming._place_of(b"name") + 1
    with child(
        "wait()\nwaiting = engine.await_claim(b'name')\nsay('waits')\nwait()\nsay(waiting.poll())\nwait()", path
    ) as other:
        assert engine._claims.lock(fcntl.LOCK_EX, sign)  # as it does when it looks
        tell(other)
        assert hear(other) == "waits"
        engine._claims.unlock(sign)
        assert not claim.is_awaited()
        tell(other)
        assert hear(other) == "None"
        assert claim.is_awaited()


def test_who_waits_and_is_killed_waits_no_more(engine, path):
    claim = engine.claim(b"name")
    with child("waiting = engine.await_claim(b'name')\nsay('waits')\nwait()", path) as other:
        assert hear(other) == "waits"
        assert claim.is_awaited()
        other.kill()
        other.wait()
        assert not claim.is_awaited()


def test_one_who_looks_does_not_hide_one_who_waits_here(engine, path):
    waiting = engine.await_claim(b"name")
    waits = "waiting = engine.await_claim(b'name')\nclaim = waiting.poll()\nsay(claim.is_awaited())\nwait()"
    with child(waits, path) as other:
        assert hear(other) == "True"
        assert waiting.poll() is None


def test_the_file_does_not_grow(engine, path):
    before = os.stat(os.path.join(path, "objstore.lock"))
    claims = [engine.claim(b"%d" % number) for number in range(100)]
    after = os.stat(os.path.join(path, "objstore.lock"))
    assert (after.st_size, after.st_blocks) == (before.st_size, before.st_blocks)
    assert len(claims) == 100


def test_places_are_pairs_far_behind_the_end():
    places = {claiming._place_of(b"%d" % number) for number in range(1000)}
    assert len(places) == 1000
    assert all(place % 2 == 0 and 2**40 <= place < 2**63 for place in places)
    assert claiming._place_of(b"name") == 1580805117683489718  # all versions must agree


def test_where_nobody_can_write_other_processes_have_their_own_claims(path):
    connect(path, "c", {}, None).release()
    engine = connect(path, "r", {}, None, immutable=True)
    try:
        with child(HOLD + "wait()", path) as other:
            assert hear(other) == "holds"
            claim = engine.claim(b"name")
            assert claim is not None
            assert not claim.is_awaited()
            claim.release()
            assert engine.await_claim(b"name").poll() is not None
    finally:
        engine.release()


def test_a_claim_that_outlives_its_engine_does_nothing(path):
    engine = connect(path, "c", {}, None)
    claim, waiting = engine.claim(b"name"), engine.await_claim(b"other")
    engine.release()
    assert not claim.is_awaited()
    claim.release()
    waiting.close()
    with child(HOLD, path) as other:
        assert hear(other) == "holds"
