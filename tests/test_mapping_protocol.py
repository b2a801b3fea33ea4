"""CPython's own tests of the mapping protocol, on stores of both engines.

Some distributions ship Python without its test package (Debian puts it into `libpython3-testsuite`); there
`test_mapping.py` has to do.
"""

import itertools
from typing import ClassVar

import pytest

from objstore import Cache, Store

mapping_tests = pytest.importorskip("test.mapping_tests", reason="this Python comes without its test package")


class _OnEngine(mapping_tests.BasicTestMappingProtocol):
    """Makes a store wherever CPython's tests make a mapping."""

    __test__ = False
    counter = itertools.count()

    @pytest.fixture(autouse=True)
    def _opened(self, tmp_path):
        self.tmp_path = tmp_path
        self.stores = []
        yield
        for store in self.stores:
            store.close()

    def location(self):
        raise NotImplementedError

    options: ClassVar[dict[str, object]] = {}
    kind: ClassVar[type[Store]] = Store

    def type2test(self, *arguments, **keywords):
        store = self.kind(self.location(), **self.options)
        self.stores.append(store)
        store.update(*arguments, **keywords)
        return store


class TestOnMemory(_OnEngine):
    __test__ = True

    def location(self):
        return "memory://"


class TestCache(TestOnMemory):
    kind = Cache
    options: ClassVar[dict[str, object]] = {"max_entries": 1 << 20, "max_size": 1 << 30}


class TestSigned(TestOnMemory):
    options: ClassVar[dict[str, object]] = {"signing_key": bytes(range(32))}


class TestEncryptedAndCompressed(TestOnMemory):
    options: ClassVar[dict[str, object]] = {"encryption_key": bytes(range(32)), "compression": "zlib"}


class TestOnDisk(_OnEngine):
    __test__ = True

    def location(self):
        return self.tmp_path / f"{next(self.counter)}.store"
