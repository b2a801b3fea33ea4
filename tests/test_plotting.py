"""What takes the room: groups, their sums, and how they are drawn."""

import io
import random
import re

import pytest
from click.testing import CliRunner
from rich.cells import cell_len
from rich.console import Console
from test_cli import Bomb

from objstore import Cache, Store
from objstore.cli import plotting
from objstore.cli.commands import objstore
from objstore.cli.plotting import Group, draw, weigh


def told(groups):
    return {(group.namespace, group.name): (group.bytes, group.entries) for group in groups}


def summed(entries):
    sizes = [entry.size for entry in entries]
    return sum(sizes), len(sizes)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "a.store") as store:
        store.update({f"user:{n}:name": "x" * 50 for n in range(100)} | {f"user:{n}": n for n in range(100)})
        store.update({("log", n % 2, n): Bomb() for n in range(30)} | {(): 0, ("log",): 0})
        store.update({b"a/b": 0, None: 0, 1: 0, 2.5: 0, "plain": 0, "user": 0})
        store.namespace("texts", codec="json")["user:1"] = "ü"
        yield store


class TestGroups:
    def test_they_add_up_what_begins_so(self, store):
        found = told(weigh(store))
        assert found == {
            (None, "'user:' ..."): summed(store.range(prefix="user:").entries()),
            (None, "('log',) ..."): summed(store.range(prefix=("log",)).entries()),
            (None, "b'a/' ..."): summed([store.entry(b"a/b")]),
            (None, "None"): summed([store.entry(None)]),
            (None, "numbers"): summed([store.entry(1), store.entry(2.5)]),
            (None, "text"): summed([store.entry("plain"), store.entry("user")]),
            (None, "tuples"): summed([store.entry(())]),
            ("texts", "'user:' ..."): summed(store.namespace("texts").entries()),
        }
        sizes = [size for size, _ in found.values()]
        assert sizes == sorted(sizes, reverse=True)

    def test_with_more_depth_they_are_smaller(self, store):
        found = told(weigh(store, depth=2, most=1000))
        assert found[None, "('log', 0) ..."] == summed(store.range(prefix=("log", 0)).entries())
        assert found[None, "('log',) ..."] == summed([store.entry(("log",))])
        assert found[None, "'user:7:' ..."] == summed([store.entry("user:7:name")])
        assert found[None, "'user:' ..."] == summed(store.entry(f"user:{n}") for n in range(100))  # met in between

    def test_the_light_ones_are_others(self, store):
        every = weigh(store)
        *named, others = weigh(store, most=3)
        assert named == every[:3]
        assert (others.namespace, others.name) == (None, "others")
        assert others.bytes == sum(group.bytes for group in every[3:])
        assert others.entries == sum(group.entries for group in every[3:])

    @pytest.mark.parametrize("depth", [1, 2, 3])
    def test_of_any_keys_none_is_lost_or_counted_twice(self, depth, rng):
        with Store("memory://") as store:
            for _ in range(500):
                store["".join(rng.choices("ab:/", k=rng.randrange(1, 8)))] = 0
                store[tuple(rng.choices([None, 1, "a", (1, "x")], k=rng.randrange(4)))] = 0
            ordered = weigh(store, depth, most=10_000)
            assert len(told(ordered)) == len(ordered)
            unordered = plotting._Heaviest(10_000)
            scales = plotting._Scales(None, depth, unordered, is_ordered=False)
            keys = list(store.entries())
            random.Random(0).shuffle(keys)
            for entry in keys:
                scales.put(entry.key, entry.size)
            scales.clear()
            assert told(unordered.sorted()) == told(ordered)
            assert sum(group.entries for group in ordered) == len(store)

    def test_keys_without_separators_make_no_groups(self, store, monkeypatch):
        taken = []
        take = plotting._Heaviest.take
        monkeypatch.setattr(plotting._Heaviest, "take", lambda self, group: taken.append(group) or take(self, group))
        with Store("memory://") as other:
            other.update({f"{n}": n for n in range(2_000)})
            assert told(weigh(other)) == {(None, "text"): summed(other.entries())}
            assert len(taken) == 1

    def test_a_cache_on_servers_whose_keys_have_no_order(self, on_servers, monkeypatch):
        monkeypatch.setattr(plotting, "_MOST_OPEN", 3)
        with Cache(on_servers, ttl=1000) as cache:
            cache.update({f"{n % 7}:{n}": n for n in range(70)})
            groups = weigh(cache)
            assert len(groups) == 4
            assert [group.entries for group in groups] == [10, 10, 10, 40]

    def test_it_says_how_far_it_is(self, store, monkeypatch):
        monkeypatch.setattr(plotting, "_STEP", 100)
        calls = []
        weigh(store, progress=lambda *call: calls.append(call))
        total = len(store) + 1
        assert calls == [(done, total) for done in range(100, total + 1, 100)]


def drawn(groups, width, encoding="utf-8"):
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    draw(groups, Console(file=written, width=width))
    written.flush()
    return written.buffer.getvalue().decode(encoding).splitlines()


class TestDrawing:
    GROUPS = (
        Group(None, "'a:' ...", 2_000, 10),
        Group("n\x1b[2J[b]", "世界" * 30, 1_000, 40),
        Group(None, "others", 1, 1),
    )

    @pytest.mark.parametrize("width", [60, 80, 200])
    def test_it_fits_the_width(self, width):
        head, *lines = drawn(self.GROUPS, width)
        assert head.split() == ["group", "bytes", "keys"]
        bars = [[len(bar) for bar in re.findall("█+", line)] for line in lines]
        longest = bars[0][0]
        assert bars == [
            [longest, max(1, round(longest / 4))],
            [round(longest / 2), longest],
            [1, max(1, round(longest / 40))],
        ]
        assert max(map(cell_len, lines)) <= width
        assert longest >= width // 5
        assert lines[1].startswith(r"n\x1b[2J[b]: ")
        assert "..." in lines[1]

    def test_where_there_are_no_blocks(self):
        lines = drawn(self.GROUPS[:1], 80, "ascii")
        assert "2,000  ####" in lines[1]

    def test_for_json(self):
        assert vars(self.GROUPS[0]) == {"namespace": None, "name": "'a:' ...", "bytes": 2000, "entries": 10}


class TestCommand:
    def run(self, *arguments):
        return CliRunner().invoke(objstore, ["info", *map(str, arguments)], env={"COLUMNS": "100"})

    def test_it_draws_below_what_there_is(self, store, tmp_path):
        printed = self.run(tmp_path / "a.store", "--plot").output
        assert printed.index("location ") < printed.index("\n\ngroup ") < printed.index("'user:' ...")
        assert "\x1b" not in printed
        assert "('log', 1) ..." in self.run(tmp_path / "a.store", "--plot", "--depth", 2).output
        assert "group " not in self.run(tmp_path / "a.store").output

    def test_an_empty_store(self, tmp_path):
        Store(tmp_path / "a.store").close()
        done = self.run(tmp_path / "a.store", "--plot")
        assert done.exit_code == 0
        assert done.output.endswith("\n\nno entries\n")

    def test_a_depth_that_makes_no_sense(self, store, tmp_path):
        assert self.run(tmp_path / "a.store", "--plot", "--depth", 0).exit_code == 2
