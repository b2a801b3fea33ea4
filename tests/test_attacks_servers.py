"""Attacks on a store on servers: what went wrong when somebody tried to make it go wrong.

Each test is one fault that was found by programs that forked, interrupted, deleted, moved and planted at bad moments,
cut down to the moment itself.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
import time

import pytest
from children import result
from click.testing import CliRunner
from servers import HOST, slot_of, views, wait_for

import objstore
from objstore import Cache, Store, StoreCorrupt, StoreDenied, StoreError, rekeying
from objstore.cli.commands import objstore as main
from objstore.engines.redis import driver, leases
from objstore.engines.redis.routing import NodeGone, Router

pytestmark = pytest.mark.filterwarnings("ignore::objstore.UnsealedWarning")


@pytest.fixture
def name(request):
    """The name of a store that nobody else has."""
    return f"attacks-{os.getpid()}-{request.node.name}".replace("[", "-").replace("]", "")[:100]


def other_primary(cluster, node):
    return next(n for n in cluster.nodes if n is not node and "master" in views(n)[n.id].flags)


# Claims


def test_a_claim_is_given_up_when_it_is_dropped_also_after_it_was_renewed(single, name, monkeypatch):
    monkeypatch.setattr(leases, "_RENEWED_EVERY", 0.02)
    with Store(single.url(name, buckets=1)) as store:
        claim = store._engine.claim(b"\x10x")
        (key,) = single.call("KEYS", f"{{{name}/0}}\x0b*")
        assert single.call("PEXPIRE", key, 3000) == 1
        wait_for(lambda: single.call("PTTL", key) > 3000, what="it is renewed")
        del claim
        wait_for(lambda: store._engine.claim(b"\x10x"), seconds=2, what="it is given up")


# What is known about records that are not there


def test_popitem_ends_where_the_server_dropped_what_the_clock_here_has_not(single, name):
    with Store(single.url(name)) as store, Store(single.url(name), clock=lambda: time.time() - 3600) as behind:
        store["a"] = 1
        store.set("b", 2, ttl=0.01)
        wait_for(lambda: store._engine.get(store._space.tree_key("b")) is None, what="the server drops it")
        assert "b" in list(behind)
        assert result(behind.popitem, seconds=5) == ("a", 1)
        assert list(behind) == []


def test_reading_waits_for_no_replica(single, name):
    with (
        Store(single.url(name)) as store,
        Store(single.url(name), durability="replicated", clock=lambda: time.time() - 3600) as behind,
    ):
        store["a"] = 1
        store.set("b", 2, ttl=0.01)
        wait_for(lambda: store._engine.get(store._space.tree_key("b")) is None, what="the server drops it")
        assert list(behind.items()) == [("a", 1)]
        assert len(behind) == 1


def test_items_with_a_tag_that_are_deleted_meanwhile(single, name):
    with Store(single.url(name)) as store:
        for n in range(20):
            store.set(n, n, tags=("tag",))
        found = []
        for key, _ in store.range(tag="tag").items():
            found.append(key)
            store.delete(key + 1)
        assert found == list(range(0, 20, 2))


def test_rekeying_does_not_take_for_damaged_what_is_deleted_meanwhile(single, name, monkeypatch):
    old, new = secrets.token_bytes(32), secrets.token_bytes(32)
    look = rekeying._Rekeying._item
    with Store(single.url(name), signing_key=old) as store:
        store.update({n: n for n in range(10)})

        def late(self, reader, tree_key, *rest):
            store.delete(5)
            return look(self, reader, tree_key, *rest)

        monkeypatch.setattr(rekeying._Rekeying, "_item", late)
        with Store(single.url(name), signing_key=[new, old]) as both:
            assert both.rekey() == (9, (), ())


def test_a_damaged_layout_is_not_said_to_be_mended_by_what_does_not_mend_it(single, name):
    Store(single.url(name)).close()
    single.call("SET", f"{{{name}}}\x00l", "rubbish")
    for flag in "crwn":
        with pytest.raises(StoreCorrupt, match="under another name"):
            Store(single.url(name), flag)


# Forks


def test_threads_of_a_forked_child_that_begin_at_once(cluster, name):
    with Store(cluster.url(name)) as store:
        store.update({n: n for n in range(50)})

        def child():
            sys.setswitchinterval(1e-6)
            wrong = []
            gate = threading.Barrier(8)

            def read():
                gate.wait()
                try:
                    wrong.extend(n for n in range(10) if store[n] != n)
                except Exception as exc:  # noqa: BLE001  (it is what is looked for)
                    wrong.append(repr(exc))

            threads = [threading.Thread(target=read) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return wrong

        for _ in range(8):
            assert result(child) == []


def test_an_iteration_that_a_forked_child_goes_on_with(single, name):
    with Cache(single.url(name), ttl=1000) as cache:
        cache.update({n: n for n in range(3000)})
        keys = iter(cache)
        first = next(keys)
        mine, theirs = os.pipe()

        def child():
            os.read(mine, 1)
            return {first, *keys}

        def parent():  # at the same time, over connections that the child has, too
            for n in range(300):
                assert cache[n] == n
                if n == 20:
                    os.write(theirs, b".")

        found: list[set[int]] = []
        thread = threading.Thread(target=lambda: found.append(result(child)))
        thread.start()
        parent()
        thread.join()
        os.close(mine)
        os.close(theirs)
        assert found == [set(range(3000))]
        assert {first, *keys} == set(range(3000))


# Signals


def test_a_signal_handler_that_needs_the_servers_while_they_are_asked_who_they_are(single, name):
    with Store(single.url(name)) as store:
        store["a"] = 1
        router = store._engine._router
        ask = router._ask
        seen = []

        def handle(*_):
            router._refresh(router._version)
            seen.append(store["a"])

        def interrupted(node):
            if not seen:
                seen.append(0)
                signal.raise_signal(signal.SIGUSR1)
            return ask(node)

        def child():
            signal.signal(signal.SIGUSR1, handle)
            router._ask = interrupted
            store["a"]  # which begins anew in a child
            return seen

        assert result(child, seconds=5) == [0, 1]


# Slots on the move


def test_a_write_that_is_done_says_so_while_what_has_expired_is_gone_to_another_server(cluster, name):
    with Store(cluster.url(name, buckets=1, timeout=10)) as store:
        some = store.namespace("some")
        for key, ttl in ("over", 0.3), ("there", 1000):
            some.set(key, 0, ttl=ttl, tags=("tag",))
        slot = slot_of(f"{{{name}/0}}".encode())
        source = cluster.primary_of(slot)
        target = other_primary(cluster, source)
        moving = cluster.moving(slot, target)
        next(moving)
        over = f"{{{name}/0}}".encode() + some._space.tree_key("over")
        assert source.call("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", over) == b"OK"
        wait_for(lambda: "over" not in some, what="it has expired")
        assert some.increment("there") == 1
        assert some.increment("there") == 2

        clearing = threading.Thread(target=store.clear)
        emptying = threading.Thread(target=some.clear)
        clearing.start()
        emptying.start()
        for _ in moving:
            pass
        clearing.join()
        emptying.join()
        assert list(store) == list(some) == []
        assert store.check().ok


# Caches on servers that drop what was not used for longest: what says what the cache is goes first


@pytest.mark.parametrize("sealed", [False, True])
def test_what_a_cache_is_may_be_evicted_while_it_is_open_and_when_it_is_opened(single, name, sealed):
    options = {"signing_key": secrets.token_bytes(32)} if sealed else {}
    url, own = single.url(name, buckets=4), [f"{{{name}}}".encode() + end for end in (b"\0l", b"\0i", b"\0d", b"\0s")]
    cache = Cache(url, ttl=1000, **options)
    cache["a"] = 1
    for evicted in ([own[1]], [own[0]], own):
        assert single.call("DEL", *evicted) == len(evicted)
        assert cache["a"] == 1
        assert cache.stats().entries == 1
        for _ in range(2):  # beside the open one, and then alone
            with Cache(url, ttl=1000, **options) as again:
                assert again["a"] == 1
                again["b"] = 2
                assert cache.closed or cache["b"] == 2
                assert again.check().problems == ()
                del again["b"]
            cache.close()
        cache = Cache(url, ttl=1000, **options)
    cache.close()


def test_keys_of_a_layout_that_was_evicted_are_not_listed(single, name):
    with Cache(single.url(name, buckets=3), ttl=1000) as cache:
        cache.update({n: n for n in range(30)})
    assert single.call("DEL", *(f"{{{name}}}".encode() + end for end in (b"\0l", b"\0i", b"\0d", b"\0s"))) == 4
    with Cache(single.url(name, buckets=100), ttl=1000) as cache:
        assert len(list(cache)) == len(cache) == len(list(cache.items())) < 30


def test_caches_on_evicting_servers_are_looked_after(new_single, name, tmp_path):
    evicting = new_single("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with Cache(evicting.url(name), ttl=1000) as cache:
        cache["a"] = 1
    assert CliRunner().invoke(main, ["get", evicting.url(name), "a"]).output == "1\n"
    assert objstore.copy(evicting.url(name), tmp_path / "copy").copied == 1
    with pytest.raises(StoreError, match="maxmemory-policy"):
        Store(evicting.url(f"{name}-store"))
    assert evicting.call("KEYS", f"*{name}-store*") == []


# What is said


def test_what_has_no_files_is_checked_all_the_same_and_its_password_never_shown(new_single, name, tmp_path):
    server = new_single(password="s3cret")
    with Store(server.url(name)) as store:
        store["a"] = 1
    assert objstore.check(server.url(name)).ok
    told = CliRunner().invoke(main, ["check", server.url(name)])
    assert told.exit_code == 0, told.output
    for words in (
        ["salvage", server.url(name), str(tmp_path / "target")],
        ["backup", server.url(name), str(tmp_path / "b")],
    ):
        told = CliRunner().invoke(main, words)
        assert told.exit_code == 1
        assert "s3cret" not in told.output
        assert "cop" in told.output


def test_who_may_not_load_scripts_is_told_so_at_once(single, name):
    with Store(single.url(name)) as store:
        store["a"] = 1
    single.call("ACL", "SETUSER", "noscript", "on", ">pw", "~*", "+@all", "-script")
    try:
        with Store(single.url(name, user="noscript", password="pw"), "w") as store:
            single.call("SCRIPT", "FLUSH")
            with pytest.raises(StoreDenied, match="script"):
                store["a"] = 2
    finally:
        single.call("ACL", "DELUSER", "noscript")


def test_servers_that_change_places_while_a_store_is_opened(cluster, name, monkeypatch):
    call = Router.call_node
    gone = []

    def call_node(self, node, command):
        if not gone:
            gone.append(node)
            raise NodeGone
        return call(self, node, command)

    monkeypatch.setattr(Router, "call_node", call_node)
    with Store(cluster.url(name)) as store:
        assert len(store) == 0
    assert gone


# Much at once


def test_a_large_value_may_take_longer_than_an_answer(single, name, monkeypatch):
    monkeypatch.setattr(driver, "ANSWER_SECONDS", 0.4)
    large = bytes(60_000_000)
    with Store(single.url(name)) as store:
        store["a"] = large
        assert store.compare_and_set("a", large, large + b".")
        assert store.get_many(["a"]) == {"a": large + b"."}
        assert store.delete("a")


def test_a_claim_that_is_dropped_in_the_middle_of_dropping_another_one(single, name):
    def child():
        with Store(single.url(name)) as store:
            claims = [store._engine.claim(b"\x10%d" % n) for n in range(2)]
            notify = threading.Condition.notify_all

            def interrupted(condition):
                if len(claims) == 1:  # as the garbage collector may, or a handler of signals
                    claims.pop()
                notify(condition)

            threading.Condition.notify_all = interrupted
            claims.pop()
        return True

    assert result(child, seconds=5)
