"""The browser: what it shows, what it reads, and that it decodes nothing that nobody asked for."""

import asyncio
import os
import pickle
import pty
import signal
import sys
import threading
import warnings
from datetime import date, datetime, timezone
from itertools import islice
from uuid import UUID

import numpy as np
import pytest
from click.testing import CliRunner
from textual.content import Content
from textual.widgets import Static

from objstore import DEFAULT, Cache, Store
from objstore.cli.browsing import app as browsing
from objstore.cli.browsing import tree
from objstore.cli.browsing.app import Browser
from objstore.cli.browsing.disassembly import MOST_BYTES, MOST_LINES, look
from objstore.cli.browsing.tree import KINDS, Part
from objstore.cli.commands import objstore

TEXT, TUPLES = KINDS[2], KINDS[-1]

KEYS = [
    None,
    -(10**30),
    1,
    2.5,
    float("inf"),
    b"raw/a",
    b"raw/b",
    date(2026, 1, 2),
    datetime(2026, 1, 2),
    datetime(2026, 1, 2, tzinfo=timezone.utc),
    UUID(int=5),
]


class Bomb:
    """Makes a directory when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestTree:
    @pytest.fixture
    def store(self):
        with Store("memory://") as store:
            store.update(dict.fromkeys(KEYS, 0))
            store.update({f"user:{n}:name": 0 for n in range(500)})
            store.update({f"https://example.org/{n % 3}/{n}": 0 for n in range(30)})
            store.update({"plain": 0, "only:one": 0})
            store.update({("log", year, n): 0 for year in (2025, 2026) for n in range(300)})
            store.update({("x" * 600, n): 0 for n in range(20)})
            yield store

    def prefixes(self, store, part):
        found = tree.level(store, part)
        return [each.prefix for each in found.parts], found.rest, found.read

    def test_the_kinds_that_there_are(self, store):
        assert [kind.name for kind in tree.kinds(store)] == [kind.name for kind in KINDS]
        store.range(prefix=()).clear()
        store.delete(1)
        assert [kind.name for kind in tree.kinds(store)] == [kind.name for kind in KINDS[:-1]]

    def test_groups_are_found_by_seeks_and_read_what_they_have_in_common(self, store):
        found, rest, read = self.prefixes(store, Part(None, TEXT))
        assert (found, rest) == (["https://example.org/", "user:"], None)
        assert read < 30
        found, _, _ = self.prefixes(store, Part(None, TEXT, "https://example.org/"))
        assert found == [f"https://example.org/{n}/" for n in range(3)]
        found, _, read = self.prefixes(store, Part(None, TUPLES))
        assert found == [("log",)]  # what is too long for a prefix is no group
        assert read < 40
        assert self.prefixes(store, Part(None, TUPLES, ("log",)))[0] == [("log", 2025), ("log", 2026)]
        assert self.prefixes(store, Part(None, TUPLES, ("log", 2025)))[0] == []
        assert self.prefixes(store, Part(None, KINDS[3]))[0] == [b"raw/"]

    def test_a_level_is_read_in_parts_that_meet(self, store, monkeypatch):
        store.update({f"{n:03}:{m}": 0 for n in range(300) for m in range(3)})
        monkeypatch.setattr(tree, "_MOST_GROUPS", 7)
        monkeypatch.setattr(tree, "_MOST_KEYS", 50)
        start, found, calls = DEFAULT, [], 0
        while start is not None:
            level = tree.level(store, Part(None, TEXT), start)
            assert len(level.parts) <= 8
            found += [part.prefix for part in level.parts]
            start, calls = level.rest, calls + 1
        assert found == [*(f"{n:03}:" for n in range(300)), "https://example.org/", "user:"]
        assert calls > 40

    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("prefix", [None, DEFAULT, "user:", ("log",)], ids=["all", "text", "begun", "tuples"])
    def test_pages_of_entries_meet(self, store, prefix, reverse):
        part = Part() if prefix is None else Part(None, TEXT if prefix is DEFAULT else tree.kind_of(prefix), prefix)
        seen, after = [], DEFAULT
        while page := [entry.key for entry in islice(tree.entries(store, part, after, reverse), 13)]:
            seen += page
            after = page[-1]
        expected = [key for key in store if part.holds(key)]
        assert len(expected) >= 500
        assert seen == (expected[::-1] if reverse else expected)

    def test_entries_from_a_key_that_need_not_be_there(self, store):
        every = list(store)
        for start in (2, "only", b"", ("log", 2026)):
            found = [entry.key for entry in tree.entries_from(store, Part(), start)]
            assert found == every[every.index(found[0]) :]
        assert next(tree.entries_from(store, Part(), "only")).key == "only:one"

    def test_a_key_that_is_lost_ends_no_page(self, tmp_path):
        lost, last = "l" * 600, "m"
        with Store(tmp_path / "a.store") as store:
            store.update({"a": 0, lost: 0, last: 0, 5: 0})
        data = tmp_path / "a.store" / "data.mdb"
        data.write_bytes(data.read_bytes().replace(b"l" * 590, b"k" * 590))
        with Store(tmp_path / "a.store", "r") as store:
            every = [entry.key for entry in store.entries()]
            assert "<LostKey" in tree.shown(every[2])
            for reverse in (False, True):
                rest = [entry.key for entry in tree.entries(store, Part(), every[2], reverse)]
                assert rest == (every[1::-1] if reverse else every[3:])


class TestDisassembly:
    @pytest.fixture
    def store(self, tmp_path):
        with Store(tmp_path / "a.store") as store:
            yield store

    def test_a_pickle_is_listed(self, store, tmp_path):
        store["a"] = [{"name": "Ada", "born": date(1815, 12, 10)}, ("name", 10**1000, "x" * 500), Bomb(tmp_path / "no")]
        how, text = look(store.entry("a"))
        assert how.startswith("pickle, not run, ")
        for line in (
            "'Ada'",
            "find datetime.date",
            "again 'name'",
            "an integer of 3,322 bits",
            "CALL it with that tuple",
        ):
            assert line in text
        assert "(500 in all)" in text
        assert "find posix.mkdir" in text
        assert not (tmp_path / "no").exists()

    def test_large_buffers_are_named(self, store):
        store["a"] = np.zeros(20_000)
        assert look(store.entry("a"))[1].endswith("\nbuffer 1: 160,000 bytes")

    def test_it_ends_at_a_bound(self, store, monkeypatch):
        store["a"] = list(range(100_000))
        lines = look(store.entry("a"))[1].splitlines()
        assert len(lines) == MOST_LINES + 1
        assert lines[-1] == "... and more"
        monkeypatch.setattr("objstore.cli.browsing.disassembly.MOST_BYTES", 1_000)
        how, text = look(store.entry("a"))
        assert how == "not read"
        assert "more than 1,000 are not read" in text
        assert MOST_BYTES > 1_000

    def test_what_is_compressed_is_expanded_to_the_bound(self, tmp_path, monkeypatch):
        with Store(tmp_path / "z.store", compression="zlib") as store:
            store["a"] = "word " * 10_000
            assert "(50,000 in all)" in look(store.entry("a"))[1]
            monkeypatch.setattr("objstore.cli.browsing.disassembly.MOST_BYTES", 10_000)
            how, text = look(store.entry("a"))
            assert how == "not readable"
            assert "more than max_size=10000" in text

    def test_no_bytes_make_it_fail_or_go_on(self, store, rng):
        raw = store.namespace("raw", codec="bytes")
        samples = [
            pickle.dumps([{"a": 1.5, "b": [10**400]}, "x", b"y", (1, 2, 3), None, len], protocol)
            for protocol in range(6)
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of escapes in texts of protocol 0
            for _ in range(200):
                data = bytearray(rng.choice(samples))
                for _ in range(rng.randrange(1, 5)):
                    data[rng.randrange(len(data))] = rng.randrange(256)
                raw["a"] = bytes(data[: rng.randrange(len(data) + 1)])
                entry = raw.entry("a")
                entry.codec = rng.choice(["pickle", "json", "bytes", "other"])
                assert len(look(entry)[1].splitlines()) <= MOST_LINES + 1
        raw["a"] = b"\x80\x05" + b"\x94" * 500_000
        entry = raw.entry("a")
        entry.codec = "pickle"
        assert look(entry)[1] == "... and more"

    def test_other_codecs(self, store):
        texts, raw = store.namespace("texts", codec="json"), store.namespace("raw", codec="bytes")
        texts["a"] = {"x": [1, "ü"]}
        assert look(texts.entry("a")) == ("json, 14 bytes", '{\n  "x": [\n    1,\n    "ü"\n  ]\n}')
        raw.update({"text": b"one\ntwo", "bytes": bytes(range(20)), "empty": b"", "long": "ü".encode() * 50_000})
        assert look(raw.entry("text")) == ("text, 7 bytes", "one\ntwo")
        assert look(raw.entry("empty")) == ("text, 0 bytes", "")
        assert look(raw.entry("long"))[1].startswith("üüü")
        lines = look(raw.entry("bytes"))[1].splitlines()
        assert lines[1] == f"00000010  10 11 12 13{' ' * 37} ...."
        assert len(look(raw.entry("bytes"), width=50)[1].splitlines()) == 3
        assert look(texts.entry("a"), in_bytes=True)[1].startswith("00000000  7b 22 78 22")


def browsed(store, steps, namespace=None, size=(80, 16)):
    """Run the browser of a store in this process, and in it the steps, once the first screen is drawn."""

    async def run():
        browser = Browser(store, namespace)
        async with browser.run_test(size=size) as pilot:
            screen = Screen(browser, pilot)
            await screen.until(lambda: screen.count)
            await steps(screen)

    asyncio.run(run())


_MOST_LOOKS = 5_000  # at a screen that does not change, before the test is given up


class Screen:
    """What is to be seen, and the keys."""

    def __init__(self, browser, pilot):
        self.browser, self.pilot = browser, pilot

    async def press(self, *names):
        await self.pilot.press(*names)

    async def until(self, holds):
        """Wait until something holds that threads are about to make true."""
        for _ in range(_MOST_LOOKS):
            if holds():
                return
            await asyncio.sleep(0.005)
        pytest.fail(
            f"it did not come true: {self.title}, {self.count}, {self.branches}; {self.value_title}: {self.value}"
        )

    async def choose(self, label):
        """Choose a branch of the tree and open it, once it is there."""
        keys = self.browser._keys
        keys.focus()
        await self.until(lambda: label in self.branches)
        node = next(node for node in self.nodes if node.label.plain == label)
        keys.move_cursor(node)
        node.expand()
        await self.pilot.pause()

    @property
    def nodes(self):
        waiting, found = [self.browser._keys.root], []
        while waiting:
            node = waiting.pop()
            found.append(node)
            waiting += node.children
        return found

    @property
    def branches(self):
        return [node.label.plain for node in self.nodes]

    @property
    def table(self):
        return self.browser._table

    @property
    def rows(self):
        return [[cell.plain for cell in self.table.get_row_at(row)] for row in range(self.table.row_count)]

    @property
    def keys(self):
        return [row[0] for row in self.rows]

    @property
    def title(self):
        return plain(self.table.border_title)

    @property
    def count(self):
        return plain(self.table.border_subtitle)

    @property
    def in_front(self):
        """What the screen in front says, which may be a question."""
        said = self.browser.screen.query(Static)
        return said.first().content.plain if said else ""

    @property
    def value_title(self):
        return plain(self.browser._value.border_title)

    @property
    def value(self):
        return self.browser._made.content.plain


def plain(title):
    """What a title shows; a widget gives it back with the marks that it would have to be given with."""
    return Content.from_markup(title or "").plain


class TestBrowser:
    def test_no_value_is_decoded_before_somebody_says_yes(self, tmp_path, monkeypatch):
        canary, page = tmp_path / "canary", 60
        monkeypatch.setattr(browsing, "PAGE", page)
        with Store(tmp_path / "a.store") as store:
            store.update({f"{'ab'[n % 2]}:{n:04}": Bomb(canary) for n in range(5 * page)})

            async def steps(screen):
                assert screen.count == f"{page} read, more below"
                await screen.until(lambda: "find posix.mkdir" in screen.value)
                for pages in range(2, 6):
                    await screen.press("end")
                    await screen.until(lambda pages=pages: screen.count == f"{pages * page} read, more below")
                await screen.press("end")
                await screen.until(lambda: screen.count == f"{5 * page} entries")
                assert screen.keys == [repr(key) for key in store]
                await screen.choose("b:")
                await screen.until(lambda: screen.title == "(default): 'b:' ..." and screen.count)
                assert {key[1] for key in screen.keys} == {"b"}
                await screen.press("r")
                await screen.until(lambda: screen.keys[:1] == ["'b:0299'"])
                await screen.press("x")
                await screen.until(lambda: screen.value.startswith("00000000  80 05"))
                await screen.press("f5", "x")
                await screen.until(lambda: "find posix.mkdir" in screen.value)
                await screen.press("tab", "v")
                await screen.until(lambda: "Decode the value of 'b:0299'?" in screen.in_front)
                await screen.press("n")
                assert not canary.exists()
                await screen.press("v", "y")
                await screen.until(lambda: screen.value_title.endswith("decoded"))
                assert screen.value == "None"
                assert canary.is_dir()

            browsed(store, steps)

    def test_what_somebody_has_stored_is_drawn_and_not_obeyed(self, tmp_path):
        with Store(tmp_path / "a.store") as store:
            store.set("\x1b]0;x\x07[bold]key[/]", "\x1b[2J[red]value[/]", tags=["[i]tag[/]\n\x1b[31m"], ttl=1000)
            store.namespace("[u]names[/]\x1b[1m\n", codec="bytes")["[b]"] = b"\x1b[2J"

            async def steps(screen):
                assert screen.rows[0][0] == r"'\x1b]0;x\x07[bold]key[/]'"
                assert screen.rows[0][4] == r"[i]tag[/]\n\x1b[31m"
                await screen.until(lambda: "[red]value[/]" in screen.value)
                assert "[bold]key" in screen.value_title
                await screen.press("v", "y")
                await screen.until(lambda: "decoded" in screen.value_title)
                await screen.choose(r"[u]names[/]\x1b[1m\n")
                await screen.until(lambda: screen.title == r"[u]names[/]\x1b[1m\n" and screen.keys == ["'[b]'"])
                drawn = screen.browser.export_screenshot()
                assert "[u]names[/]" in drawn
                assert "\x1b" not in drawn

            browsed(store, steps, size=(200, 40))

    def test_going_to_a_key_and_reading_again(self, tmp_path):
        with Store(tmp_path / "a.store") as store:
            store.update({("user", n): n for n in range(100)})
            store.update({f"word {n}": n for n in range(10)})
            store.namespace("texts", codec="json")["note"] = {"text": "hello"}

            async def go_to(screen, text):
                await screen.press("slash")
                screen.browser._jump.value = text
                await screen.press("enter")

            async def steps(screen):
                await screen.until(lambda: "texts" in screen.branches)
                await go_to(screen, "('user', 50)")
                await screen.until(lambda: screen.count == "50 entries")
                assert screen.keys[0] == "('user', 50)"
                await go_to(screen, "word 5")
                await screen.until(lambda: screen.keys[:1] == ["'word 5'"])
                assert screen.title == "(default), from 'word 5'"
                await go_to(screen, "[]")
                await screen.until(lambda: "not a key" in screen.value_title)
                assert "list cannot be a key" in screen.value
                await go_to(screen, "")
                await screen.until(lambda: screen.keys[:1] == ["'word 0'"])
                store["a new word"] = 1
                del store["word 0"]
                await screen.press("down", "up", "v", "y")
                await screen.until(lambda: "it is not there any more" in screen.value)
                await screen.press("f5")
                await screen.until(lambda: screen.keys[:2] == ["'a new word'", "'word 1'"])
                await screen.press("question_mark")
                await screen.until(lambda: "go to a key" in screen.in_front)
                await screen.press("escape")
                await screen.choose("texts")
                await screen.until(lambda: screen.keys == ["'note'"])
                await screen.press("v")  # no code runs, so nobody is asked
                await screen.until(lambda: screen.value == "{'text': 'hello'}")

            browsed(store, steps)

    def test_what_the_code_of_a_class_raises_is_shown(self, tmp_path):
        with Store(tmp_path / "a.store") as store:
            store["a"] = Loud()

            async def steps(screen):
                await screen.press("v", "y")
                await screen.until(lambda: screen.value == "OSError: from [somebody's] code")
                assert screen.value_title == "not shown"

            browsed(store, steps)

    def test_a_cache_that_is_sealed_without_its_key(self, tmp_path):
        with Cache(tmp_path / "a.cache", max_entries=100, encryption_key=bytes(range(32))) as cache:
            cache["a"] = "secret"
        with Cache(tmp_path / "a.cache", "r") as cache:

            async def steps(screen):
                assert screen.keys == ["'a'"]
                await screen.until(lambda: screen.value_title == "'a': not readable")
                assert "nothing of it was decoded" in screen.value
                await screen.press("v", "y")
                await screen.until(lambda: screen.value_title == "'a': decoded")
                assert "nothing of it was decoded" in screen.value

            browsed(cache, steps)

    def test_a_store_that_refuses_is_not_the_end(self, tmp_path):
        with Store(tmp_path / "a.store") as store:
            store["a"] = 1

            async def steps(screen):
                store.close()
                await screen.press("f5")
                await screen.until(lambda: screen.value_title == "refused")
                assert "is closed" in screen.value
                assert screen.keys == []
                await screen.press("slash", "a", "enter")
                await screen.until(lambda: "is closed" in screen.value)

            browsed(store, steps)

    def test_what_was_read_of_something_else_is_not_shown(self, tmp_path, monkeypatch):
        begun, let_go = threading.Event(), threading.Event()

        def look(*_arguments):
            begun.set()
            let_go.wait()
            return "late", "late"

        monkeypatch.setattr(browsing, "look", look)
        with Store(tmp_path / "a.store") as store:
            store["a"] = 1

            async def steps(screen):
                try:
                    await screen.until(begun.is_set)
                    store.close()
                    await screen.press("f5")
                    await screen.until(lambda: screen.value_title == "refused")
                finally:
                    let_go.set()
                await screen.browser.workers.wait_for_complete()
                assert screen.value_title == "refused"

            browsed(store, steps)

    def test_a_namespace_with_a_codec_that_is_somebodys_own(self, tmp_path):
        with Store(tmp_path / "a.store") as store:
            store["a"] = 1
            store.namespace("own", codec=Backwards())["a"] = "abc"
        with Store(tmp_path / "a.store", "r") as store:

            async def steps(screen):
                await screen.choose("own")
                await screen.until(lambda: screen.value_title == "refused")
                assert "has codec 'backwards'" in screen.value

            browsed(store, steps)

    def test_on_servers(self, on_servers):
        with Store(on_servers) as store:
            store.update({f"user:{n:03}": n for n in range(300)} | {("log", n): n for n in range(20)})
            store.namespace("texts")["a"] = "b"

            async def steps(screen):
                await screen.choose("text")
                await screen.choose("user:")
                await screen.until(lambda: screen.title == "(default): 'user:' ..." and screen.count)
                await screen.until(lambda: screen.value_title.startswith("'user:000': pickle"))
                screen.table.focus()
                await screen.press("end")
                await screen.until(lambda: screen.count == "300 entries")
                await screen.choose("texts")
                await screen.until(lambda: screen.keys == ["'a'"])

            browsed(store, steps)

    def test_a_cache_on_servers_whose_keys_have_no_order(self, on_servers):
        with Cache(on_servers, ttl=1000) as cache:
            cache.update({n: n for n in range(300)})

            async def steps(screen):
                assert screen.title == "(default) (without order)"
                await screen.press("end")
                await screen.until(lambda: screen.count == "300 entries")
                assert sorted(map(int, screen.keys)) == list(range(300))
                await screen.until(lambda: screen.value_title.startswith(f"{screen.keys[screen.table.cursor_row]}: "))
                await screen.press("slash")
                assert "have no order" in screen.value

            browsed(cache, steps)


class Loud:
    """Cannot be shown."""

    def __rich_repr__(self):
        yield "part", 1
        raise OSError("from [somebody's] code")


class Backwards:
    """A codec of somebody's own."""

    name, number, runs_code = "backwards", 200, False

    def encode(self, value):
        return value[::-1].encode(), ()

    def decode(self, payload, _frames):
        return bytes(payload).decode()[::-1]


class TestCommand:
    @pytest.fixture
    def path(self, tmp_path):
        with Store(tmp_path / "a.store") as store:
            store["greeting"] = "hello"
        return str(tmp_path / "a.store")

    def test_what_it_refuses(self, path, monkeypatch):
        refused = CliRunner().invoke(objstore, ["browse", path])
        assert (refused.exit_code, refused.output) == (
            1,
            "Error: browse draws on a terminal, and here is none; `objstore ls` lists the keys\n",
        )
        refused = CliRunner().invoke(objstore, ["browse", "memory://x"])
        assert refused.exit_code == 2
        monkeypatch.setitem(sys.modules, "objstore.cli.browsing.app", None)
        monkeypatch.setitem(sys.modules, "textual", None)
        monkeypatch.delitem(sys.modules, "objstore.cli.browsing.app")
        refused = CliRunner().invoke(objstore, ["browse", path])
        assert refused.exit_code == 1
        assert "browse needs textual: pip install textual" in refused.output

    def test_on_a_terminal(self, path):
        drawn = on_a_terminal([sys.executable, "-m", "objstore", "browse", path], until=b"'greeting': ", then=b"q")
        assert b"Reverse" in drawn
        drawn = on_a_terminal([sys.executable, "-m", "objstore", "browse", f"{path}/no"], until=b"no store", code=1)
        assert b"Traceback" not in drawn


def on_a_terminal(command, until, then=b"", code=0):
    """Run a command on a terminal of its own until that is drawn, press a key, and wait for its end: what it drew."""
    process, terminal = pty.fork()
    if not process:
        os.environ.update(TERM="xterm", COLUMNS="100", LINES="30")
        os.execv(command[0], command)
    drawn = b""
    try:
        while until not in drawn:
            drawn += os.read(terminal, 1 << 16)
        os.write(terminal, then)
        while True:
            try:
                drawn += os.read(terminal, 1 << 16)
            except OSError:  # its end
                break
        _, status = os.waitpid(process, 0)
        process = 0
        assert os.waitstatus_to_exitcode(status) == code
    finally:
        if process:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        os.close(terminal)
    return drawn


def test_random_stores_are_seen_whole(rng):
    """Opening all branches leads to every key that has company, once."""
    with Store("memory://") as store:
        for _ in range(400):
            store["".join(rng.choices("ab:/.", k=rng.randrange(1, 7)))] = 0
            store[tuple(rng.choices([None, 1, "a", b"b", (1, "x")], k=rng.randrange(4)))] = 0
        for kind in (TEXT, TUPLES):
            waiting, seen = [Part(None, kind)], set()
            while waiting:
                part = waiting.pop()
                level = tree.level(store, part)
                assert level.rest is None
                for below in level.parts:
                    assert below not in seen
                    assert sum(tree.begins(key, below.prefix) for key in store) >= 2
                    seen.add(below)
                    waiting.append(below)
            firsts = {
                group for key in store if kind.holds(key) if (group := tree.group_of(key, kind.lowest)) is not None
            }
            shared = {group for group in firsts if sum(tree.begins(key, group) for key in store) >= 2}
            tops = tree.level(store, Part(None, kind)).parts
            assert len(tops) == len(shared)
            assert all(any(tree.begins(top.prefix, group) for group in shared) for top in tops)
