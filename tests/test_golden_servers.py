"""A store on servers of every layout there ever was is read for ever, and what is written today lies as it lay then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from golden import make, servers

from objstore import Store

DUMP = json.loads((Path(make.__file__).parent / "servers-1.json").read_text())
ITEMS = {name: make.NAMESPACES_1.get(name, make.FORMAT_1) for name in ("", *make.NAMESPACES_1)}


@pytest.fixture
def server(new_single):
    server = new_single()
    servers.restore(server, DUMP)
    return server


@pytest.fixture(params=["r", "w"])
def store(server, request):
    with Store(server.url(servers.NAME), request.param, clock=lambda: make.NOW) as store:
        yield store


def test_all_of_it_is_read(store):
    assert set(store.namespaces()) == set(make.NAMESPACES_1)
    for name, items in ITEMS.items():
        namespace = store.namespace(name) if name else store
        assert list(namespace) == sorted(items, key=namespace._space.tree_key)
        assert len(namespace) == len(items)
        values = {key: item.value if item.back is None else item.back for key, item in items.items()}
        assert dict(namespace.items()) == values
        for key, item in items.items():
            assert namespace[key] == values[key]
            assert namespace.entry(key).tags == item.tags
            assert namespace.ttl(key) == item.ttl
        for tag in ("red", "grün", "navy", "none"):
            assert set(namespace.range(tag=tag)) == {key for key, item in items.items() if tag in item.tags}
    assert store.check().ok


def test_it_can_be_changed_as_any_other(server):
    with Store(server.url(servers.NAME), "w", clock=lambda: make.NOW + 2 * make.TTL) as store:
        alive = sum(item.ttl is None for item in make.FORMAT_1.values())
        assert len(store) == alive
        assert store.expire() == len(make.FORMAT_1) - alive
        for name in make.NAMESPACES_1:
            store.drop_namespace(name)
        store.clear()
        layout = store._engine._layout
    left = set(server.call("KEYS", b"*"))
    assert left == {layout.prefixes[-1] + key for key in (b"\x00l", b"\x00i", b"\x00d", b"\x00s", b"\x06")}


def test_what_is_written_today_is_what_was_written_then(new_single):
    server = new_single()
    servers.write(server.url(servers.NAME, buckets=servers.BUCKETS))
    written = servers.dump(server)
    identity = servers.text(b"{golden}\x00i")
    assert written.pop(identity)[0] == "string"
    assert written == {name: content for name, content in DUMP.items() if name != identity}
