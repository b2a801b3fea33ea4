"""Ctrl-C at any moment of any operation: the state is the old one or the new one, and nothing is left behind.

KeyboardInterrupt is raised at each place where the interpreter may handle a signal (see `interrupting`), and it must
come out, or the operation must have ended.  After it the next write and read work at once, here and in another
process; no snapshot, reader slot, descriptor or lock is left; and the store closes with its last handle.

The short form takes a part of the places, the long form all of them:

    OBJSTORE_SIGNALS=all python -m pytest tests/test_signals.py -s

OBJSTORE_SEED replays the choice.
"""

from __future__ import annotations

import os
import sys

import pytest
from programs import run

EVERY_PLACE = os.environ.get("OBJSTORE_SIGNALS") == "all"

PROGRAM = """
    import sys
    sys.path.insert(0, "tests")
    import interrupting
    interrupting.main(*sys.argv[1:])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what a process has open is read from /proc")
@pytest.mark.parametrize("durability", ["full", "relaxed", "process"])
def test_an_interruption_leaves_the_old_state_or_the_new_one_and_nothing_behind(place, durability, seed):
    share = 1 if EVERY_PLACE else 0.02
    summary, *found = run(PROGRAM, place, durability, share, seed, seconds=3600 if EVERY_PLACE else 120).splitlines()
    print(summary)
    assert [line for line in found if line] == []
