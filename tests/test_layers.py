"""Imports go one way, from the waist of bytes up to the store, and every foreign library has one door."""

from __future__ import annotations

import ast
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

import objstore

PACKAGE = Path(objstore.__file__).parent

NOT_BUILT_YET = {
    "adapters*",
}

# From the bottom up.  A module may import from lines above its own, and nothing from its own line.
STRATA = [
    "errors",
    "calls",
    "calls.source  calls.arrays",
    "calls.values",
    "calls.functions",
    "keys  record",
    "codecs",
    "codecs.base",
    "codecs.arrays  codecs.names",
    "codecs.rehearsing",
    "codecs.restricting",
    "codecs.pickling  codecs.raw  codecs.structured  codecs.compression  codecs.keyring",
    "codecs.sealing",
    "codecs.table",
    "engines.base",
    "engines.lmdb.filesystem  engines.lmdb.forks  engines.lmdb.datafile",
    "engines.memory  engines.lmdb.errors  engines.redis.location  engines.redis.layout  engines.redis.scripts",
    "engines.redis.driver  engines.redis.walking",
    "engines.redis.nodes  engines.redis.verdicts",
    "engines.redis.routing",
    "engines.redis.shards  engines.redis.leases",
    "engines.redis.engine",
    "engines.redis",
    "engines.lmdb.addresses  engines.lmdb.structure",
    "engines.lmdb.activity  engines.lmdb.claiming  engines.lmdb.directory",
    "engines.lmdb.transactions  engines.lmdb.turns",
    "engines.lmdb.zerocopy  engines.lmdb.grouping",
    "engines.lmdb.copying",
    "engines.lmdb.registry",
    "engines.lmdb.engine",
    "engines.lmdb.opening",
    "engines.lmdb.offline  engines.lmdb.foreign",
    "engines.lmdb",
    "engines",
    "space  usage",
    "eviction  sharding",
    "identity",
    "audit",
    "checking  salvaging  rekeying",
    "views",
    "mapping",
    "transaction",
    "computing",
    "computing.lookout",
    "computing.flights",
    "computing.once",
    "memoize",
    "store",
    "keeper",
    "cache",
    "copying",
    "copying.records",
    "copying.work",
    "copying.stores",
    "exchange",
    "exchange.jsonlines  exchange.dumpfile  exchange.files  exchange.base  exchange.reports",
    "exchange.pickledirs  exchange.dumps  exchange.consent  exchange.sqlite",
    "exchange.decoding",
    "exchange.exporting",
    "exchange.shelves  exchange.diskcaches  exchange.sqlitedicts  exchange.rawlmdb  exchange.lines",
    "exchange.pickles",
    "exchange.recognising",
    "exchange.landing",
    "exchange.passes",
    "exchange.importing",
    "",  # objstore itself: the public names
    "cli*  adapters*",  # these call public names only, and know how keys and values stand in JSON
    "__main__",
]

# Who may open the door to a foreign library.
DOORS = {
    "lmdb": ["engines.lmdb", "engines.lmdb.*"],
    "xxhash": ["record"],
    "redis": ["engines.redis.driver"],
    "valkey": ["engines.redis.driver"],
    "click": ["cli*"],
    "rich": ["cli*"],
    "numpy": ["cli.demo", "cli.benchmarking", "codecs.arrays"],
    "textual": ["cli.browsing.app", "cli.browsing.screens"],
    "msgspec": ["codecs.structured"],
    "cryptography": ["codecs.sealing"],
    "lz4": ["codecs.compression"],
    "zstandard": ["codecs.compression"],
}

OPTIONAL = DOORS.keys() - {"lmdb", "xxhash"} | {"pandas"}


def name_of(path):
    """The dotted name of a file within the package; the package itself is ""."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_names(tree):
    """What the import statements of a file name, at any depth, and whether each stands inside a function."""
    inside = {id(inner) for node in ast.walk(tree) if is_function(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in inside
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) in inside


def is_function(node):
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))


def imports(module):
    """Modules of the package and top names of others that a module imports: two lists of (name, deferred)."""
    own, foreign = [], []
    for name, deferred in imported_names(ast.parse(MODULES[module].read_text())):
        top, _, rest = name.partition(".")
        if top != "objstore":
            foreign.append((top, deferred))
            continue
        while rest not in MODULES:  # the last part is what is imported from the module
            rest = rest.rpartition(".")[0]
        own.append((rest, deferred))
    return own, foreign


def names(module, line):
    """Whether a line of the table, or a pattern in it, names a module."""
    return module == line or any(fnmatch(module, name) for name in line.split())


def stratum(module):
    """The line of a module in the table, counted from the bottom."""
    lines = [number for number, line in enumerate(STRATA) if names(module, line)]
    assert len(lines) == 1, f"objstore.{module} has no place, or several, in the table of strata"
    return lines[0]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module or "objstore")
class TestEveryModule:
    def test_it_imports_from_above_only(self, module):
        own, _ = imports(module)
        upwards = {
            other for other, _deferred in own if stratum(other) >= stratum(module) and not same_room(module, other)
        }
        assert upwards == set()

    def test_it_knows_only_the_foreign_libraries_whose_door_it_is(self, module):
        _, foreign = imports(module)
        others = {name for name, _ in foreign if name not in sys.stdlib_module_names}
        assert others <= DOORS.keys()
        assert [name for name in others if not any(fnmatch(module, door) for door in DOORS[name])] == []

    def test_it_imports_what_is_optional_in_functions_only_but_for_the_command_line(self, module):
        if module.split(".")[0] in ("cli", "adapters") or module in NOT_BUILT_YET:
            return
        assert {name for name, deferred in imports(module)[1] if not deferred} & OPTIONAL == set()


def same_room(module, other):
    """Files of the command line may import each other, as may those of one adapter."""
    return module.split(".")[0] == other.split(".")[0] and module.split(".")[0] in ("cli", "adapters")


class TestTheTable:
    def test_it_names_modules_that_are_there_or_marked_as_not_built_yet(self):
        named = {name for line in STRATA for name in line.split()}
        missing = {name for name in named if not any(fnmatch(module, name) for module in MODULES)}
        assert missing <= NOT_BUILT_YET

    @pytest.mark.parametrize("below", [module for module in MODULES if module.startswith("engines")])
    def test_engines_know_no_more_than_bytes(self, below):
        above = {"space", "identity", "views", "mapping", "transaction", "store", "keys"}
        assert {other for other, _ in imports(below)[0]} & above == set()

    def test_the_bottom_imports_nothing(self):
        assert imports("errors")[0] == []

    def test_outside_the_library_only_public_names_are_called(self):
        for module in MODULES:
            if module.split(".")[0] in ("cli", "adapters", "__main__"):
                outside = {other for other, _ in imports(module)[0] if other.split(".")[0] not in ("cli", "adapters")}
                assert outside <= {"", "exchange.jsonlines"}

    def test_it_would_notice(self):
        assert stratum("engines.lmdb.engine") < stratum("space") < stratum("store") < stratum("")
        own, foreign = imports("engines")
        assert ("engines.memory", True) in own
        assert ("engines.base", False) in own
        assert ("os", False) in foreign


def test_importing_objstore_loads_nothing_that_is_optional():
    code = "import objstore, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "objstore" in loaded
    assert not {*OPTIONAL, "asyncio"} & set(loaded)
