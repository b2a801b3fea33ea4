"""The public face: names, docstrings, types, what an import costs, and the version."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import objstore


def test_every_public_name_has_a_docstring():
    public = {name: value for name in dir(objstore) if inspect.isclass(value := getattr(objstore, name))}
    assert {"Store", "Snapshot", "Transaction", "Entry", "Range", "StoreError", "CopyReport"} <= set(public)
    for name, value in public.items():
        assert value.__doc__, name
        for member, function in inspect.getmembers(value, inspect.isfunction):
            said_by_contract = hasattr(objstore.Codec, member) and hasattr(value, "runs_code")
            if not member.startswith("_") and function.__module__.startswith("objstore") and not said_by_contract:
                assert function.__doc__, f"{name}.{member}"


def test_the_error_tree_is_the_one_of_the_contract():
    tree = {
        "EncodeError": "StoreError",
        "DecodeError": "StoreError",
        "CorruptRecord": "StoreError",
        "BadSignature": "StoreError",
        "StoreNotFound": "FileNotFoundError",
        "StoreCorrupt": "StoreError",
        "StoreSuspect": "StoreError",
        "StoreReplaced": "StoreError",
        "StoreLocked": "StoreError",
        "StoreFull": "StoreError",
        "StoreClosed": "ValueError",
        "ReadOnlyStore": "StoreError",
        "TransactionError": "StoreError",
        "Conflict": "StoreError",
        "EngineUnavailable": "StoreError",
        "OutcomeUnknown": "StoreError",
        "UnsupportedOperation": "NotImplementedError",
    }
    for name, base in tree.items():
        bases = {kind.__name__ for kind in getattr(objstore, name).__mro__}
        assert {"StoreError", base} <= bases, name


def test_importing_loads_no_optional_dependency_and_no_engine():
    code = "import sys, objstore; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "click", "rich", "redis", "cryptography", "msgspec", "ctypes", "lmdb"} & set(loaded)


def test_what_copies_imports_and_exports_is_loaded_when_it_is_asked_for():
    code = (
        "import sys, objstore; loaded = {*sys.modules}; print(objstore.copy.__module__, *sorted(loaded)); "
        "print(objstore.copy is objstore.copying.stores.copy, 'import_into' in dir(objstore))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    copying, *loaded = told.splitlines()[0].split()
    assert copying == "objstore.copying.stores"
    assert [name for name in loaded if name.startswith(("objstore.copying", "objstore.exchange"))] == []
    assert told.splitlines()[1] == "True True"
    with pytest.raises(AttributeError, match="nothing"):
        objstore.nothing  # noqa: B018  (it is the question that raises)
    everything = {}
    exec("from objstore import *", everything)
    assert {"Store", *objstore._LOADED_LATER} <= everything.keys()


def test_every_name_that_is_loaded_later_is_where_a_type_checker_is_told():
    told = re.findall(r"^    from (\S+) import (\w+) as \2$", Path(objstore.__file__).read_text(), re.MULTILINE)
    assert {name: module for module, name in told} == objstore._LOADED_LATER


def test_it_is_typed():
    assert (Path(objstore.__file__).parent / "py.typed").exists()


def test_every_module_opens_with_an_essay():
    for path in Path(objstore.__file__).parent.rglob("*.py"):
        assert path.read_text().startswith('"""'), path
