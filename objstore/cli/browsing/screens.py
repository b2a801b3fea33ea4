"""The small screens that come over the browser: a question, and the help."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

HELP = """\
Arrows          move; Enter opens and closes a branch of the tree
Tab, Shift+Tab  go to the next pane, to the last one
/               go to a key, or the first one behind it
r               from the last key to the first, and back
v               decode the value that is chosen, and show it
x               its bytes as the codec made them, and back
F5              read again
q               quit

Keys are written as in Python: 42, ('user', 42). What is not Python is text.

A pickle is listed, and not run, until you ask for the value.
Nothing here writes to the store."""


class Question(ModalScreen[bool]):
    """A question whose answer is yes or no; no, as long as it was not answered."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("y", "dismiss(True)", "Yes"),
        ("n,escape,enter,q", "dismiss(False)", "No"),
    ]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        yield Vertical(Static(Content(self._text)), Static("y  yes      n  no", classes="choices"))


class Help(ModalScreen[None]):
    """What the keys do."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,enter,q,question_mark", "dismiss(None)", "Close")]

    def compose(self) -> ComposeResult:
        yield Vertical(Static(Content(HELP)), Static("Esc  close", classes="choices"))
