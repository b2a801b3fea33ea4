"""Values of all kinds whose keys never change, for the tests of keys: the table, and a program that prints its digests.

The program runs on any interpreter, with nothing installed: `python -c "import keytable; keytable.main(path)"`,
where path is the directory of the package, whose own `__init__` is not run.
"""

from __future__ import annotations

import datetime as dt
import enum
import functools
import json
import math
import operator
import re
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath, PureWindowsPath
from uuid import UUID


class Colour(enum.Enum):
    RED = 1
    BLUE = "b"


class Right(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()
    BOTH = READ | WRITE


class Level(enum.IntEnum):
    LOW = 1


Point = namedtuple("Point", "x y")


@dataclass
class Config:
    name: str
    sizes: list[int] = field(default_factory=list)
    more: dict[str, object] | None = None

    @classmethod
    def standard(cls):
        return cls("standard")

    def size(self):
        return sum(self.sizes)


def area(width, height=2, *more, unit="m", **options):
    """Multiplies; the words here are part of its source."""
    return width * height, more, unit, options


WORDS = ["to", "be", "or", "not", "é", "\ud800", "'", '"', "\\", "\x00", "𝄞", ""]

TABLE = {
    "none": None,
    "true": True,
    "one": 1,
    "one, a float": 1.0,
    "one, a text": "1",
    "one, bytes": b"1",
    "minus zero": -0.0,
    "inf": math.inf,
    "nan": math.nan,
    "small": 5e-324,
    "third": 1 / 3,
    "long int": -(10**700),
    "longest plain int": (1 << 2000) - 1,
    "complex": complex(-0.0, 2),
    "texts": WORDS,
    "long text": "é\ud800" * 501,
    "long bytes": bytes(range(256)) * 4,
    "bytearray": bytearray(b"abc"),
    "memoryview": memoryview(b"abcdef")[::2],
    "tuples": ((), (1,), (1, (2, "x"))),
    "lists": [[], [1, [None]]],
    "set": {*WORDS, 1, 2.5, (3,)},
    "frozensets": frozenset({frozenset(), frozenset({1})}),
    "dict": {word: number for number, word in enumerate(WORDS)} | {1: None, (2,): [3]},
    "ordered": OrderedDict(b=1, a=2),
    "default": defaultdict(list, a=[1]),
    "counter": Counter("abracadabra"),
    "deque": deque([1, 2], maxlen=3),
    "namedtuple": Point(1, y=[2]),
    "range and slice": (range(1, 10, 2), slice(None, -1), ..., NotImplemented),
    "enums": (Colour.RED, Colour.BLUE, Level.LOW, Right.READ, Right.BOTH, Right(0), re.IGNORECASE),
    "dataclass": Config("a", [1, 2], {"x": {1, 2}}),
    "paths": (PurePosixPath("/a/b"), PureWindowsPath("C:/a")),
    "date": dt.date(2024, 2, 29),
    "time": dt.time(1, 2, 3, 4, fold=1),
    "naive": dt.datetime(2024, 2, 29, 12, 30, 0, 1),
    "aware": dt.datetime(2024, 2, 29, tzinfo=dt.timezone.utc),
    "zone": dt.timezone(dt.timedelta(hours=-5), "EST"),
    "timedelta": dt.timedelta(days=-1, microseconds=1),
    "uuid": UUID(int=7),
    "decimals": [Decimal("1.50"), Decimal("-0"), Decimal("1E+3"), Decimal("NaN"), Decimal("-Infinity")],
    "fraction": Fraction(-1, 3),
    "patterns": [re.compile("é+", re.IGNORECASE), re.compile(b"x")],
    "functions": [area, len, math.sin, operator.add, str.upper, "abc".upper, dict.fromkeys, int, type(None)],
    "methods": [Config("m").size, Config.standard],
    "partial": functools.partial(area, 1, unit="km"),
}


def digests(directory):
    """Digest of each value of the table, and keys of some calls, by the package in a directory."""
    if "objstore" not in sys.modules:
        package = types.ModuleType("objstore")
        package.__path__ = [directory]
        sys.modules["objstore"] = package
    from objstore import functions, memokeys

    found = {name: memokeys.digest((value,), b"table\n").hex() for name, value in TABLE.items()}
    key = functions.key_maker(area)
    found["call"] = key(1, unit="km", depth=3).hex()
    found["call of a version"] = functions.key_maker(area, version=(1, "b"))(1).hex()
    found["call of this source"] = functions.key_maker(area, version="source")(1).hex()
    found["call but for what is ignored"] = functions.key_maker(area, ignore=["unit", "depth"])(1, depth=3).hex()
    found["call by another key"] = functions.key_maker(area, key=lambda width: width)(1).hex()
    return found


def main(directory):
    print(json.dumps(digests(directory)))
