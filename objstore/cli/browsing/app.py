"""The browser: a tree of keys on the left, the entries of what is chosen there, and below what a value is made of.

The store is read where somebody looks, and no further: a page of entries, one level of the tree, the record of the
entry that is chosen.  Each is read in a thread, so the screen goes on, and for itself, so nothing is held in the
store while somebody thinks; what others write meanwhile is seen from then on.  No value is decoded unless
it was asked for, and where that runs code, a question comes before.

Names, keys, tags and values may hold anything: what is drawn is `Text` or `Content`, never markup, and printable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from itertools import islice
from typing import Any, ClassVar, NamedTuple

from rich.pretty import pretty_repr
from rich.text import Text
from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.timer import Timer
from textual.widgets import DataTable, Footer, Input, Static, Tree
from textual.widgets.tree import TreeNode
from textual.worker import Worker, WorkerState

from objstore import DEFAULT, Entry, Store, StoreError
from objstore.cli.browsing import tree
from objstore.cli.browsing.disassembly import MOST_LINES, RUNS_NO_CODE, look
from objstore.cli.browsing.screens import Help, Question
from objstore.cli.browsing.tree import Part
from objstore.cli.literals import literal
from objstore.cli.printing import printable

PAGE = 200

_BEFORE_THE_END = 30  # rows: so near to the last one that was read, the next page is
_SETTLED = 0.05  # seconds on an entry before its record is read
_BESIDE_KEYS = 42  # columns that size, codec and expiry take beside the key
_LEAST_FOR_KEYS = 26
_WIDEST_LABEL = 60


class More(NamedTuple):
    """A branch that stands for the rest of a level: what was not read yet."""

    part: Part
    start: Any


Branch = Part | More
Work = Callable[[], Coroutine[None, None, None]]

_DECODING = "decoding"  # the work in which the code of somebody's classes runs, and may fail


class Entries(DataTable[Text]):
    """The table of the entries.  Home and End lead to the first row and the last one, as in a list."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("home", "scroll_top", "Top", show=False),
        Binding("end", "scroll_bottom", "Bottom", show=False),
    ]


class Browser(App[None]):
    """The screen of `objstore browse`.  `namespace`: the one to begin with."""

    ENABLE_COMMAND_PALETTE = False
    TITLE = "objstore"
    CSS = """
    Tree { width: 30%; min-width: 22; max-width: 50; }
    Tree, DataTable, #value {
        border: round $surface-lighten-2; background: $background; padding: 0 1; scrollbar-size: 1 1;
    }
    Tree:focus, DataTable:focus, #value:focus { border: round $accent; }
    DataTable { height: 3fr; padding: 0; }
    #value { height: 2fr; }
    #jump { display: none; border: none; height: 1; padding: 0 1; }
    #jump.asked { display: block; }
    Question, Help { align: center middle; background: $background 60%; }
    Question Vertical, Help Vertical {
        width: 72; max-width: 94%; height: auto; border: round $accent; background: $surface; padding: 1 2;
    }
    .choices { color: $text-muted; margin-top: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "jump", "Go to"),
        Binding("r", "reverse", "Reverse"),
        Binding("v", "decode", "Value"),
        Binding("x", "bytes", "Bytes"),
        Binding("f5", "refresh", "Refresh"),
        Binding("question_mark", "help", "Help"),
        Binding("q", "quit", "Quit"),
        Binding("escape", "leave", "Back", show=False),
    ]

    def __init__(self, store: Store[Any, Any], namespace: str | None = None) -> None:
        super().__init__()
        self.animation_level = "none"
        self._store = store
        self._is_ordered = store.supports("ordered")
        self._spaces: dict[str, Store[Any, Any]] = {}
        self._part = Part(namespace)
        self._start: Any = DEFAULT  # where a jump led
        self._is_reversed = False
        self._in_bytes = False
        self._rows: list[Entry[Any, Any]] = []
        self._unordered = self._every_entry(self._part)  # gone on with where nothing is found again by its key
        self._is_reading = False
        self._is_complete = False
        self._settling: Timer | None = None
        self._decoding: Entry[Any, Any] | None = None  # whose value is shown, or will be

        # Found by their names they would be looked for on the screen that is in front, which may be a question.
        self._keys: Tree[Branch] = Tree("", id="keys")
        self._table = Entries(cursor_type="row")
        self._made = Static()
        self._value = VerticalScroll(self._made, id="value")
        self._jump = Input(id="jump", placeholder="a key, or how it begins: user:1, 42, ('user', 42)")

    def compose(self) -> ComposeResult:
        yield Horizontal(self._keys, Vertical(self._table, self._value))
        yield self._jump
        yield Footer()

    def on_mount(self) -> None:
        self._keys.show_root = False
        self._keys.guide_depth = 2
        self._keys.border_title = _title(self._store.location.rpartition("/")[2])  # there is room for the name alone
        self._table.add_columns("Key", "Size", "Codec", "Expires", "Tags")
        self.watch(self._table, "scroll_y", self._scrolled, init=False)
        self._begin(self._plant, "tree")
        self._show(self._part)
        self._table.focus()

    def _begin(self, work: Work, group: str, *, exclusive: bool = True, name: str = "") -> None:
        """Let something be done beside the screen; what is `exclusive` ends what its group does.

        It is a function, since a coroutine that is made while the screen ends is never awaited.
        """
        _: Worker[None] = self.run_worker(
            work, name=name, group=group, exclusive=exclusive, exit_on_error=name != _DECODING
        )

    # What is there

    def space(self, name: str | None) -> Store[Any, Any]:
        """The mapping of a namespace, opened once.  Raises StoreError where its codec is somebody's own."""
        if name is None:
            return self._store
        if name not in self._spaces:
            self._spaces[name] = self._store.namespace(name)
        return self._spaces[name]

    @property
    def _chosen(self) -> Entry[Any, Any] | None:
        row = self._table.cursor_row
        return self._rows[row] if 0 <= row < len(self._rows) else None

    # The tree

    async def _plant(self) -> None:
        keys = self._keys
        try:
            names = [None, *await asyncio.to_thread(self._store.namespaces)]
        except StoreError as exc:
            self._refused(exc)
            return
        with self.prevent(Tree.NodeHighlighted):  # what is shown stays
            keys.clear()
            for name in names:
                label = "(default)" if name is None else name
                keys.root.add(_label(label), Part(name), allow_expand=self._is_ordered)
            for node in keys.root.children:
                if node.data == Part(self._part.namespace):
                    keys.move_cursor(node)
                    node.expand()

    @on(Tree.NodeExpanded)
    def _opened(self, event: Tree.NodeExpanded[Branch]) -> None:
        if event.node.data is not None and not event.node.children:
            self._begin(partial(self._grow, event.node, event.node.data), "tree", exclusive=False)

    async def _grow(self, node: TreeNode[Branch], branch: Branch) -> None:
        """Read the level below a branch, or what is left of one."""
        part, start = branch if isinstance(branch, More) else (branch, DEFAULT)
        try:
            parts, rest = await asyncio.to_thread(self._below, part, start)
        except StoreError as exc:
            self._refused(exc)
            return
        for found in parts:
            node.add(_label(_named(found, part)), found, allow_expand=found.has_groups)
        if rest is not None:
            node.add_leaf(Text("... more", style="dim"), rest)
        if not node.children:
            node.allow_expand = False

    def _below(self, part: Part, start: Any) -> tuple[list[Part], More | None]:
        space = self.space(part.namespace)
        if part.kind is None:
            kinds = [Part(part.namespace, kind) for kind in tree.kinds(space)]
            if len(kinds) != 1 or not kinds[0].has_groups:
                return kinds, None
            part = kinds[0]  # of one kind there is no need to speak
        level = tree.level(space, part, start)
        return level.parts, None if level.rest is None else More(part, level.rest)

    @on(Tree.NodeHighlighted)
    def _branch_chosen(self, event: Tree.NodeHighlighted[Branch]) -> None:
        branch = event.node.data
        if isinstance(branch, Part) and branch != self._part and event.control.has_focus:
            self._show(branch)

    @on(Tree.NodeSelected)
    def _more_chosen(self, event: Tree.NodeSelected[Branch]) -> None:
        node, parent = event.node, event.node.parent
        if isinstance(node.data, More) and parent is not None:
            node.remove()
            self._begin(partial(self._grow, parent, node.data), "tree", exclusive=False)

    # The entries

    def _show(self, part: Part, start: Any = DEFAULT) -> None:
        """Begin to show a part, from a key on if one is given."""
        self._part, self._start = part, start
        self._rows, self._unordered = [], self._every_entry(part)
        self._is_complete = self._is_reading = False
        self._table.clear()
        self._say("", "")
        self._read()

    def _read(self) -> None:
        if not (self._is_reading or self._is_complete):
            self._is_reading = True
            self._begin(self._read_page, "entries")

    async def _read_page(self) -> None:
        after = self._rows[-1].key if self._rows else DEFAULT
        # What is asked for may be something else before the thread begins, so it is told all of it here.
        read = partial(self._page, self._part, after, self._start, self._is_reversed, self._unordered)
        try:
            page = await asyncio.to_thread(read)
        except StoreError as exc:
            self._is_complete = True
            self._refused(exc)
        else:
            self._is_complete = len(page) < PAGE
            self._rows += page
            width = max(_LEAST_FOR_KEYS, self._table.size.width - _BESIDE_KEYS)
            self._table.add_rows(_row(entry, width) for entry in page)
        self._is_reading = False
        self._tell_where()

    def _page(
        self, part: Part, after: Any, start: Any, is_reversed: bool, unordered: Iterator[Entry[Any, Any]]
    ) -> list[Entry[Any, Any]]:
        """The next entries of a part behind the key `after`, or from its beginning or the key `start` on."""
        if not self._is_ordered:
            return list(islice(unordered, PAGE))
        space = self.space(part.namespace)
        if after is DEFAULT and start is not DEFAULT:
            return list(islice(tree.entries_from(space, part, start), PAGE))
        return list(islice(tree.entries(space, part, after, is_reversed), PAGE))

    def _every_entry(self, part: Part) -> Iterator[Entry[Any, Any]]:
        yield from self.space(part.namespace).entries()

    def _tell_where(self) -> None:
        table, part = self._table, self._part
        order = " (reversed)" if self._is_reversed else "" if self._is_ordered else " (without order)"
        start = "" if self._start is DEFAULT else f", from {tree.shown(self._start)}"
        table.border_title = _title(f"{_whole_name(part)}{start}{order}")
        count = len(self._rows)
        whole = "1 entry" if count == 1 else f"{count:,} entries"
        table.border_subtitle = _title(whole if self._is_complete else f"{count:,} read, more below")

    def _scrolled(self) -> None:
        table = self._table
        if self._rows and table.scroll_y + table.size.height > len(self._rows) - _BEFORE_THE_END:
            self._read()

    @on(DataTable.RowHighlighted)
    def _entry_chosen(self, event: DataTable.RowHighlighted) -> None:
        if event.cursor_row >= len(self._rows) - _BEFORE_THE_END:
            self._read()
        if self._settling is not None:
            self._settling.stop()
        self._settling = self.set_timer(_SETTLED, self._look)

    # The value

    def _look(self) -> None:
        entry = self._chosen
        if entry is not None and entry is not self._decoding:
            self._decoding = None
            self._begin(partial(self._look_at, entry), "value")

    async def _look_at(self, entry: Entry[Any, Any]) -> None:
        try:
            how, made = await asyncio.to_thread(look, entry, self._in_bytes, self._made.size.width)
        except KeyError:
            how, made = "gone", "it is not there any more; F5 reads again"
        if entry is self._chosen:  # something else may have been chosen while it was read
            self._say(f"{tree.shown(entry.key)}: {how}", made)

    def action_decode(self) -> None:
        """Show the value of the entry that is chosen, after a question where decoding runs code."""
        entry = self._chosen
        if entry is None:
            return
        if entry.codec in RUNS_NO_CODE:
            self._decode(entry, True)
            return
        question = (
            f"Decode the value of {tree.shown(entry.key)}?\n\n"
            f"Its codec is {entry.codec}: this runs the code of its classes, and whatever else those who can write to "
            f"the store have put there."
        )
        self.push_screen(Question(printable(question)), partial(self._decode, entry))

    def _decode(self, entry: Entry[Any, Any], agreed: bool | None) -> None:
        if agreed:
            self._decoding = entry
            self._begin(partial(self._decoded, entry), "value", name=_DECODING)

    async def _decoded(self, entry: Entry[Any, Any]) -> None:
        width = max(40, self._value.size.width - 2)
        try:
            shown = await asyncio.to_thread(_value, entry, width)
        except KeyError:
            shown = "it is not there any more; F5 reads again"
        except StoreError as exc:
            shown = str(exc)
        self._say(f"{tree.shown(entry.key)}: decoded", shown)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Say what the code of somebody's class raised where a value was to be shown."""
        if event.worker.name == _DECODING and event.state is WorkerState.ERROR:
            self._say("not shown", f"{type(event.worker.error).__name__}: {event.worker.error}")

    def _say(self, title: str, text: str) -> None:
        self._value.border_title = _title(title)
        self._made.update(Content(printable(text.replace("\t", "    "))))
        self._value.scroll_home(animate=False)

    def _refused(self, exc: Exception) -> None:
        self._say("refused", str(exc))

    # What the other keys do

    def action_jump(self) -> None:
        """Ask for a key."""
        if not self._is_ordered:
            self._say("not here", "these keys have no order, so none of them can be gone to; `objstore get` finds one")
            return
        self._jump.add_class("asked")
        self._jump.value = ""
        self._jump.focus()

    @on(Input.Submitted)
    def _go_to(self, event: Input.Submitted) -> None:
        self.action_leave()
        text = event.value.strip()
        self._is_reversed = False
        try:
            start = literal(text) if text else DEFAULT
            self.space(self._part.namespace).range(start)
        except (StoreError, TypeError, ValueError) as exc:
            self._say("not a key", str(exc))
            return
        self._show(Part(self._part.namespace), start)

    def action_leave(self) -> None:
        """Put the question for a key away."""
        self._jump.remove_class("asked")
        self._table.focus()

    def action_reverse(self) -> None:
        """Show the part from its other end."""
        if self._is_ordered:
            self._is_reversed = not self._is_reversed
            self._show(self._part)

    def action_bytes(self) -> None:
        """Switch between what the value is made of and its bytes."""
        self._in_bytes, self._decoding = not self._in_bytes, None
        self._look()

    def action_refresh(self) -> None:
        """Read the tree and the entries again."""
        self._begin(self._plant, "tree")
        self._show(self._part, self._start)

    def action_help(self) -> None:
        """Say what the keys do."""
        self.push_screen(Help())


def _value(entry: Entry[Any, Any], width: int) -> str:
    """The value in Python's notation, its first lines.  This decodes it."""
    shown = pretty_repr(entry.value, max_width=width, max_length=MOST_LINES, max_string=10_000).splitlines()
    return "\n".join(shown[:MOST_LINES] + ["... and more"] * (len(shown) > MOST_LINES))


def _row(entry: Entry[Any, Any], width: int) -> Iterator[Text]:
    expires = "-" if entry.expires_at is None else entry.expires_at.astimezone().strftime("%Y-%m-%d %H:%M")
    yield Text(_cut(tree.shown(entry.key), width))
    yield Text(f"{entry.size:,}", justify="right")
    yield Text(_line(entry.codec))
    yield Text(expires)
    yield Text(_line(" ".join(entry.tags)))


def _whole_name(part: Part) -> str:
    """A part, for the title above its entries."""
    place = "(default)" if part.namespace is None else part.namespace
    if part.prefix is not DEFAULT:
        return f"{place}: {tree.shown(part.prefix)} ..."
    return place if part.kind is None else f"{place}: {part.kind.name}"


def _named(part: Part, above: Part) -> str:
    """A part below another, by what it adds to it."""
    if part.prefix is DEFAULT:
        return part.kind.name if part.kind is not None else ""
    known = len(above.prefix) if above.prefix is not DEFAULT else 0
    added = part.prefix[known:]
    return ", ".join(map(tree.shown, added)) if isinstance(added, tuple) else tree.shown(added).strip("'\"")


def _label(text: str) -> Text:
    return Text(_cut(_line(text), _WIDEST_LABEL))


def _title(text: str) -> Any:
    """A title of a border, which takes a text for markup, unless it is `Content`."""
    return Content(_line(text))


def _line(text: str) -> str:
    return printable(text).replace("\n", "\\n")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
