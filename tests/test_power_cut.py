"""The power fails at any moment: what each durability promises of the store that is found then.

A child runs a workload that grows from a seed, and what it does to the disk is recorded, with marks where the store
acknowledged something.  Then cuts are made anywhere in that record, and for each an image is drawn of what a disk
might show after it (`workloads` says what is done, and `disk` what may be lost).  It is opened under another boot of
the machine, compared with what the store held after each of its commits, written to, and read again.

What must hold, A being the last commit that was acknowledged:

* "full": A, or a later one that had begun; it always opens.
* "relaxed": the same, or the one commit before A, which is what LMDB's last header is without its sync.  (Threads
  that shared a commit lose it together.  Never more than one, because each commit first syncs all that was written
  before it; and none where `sync()` or a change of durability came after it.)
* "process": the same as "full" if the store opens; if unsynced writes were begun after the last clean close, it may
  raise StoreSuspect instead.
* While a store is made: none, which flag "c" then makes, or an empty one.  While one is replaced: the old or the new.

Short form: some thousands of images.  The long form, images for each durability, and a tenth of that of each of the
short workloads:

    OBJSTORE_CUTS=100000 OBJSTORE_SEED=1 python -m pytest tests/test_power_cut.py -s

OBJSTORE_SEED replays it, but for the order in which threads came together.
"""

from __future__ import annotations

import faulthandler
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import NamedTuple

import interposing
import numpy as np
import pytest
from children import Died, result, results
from disk import Disk, Mark, Sync, Write, Written
from workloads import (
    LEVELS,
    NAME,
    SHORT_WORKLOADS,
    SPACES,
    Began,
    Done,
    Put,
    Returned,
    any_workload,
    changing_workload,
    clock,
    failing_close_workload,
    failing_sync_workload,
    interrupted_marking_workload,
    interrupted_workload,
    is_commit,
    making_workload,
    record,
)

from objstore import Store, StoreError, StoreNotFound, StoreSuspect
from objstore.engines.lmdb import directory as lmdb_directory

CUTS = int(os.environ.get("OBJSTORE_CUTS", "90"))
FEWER = max(45, CUTS // 10)  # where one thing alone is looked at
CUTS_OF_ONE = 500  # of one run of a workload


@pytest.fixture(autouse=True)
def _the_calls_can_be_seen():
    interposing.require()


# What may be found


class Promise:
    """Follows the marks of a log: what a store must hold if the power fails now."""

    def __init__(self):
        self.commits = 0  # that have begun
        self.acknowledged = 0
        self.certain = 0  # that not even "relaxed" may lose
        self.levels = set()
        self.exists = False
        self.may_be_suspect = False
        self.sync_failed = False  # with more unsynced than what failed: the system may have dropped it
        self._level = ""
        self._put = {}

    def follow(self, event):
        if is_commit(event):
            self.commits += 1
        if not isinstance(event, Mark):
            return
        what = event.what
        if isinstance(what, Began):
            self._level = what.level
            self.levels.add(what.level)
            if what.what in ("write", "change", "compact") and "process" in self.levels:
                self.may_be_suspect = True
            if what.what == "failing sync" and self.levels != {"full"}:
                self.may_be_suspect = self.sync_failed = True
        elif isinstance(what, Put):
            self._put[what.thread] = self.commits + 1
        elif isinstance(what, Returned):
            self.acknowledged = max(self.acknowledged, self._put[what.thread])
        elif isinstance(what, Done):
            self._done(what.what)

    def _done(self, what):
        self.acknowledged = self.commits
        if what in ("make", "replace", "change", "sync", "compact"):
            self.certain = self.commits
        if what in ("make", "replace", "change"):
            self.exists = True
            self.levels = {self._level}
        if what in ("make", "replace", "compact"):
            self.sync_failed = False
        if what in ("make", "replace", "close") or (what == "change" and self._level != "process"):
            self.may_be_suspect = self.sync_failed

    @property
    def least(self):
        """The first commit, counted from 1, that may be found."""
        return max(self.certain, self.acknowledged - ("relaxed" in self.levels))


def read(store):
    """All that a store holds, and that its books are right."""
    content = {}
    for name in SPACES:
        space = store.namespace(name) if name else store
        content[name] = dict(space.items())
        assert len(space) == len(content[name]) == sum(1 for _ in space)
    tagged = set(store.namespace("users").range(tag="red"))
    assert tagged <= set(content["users"])
    for key, value in content[""].items():
        if isinstance(value, np.ndarray):
            content[""][key] = value.tobytes()
    return content


def examine(path, promise, contents, rng):
    """Open an image; what was found, in one word, and more of it where that is wrong."""
    try:
        store = Store(path, "w", clock=clock)
    except StoreNotFound as exc:
        return ("refused", repr(exc)) if promise.exists else make_one(path, "c", "none yet")
    except StoreSuspect as exc:
        if not promise.may_be_suspect:
            return "refused", repr(exc)
        return make_one(path, "n", "suspect") if rng.random() < 0.1 else ("suspect", None)
    except StoreError as exc:
        return "refused", repr(exc)
    try:
        with store:
            found = read(store)
            verdict = compare(found, promise, contents)
            if store.stats().durability not in promise.levels:
                return "lost", f"the durability is {store.stats().durability!r} again"
            if verdict[0] == "intact":
                write_again(store, found, rng)
        if verdict[0] == "intact":
            with Store(path, "w", clock=clock) as store:
                assert read(store) == found, "what was written after the cut is not what is read"
    except Exception as exc:  # noqa: BLE001  (a tree that is a mixture may come to any)
        return "torn", repr(exc)
    return verdict


def compare(found, promise, contents):
    matching = [number for number, content in enumerate(contents[: promise.commits], 1) if content == found]
    if not matching:
        return "torn", f"what is there never was: {sorted(map(str, found['']))}"
    if matching[-1] < promise.least:
        return "lost", f"commit {matching[-1]} of {promise.least} to {promise.commits} that may be"
    return "intact", None if matching[-1] >= promise.acknowledged else "the last commit undone"


def write_again(store, found, rng):
    """Enough for the pages that are free to be used."""
    for number in range(2):
        found[""]["after", number] = bytes([number]) * rng.choice([100, 5_000, 50_000])
        store["after", number] = found[""]["after", number]
    if found["users"]:
        del store.namespace("users")[key := next(iter(found["users"]))]
        del found["users"][key]


def make_one(path, flag, verdict):
    """What is there is no store, or none that can be used: this is how to come to one."""
    try:
        with Store(path, flag, clock=clock) as store:
            assert read(store) == {space: {} for space in SPACES}
            store["a"] = 1
        with Store(path, "w", clock=clock) as store:
            assert store == {"a": 1}
    except StoreError as exc:
        return "refused", repr(exc)
    return verdict, None


# Cuts


BAD = ("lost", "torn", "refused", "died")


class Cut(NamedTuple):
    position: int
    seed: str


def verdicts(place, history, cuts) -> Iterator[tuple[Cut, str, str | None]]:
    """For each cut, which come in order, what an image of it shows."""
    done = 0
    while done < len(cuts):
        try:
            for verdict, detail in results(partial(examine_all, place, history, cuts[done:])):
                done += 1
                yield cuts[done - 1], verdict, detail
        except Died as exc:
            done += 1
            yield cuts[done - 1], "died", str(exc)


def examine_all(place, history, cuts, send):
    lmdb_directory.boot_id = lambda: "another boot"
    faulthandler.disable()  # where a process ends, the cut says why: its stack is the same each time
    disk, promise, events = Disk(), Promise(), iter(history.log)
    position = 0
    image = os.path.join(place, "image")
    for cut in cuts:
        while position < cut.position:
            event = next(events)
            disk.follow(event)
            promise.follow(event)
            position += 1
        shutil.rmtree(image, ignore_errors=True)
        rng = random.Random(cut.seed)
        disk.image(image, rng)
        send(examine(os.path.join(image, history.name), promise, history.contents, rng))


class Figures:
    """Counts verdicts, and keeps the first bad ones."""

    def __init__(self):
        self.count: Counter[str] = Counter()
        self.bad: list[str] = []

    def add(self, history, found):
        for cut, verdict, detail in found:
            self.count["images"] += 1
            self.count[verdict] += 1
            if verdict == "intact" and detail:
                self.count[detail] += 1
            if verdict in BAD and len(self.bad) < 5:
                self.bad.append(f"{verdict}, cut at {cut}: {detail}\n{around(history.log, cut.position)}")

    def __str__(self):
        first = {name: self.count[name] for name in ("images", "intact", *BAD)}
        return ", ".join(f"{number} {name}" for name, number in {**first, **self.count}.items())


def around(log, position):
    """The last events before a cut, to be read."""
    lines = []
    for number in range(max(0, position - 12), position):
        event = log[number]
        text = f"{event.offset}+{len(event.data)} of file {event.file}" if isinstance(event, Write) else event
        lines.append(f"  {number}: {type(event).__name__} {text}")
    return "\n".join(lines)


def at_random(history, number, name):
    rng = random.Random(f"{name}:cuts")
    places = sorted(rng.randint(1, len(history.log)) for _ in range(number))
    return [Cut(position, f"{name}:{each}") for each, position in enumerate(places)]


def at_each(history, _number, name):
    """At each place."""
    return [Cut(position, f"{name}:{position}") for position in range(1, len(history.log) + 1)]


def check(place, workload, level, seed, images, cuts=at_random, name=NAME):
    """Cut runs of a workload until there are so many images; the figures."""
    figures = Figures()
    for turn in count():
        label = f"{seed}:{level}:{workload.__name__}:{turn}"
        history = result(partial(record, place, workload, level, label, turn, name))
        number = min(CUTS_OF_ONE, images - figures.count["images"])
        figures.add(history, verdicts(place, history, cuts(history, number, label)))
        if figures.count["images"] >= images:
            break
    print(f"{level}, {workload.__name__}: {figures}")
    assert not any(figures.count[name] for name in BAD), "\n".join(figures.bad)
    return figures.count


@pytest.mark.parametrize("level", LEVELS)
def test_a_cut_anywhere_in_any_workload(place, level, seed):
    found = check(place, any_workload, level, seed, CUTS)
    assert found["intact"]
    if level == "process":
        assert found["suspect"]


@pytest.mark.parametrize("level", LEVELS)
def test_a_cut_anywhere_while_the_durability_changes(place, level, seed):
    assert check(place, changing_workload, level, seed, FEWER)["intact"]


@pytest.mark.parametrize("workload", SHORT_WORKLOADS)
@pytest.mark.parametrize("level", LEVELS)
def test_a_cut_after_each_step_of_a_short_workload(place, workload, level, seed):
    assert check(place, workload, level, seed, FEWER, at_each)["intact"]


def test_a_cut_after_the_maker_of_a_store_had_ended_in_the_middle(place, seed):
    assert check(place, interrupted_workload, "full", seed, max(FEWER, 500), at_each)["intact"]


def test_a_cut_after_the_mark_of_unsynced_writes_was_interrupted(place, seed):
    assert check(place, interrupted_marking_workload, "process", seed, max(FEWER, 300), at_each)["suspect"]


@pytest.mark.parametrize(
    ("workload", "level", "least"),
    [
        (failing_sync_workload, "full", 100),
        # With these, writes are unsynced that were acknowledged, and the system tells of their loss once, to whoever
        # syncs; the next sync is believed.
        (failing_sync_workload, "relaxed", 500),
        (failing_close_workload, "process", 200),
    ],
)
def test_a_cut_after_a_sync_has_failed(place, workload, level, least, seed):
    assert check(place, workload, level, seed, max(FEWER, least))["intact"]


def test_a_cut_after_a_store_was_made_in_directories_that_were_made_for_it(place, seed):
    name = os.path.join("new", "directories", NAME)
    assert check(place, making_workload, "full", seed, FEWER, at_each, name)["intact"]


# The replay finds what is wrong: here the disk lies, or the library does


def found_where(place, level, seed, lost=lambda event: False):
    """The figures of a few runs, for a disk on which some events never happened."""
    figures = Figures()
    for turn in range(4):
        label = f"{seed}:{turn}"
        history = result(partial(record, place, any_workload, level, label))
        history = history._replace(log=[event for event in history.log if not lost(event)])
        figures.add(history, verdicts(place, history, at_random(history, 75, label)))
    print(f"{level}: {figures}")
    return figures.count


def test_a_disk_that_ignores_syncs_is_found_out(place, seed):
    found = found_where(place, "full", seed, lost=lambda event: isinstance(event, (Sync, Written)))
    assert sum(found[name] for name in BAD) > 10


def test_a_disk_on_which_headers_are_not_synced_is_found_out(place, seed):
    found = found_where(place, "full", seed, lost=lambda event: isinstance(event, Written))
    assert found["lost"] > 5


def test_a_store_without_the_mark_of_unsynced_writes_is_found_out(place, seed, monkeypatch):
    monkeypatch.setattr(lmdb_directory.Directory, "suspect", False)
    found = found_where(place, "process", seed)
    assert sum(found[name] for name in BAD) > 10
