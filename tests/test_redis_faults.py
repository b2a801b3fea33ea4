"""Servers that die, freeze, move, fill up, refuse and never answer: what a user of a store on them sees.

Each test breaks a real cluster (or a single server), most of them while clients in processes of their own work, and
mends it again.  What is promised: a failover is one slow call and no error for whatever may be done twice, and at most
OutcomeUnknown for whatever may not; with durability "replicated" nothing acknowledged is lost.  With "process" what the
replica had not got yet is; that is shown here, too.

The long form repeats the faults under load for so many seconds each:

    OBJSTORE_CLUSTER_SECONDS=600 python -m pytest tests/test_redis_faults.py -k under_load -s
"""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import socket
import threading
import time
import traceback
from functools import partial

import pytest
from children import Died, result, results
from clients import Counting, Writing, check_counting, lost, prepare_counting, working
from programs import run
from servers import HOST, Cluster, chosen, free_ports, memory_directory, needed, slot_of, views, wait_for

from objstore import Cache, EngineUnavailable, OutcomeUnknown, Store, StoreDenied, StoreError, StoreFull
from objstore.engines.redis import leases

pytestmark = pytest.mark.filterwarnings("ignore::objstore.UnsealedWarning")

SECONDS = float(os.environ.get("OBJSTORE_CLUSTER_SECONDS", "0"))
SLOW = 15  # seconds that no call may take here in a failover: the servers need some two, on a busy machine more
SECRET = "a:secret/with@signs"

_numbers = itertools.count()


@pytest.fixture(scope="module")
def module_cluster():
    with memory_directory() as path, Cluster.start(path, needed(chosen()), persistent=True) as cluster:
        yield cluster


@pytest.fixture
def broken(module_cluster):
    """A cluster to be broken: in order when a test begins."""
    module_cluster.heal()
    return module_cluster


@pytest.fixture
def name():
    """The name of a store that nobody else has."""
    return f"faults-{os.getpid()}-{next(_numbers)}"


def rounds():
    """Once, and again until the time of the long form is over."""
    end = time.monotonic() + SECONDS
    yield 0
    for number in itertools.count(1):
        if time.monotonic() > end:
            return
        yield number


def report(what, reports):
    calls, writes = sum(r.calls for r in reports), sum(r.writes for r in reports)
    unknown = sum(sum(r.unknown.values()) for r in reports)
    worst = max(r.worst for r in reports)
    print(f"{what}: {calls} calls, {writes} written, {unknown} unknown, the longest call {worst:.1f} s")


def no_errors(reports):
    assert [error for each in reports for error in each.errors] == []
    assert max(each.worst for each in reports) < SLOW


# Under load.


def test_a_primary_dies_under_load(broken, name, rng):
    fast, safe = broken.url(f"{name}-fast"), broken.url(f"{name}-safe")
    Store(safe, durability="replicated").close()
    clients = [Writing(fast), Writing(fast), Writing(safe, may_be_unknown=True), Writing(safe, may_be_unknown=True)]
    with working(clients, rng) as load:
        for _ in rounds():
            load.wait()
            broken.kill(broken.primary())
            load.wait(among=[0, 1])  # while nobody follows the new primary
            broken.heal()
            load.wait()
    report("killed", load.reports)
    no_errors(load.reports)
    with Store(fast) as store, Store(safe) as safe_store:
        gone = lost(store, load.reports[:2])
        print(f"lost: {len(gone)}")
        assert len(gone) <= max(5, sum(each.writes for each in load.reports[:2]) // 50)
        assert lost(safe_store, load.reports[2:]) == []


def freeze_amid_writes(server):
    """Freeze a server that has taken writes of several clients, and has done none of them."""
    server.call("CLIENT", "PAUSE", 20_000, "WRITE")
    wait_for(lambda: int(server.info("INFO", "clients")["blocked_clients"]) >= 3, what="clients wait for writes")
    server.freeze()


def test_a_primary_freezes_under_load(broken, name, rng):
    writing, counting = broken.url(name), broken.url(f"{name}-counting")
    # Of several answers a server may send the first before its replica has the write: only "replicated" is exact.
    with Store(counting, durability="replicated") as store:
        prepare_counting(store)
    with working([Writing(writing), *[Counting(counting)] * 3], rng) as load:
        for _ in rounds():
            load.wait()
            victim = broken.primary()
            (follower,) = broken.replicas_of(victim)
            freeze_amid_writes(victim)
            wait_for(lambda follower=follower: "master" in views(follower)[follower.id].flags)
            load.wait(1)
            # Killed, not thawed: what clients asked of it meanwhile it would do, and say so, until it hears the news.
            broken.kill(victim)
            broken.heal()
            load.wait()
    report("frozen", load.reports)
    no_errors(load.reports)
    assert any(each.unknown for each in load.reports)
    with Store(writing) as store, Store(counting) as counters:
        assert len(lost(store, load.reports[:1])) <= 5
        check_counting(counters, load.reports[1:])


def test_a_server_is_silent_for_a_while_under_load(new_single, name, rng):
    """What it was asked meanwhile it does later, when those who asked have given up, or have asked again."""
    server = new_single()
    with Store(server.url(f"{name}-counting")) as store:
        prepare_counting(store)
        with working(
            [*[Writing(server.url(name))] * 2, *[Counting(server.url(f"{name}-counting"), 0.0)] * 4], rng
        ) as load:
            for _ in rounds():
                load.wait()
                freeze_amid_writes(server)
                time.sleep(2.3)  # longer than anybody waits for an answer
                server.thaw()
                server.call("CLIENT", "UNPAUSE")
                load.wait()
        report("silent", load.reports)
        no_errors(load.reports)
        assert any(each.unknown for each in load.reports)
        check_counting(store, load.reports[2:])
    with Store(server.url(name)) as store:
        assert lost(store, load.reports[:2]) == []


def test_all_servers_die_and_come_back_under_load(broken, name, rng):
    location = broken.url(name)
    with Store(location) as before:
        before["before"] = 1
        taken_over = 0
        with working([Writing(location)] * 2, rng) as load:
            for _ in rounds():
                load.wait()
                serving = who_serves(broken)
                broken.kill_all()
                broken.restart_all()
                load.wait()
                taken_over += who_serves(broken) != serving
        report("all killed", load.reports)
        print(f"a replica took over {taken_over} times")
        no_errors(load.reports)
        assert before.pop("before") == 1
        # A replica that is back before its primary may take over, without what it was sent and had not read.
        assert len(lost(before, load.reports)) <= taken_over * 5


def who_serves(cluster):
    return {node.port for node in cluster.nodes if views(node)[node.id].slots}


def test_slots_move_under_load(broken, name, rng):
    location = broken.url(name, buckets=6)
    still = {(99, n): n for n in range(60)}
    first = {node: errors_said(node) for node in broken.nodes}
    with (
        Store(location) as store,
        Store(f"{location}&timeout=3") as reader,
        working([Writing(location)] * 3, rng) as load,
    ):
        store.update(still)
        for _ in rounds():
            load.wait(40)
            moved = []
            for slot in {slot_of(key) for node in broken.nodes for key in keys_on(node, name)}:
                source = broken.primary_of(slot)
                target = rng.choice([n for n in broken.nodes if views(n)[n.id].slots and n is not source])
                for step in broken.moving(slot, target, batch=3):
                    moved.append(step)
                    # While a part is here and a part there.
                    assert reader.get_many(still) == still
            assert max(moved) > 3
            load.wait()
    report("moved", load.reports)
    no_errors(load.reports)
    said = {
        kind: sum(errors_said(node)[kind] - first[node][kind] for node in broken.nodes) for kind in ("MOVED", "ASK")
    }
    print(said)
    assert min(said.values()) > 0, "the load did not meet the moves"
    with Store(location) as store:
        assert store.get_many(still) == still
        assert store.delete_many(still) == len(still)
        assert lost(store, load.reports) == []


def keys_on(node, name):
    cursor, found = b"0", []
    while True:
        cursor, keys = node.call("SCAN", cursor, "MATCH", f"{{{name}/*", "COUNT", 1000)
        found += keys
        if cursor == b"0":
            return found


def errors_said(node):
    said = node.info("INFO", "errorstats")
    return {kind: int(said.get(f"errorstat_{kind}", "count=0").removeprefix("count=")) for kind in ("MOVED", "ASK")}


# What asynchronous replication loses.


def test_what_a_replica_has_not_got_is_lost_or_was_never_acknowledged(broken, name):
    """The replica is frozen, its primary killed, and the replica takes over."""
    fast_location, safe_location = broken.url(f"{name}-fast"), broken.url(f"{name}-safe", timeout=1)
    old, new = b"old", b"new" * 300_000  # in all more than what lies between two sockets
    keys = [f"key-{n:04}-" for n in range(60)]
    with Store(fast_location) as fast, Store(safe_location, durability="replicated") as safe:
        fast.update(dict.fromkeys(keys, old))
        safe.update(dict.fromkeys(keys, old))
        victim = broken.primary()
        (replica,) = broken.replicas_of(victim)

        def here(store_name):
            there = b" ".join(keys_on(victim, store_name))
            return [key for key in keys if key.encode() in there]

        fast_keys, safe_keys = here(f"{name}-fast")[:30], here(f"{name}-safe")[:1]
        assert len(fast_keys) >= 5
        assert safe_keys
        broken.freeze(replica)
        for n in range(30):
            fast[fast_keys[n % len(fast_keys)]] = new + b"%d" % n
        for key in safe_keys:
            with pytest.raises(OutcomeUnknown, match="replica"):
                safe[key] = new
        broken.kill(victim)
        broken.thaw(replica)
        broken.wait_settled()
        last = {fast_keys[n % len(fast_keys)]: new + b"%d" % n for n in range(30)}
        gone = [key for key, value in last.items() if fast[key] != value]
        print(f"lost with durability process: {len(gone)} of {len(last)}")
        assert gone
        assert all(safe[key] == old for key in keys if key not in safe_keys)
        assert all(safe[key] in (old, new) for key in safe_keys)
        broken.heal()
        safe[safe_keys[0]] = new
        assert safe[safe_keys[0]] == new
        fast.clear()


# Full servers.


def test_a_full_server_is_still_read(new_single, name):
    server = new_single("--maxmemory", "6mb", "--maxmemory-policy", "noeviction")
    with Store(server.url(name)) as store:
        written = 0
        with pytest.raises(StoreFull, match="memory"):
            for written in range(1000):
                store[written] = os.urandom(50_000)
        assert 10 < written < 1000
        assert len(store) == written
        assert len(store[0]) == 50_000
        assert [len(value) for value in store.values()] == [50_000] * written
        with pytest.raises(StoreFull):
            store.update({n: os.urandom(50_000) for n in range(2000, 2010)})
        with pytest.raises(StoreFull):
            store.add("new", os.urandom(50_000))
        del store[0]
        store.clear()
        store[0] = "again"
        assert dict(store.items()) == {0: "again"}


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru"])
def test_a_server_that_evicts_is_for_caches(new_single, name, policy):
    server = new_single("--maxmemory", "6mb", "--maxmemory-policy", policy)
    if policy == "allkeys-lru":
        with pytest.raises(StoreError, match="maxmemory-policy"):
            Store(server.url(name))
        assert server.call("DBSIZE") == 0
    with Cache(server.url(f"{name}-cache"), ttl=60) as cache:
        for n in range(300):
            cache[n] = os.urandom(50_000)
        assert len(cache[299]) == 50_000
        assert len(cache) < 150
        assert 0 < len(cache.get_many(range(300))) < 150


# Passwords, TLS.


def said_of(error):
    """All that an error tells, with those it came from."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.__cause__) + repr(error.__context__)


def test_passwords_and_certificates(new_single, certificates, name, tmp_path, monkeypatch):
    server = new_single(program="redis", password=SECRET, certificates=certificates)
    location = server.url(name, timeout=2)
    with Store(location) as store:
        store["key"] = "value"
        assert store["key"] == "value"
        for text in repr(store), str(store), repr(vars(store)), repr(pickle.dumps(store)):
            assert SECRET not in text
            assert "a%3Asecret" not in text
        monkeypatch.setenv("OBJSTORE_REDIS_PASSWORD", SECRET)
        with pickle.loads(pickle.dumps(store)) as again:
            assert again["key"] == "value"
        monkeypatch.delenv("OBJSTORE_REDIS_PASSWORD")

    monkeypatch.setenv("A_VARIABLE", SECRET)
    with Store(server.url(name, password="$A_VARIABLE")) as store:
        assert store["key"] == "value"
        with pickle.loads(pickle.dumps(store)) as again:
            assert again["key"] == "value"

    wrong = server.url(name, password=f"{SECRET} wrong", timeout=2)
    nobody = server.url(name, password="", timeout=2)
    no_ca = location.partition("?")[0] + "?timeout=2"
    other_ca = server.url(name, timeout=2, ca=make_other_ca(tmp_path))
    plain = location.replace("rediss", "redis", 1).partition("?")[0] + "?timeout=2"
    for place, kinds, cause in (
        (wrong, StoreDenied, "password|WRONGPASS"),
        (nobody, StoreDenied, "password|NOAUTH"),
        (no_ca, EngineUnavailable, "certificate"),
        (other_ca, EngineUnavailable, "certificate"),
        (plain, EngineUnavailable, "TLS|rediss"),
    ):
        with pytest.raises(kinds, match=cause) as caught:
            Store(place)
        told = said_of(caught.value)
        assert SECRET not in told
        assert "a%3Asecret" not in told
        assert server.address in str(caught.value)

    to_plain = new_single(program="redis")
    with pytest.raises(EngineUnavailable, match=r"TLS|redis://"):
        Store(f"rediss://{to_plain.address}/{name}?timeout=0.5")


def make_other_ca(path):
    from servers import make_certificates

    (path / "other").mkdir()
    return make_certificates(path / "other").ca


def test_a_user_without_rights(new_single, name):
    server = new_single(
        "--user", "reader", "on", f">{SECRET}", "~*", "+@read", "+@connection", "+@scripting", "+cluster|slots", "+info"
    )
    with Store(server.url(name)) as store:
        store["key"] = "value"
    location = server.url(name, user="reader", password=SECRET, timeout=2)
    with Store(location, "r") as store:
        assert store["key"] == "value"
    with pytest.raises(StoreDenied) as caught, Store(location) as store:
        store["key"] = "other"
    assert SECRET not in said_of(caught.value)
    assert "NOPERM" in str(caught.value) or "reader" in str(caught.value)


def test_a_cluster_with_a_password_and_tls(certificates, name, rng):
    with memory_directory() as path:
        program = needed("redis")
        with Cluster.start(path, program, password=SECRET, certificates=certificates) as cluster:
            with working([Writing(cluster.url(name))] * 2, rng) as load:
                load.wait()
                if SECONDS:  # some four seconds
                    cluster.kill(cluster.primary())
                    load.wait()
            no_errors(load.reports)
            with Store(cluster.url(name)) as store:
                assert len(lost(store, load.reports)) <= 5


# Nobody answers.


def test_nobody_listens(name):
    (port,) = free_ports(1)
    started = time.monotonic()
    with pytest.raises(EngineUnavailable, match=f"{HOST}:{port}"):
        Store(f"redis://{HOST}:{port}/{name}?timeout=0.5")
    assert time.monotonic() - started < 5
    with pytest.raises(EngineUnavailable, match=r"no-such-host\.invalid"):
        Store(f"redis://no-such-host.invalid:{port}/{name}?timeout=0.5")


def test_a_server_that_never_answers(name):
    with socket.create_server((HOST, 0)) as silent:
        port = silent.getsockname()[1]
        started = time.monotonic()
        with pytest.raises(EngineUnavailable, match=f"{HOST}:{port}"):
            Store(f"redis://{HOST}:{port}/{name}?timeout=0.5")
        assert time.monotonic() - started < 3


def test_a_server_that_falls_silent(new_single, name):
    server = new_single()
    with Store(server.url(name, timeout=0.3)) as store:
        store["key"] = 0
        server.freeze()
        with pytest.raises(OutcomeUnknown, match=server.address):  # it went over a connection that was there
            store["key"] = 1
        for call in (
            lambda: store["key"],
            lambda: store.get_many(["key", "new"]),
            lambda: store.set("key", 2),
            lambda: store.increment("key"),
            lambda: store.add("new", 1),
        ):
            started = time.monotonic()
            with pytest.raises((EngineUnavailable, OutcomeUnknown), match=server.address):
                call()
            assert time.monotonic() - started < 3
        server.thaw()
        wait_for(lambda: server.call("PING"))
        assert store["key"] in (0, 1, 2)
        store["key"] = 3
        assert store["key"] == 3


# Processes and threads.


def test_a_fork_uses_the_handle_of_its_parent(broken, name):
    with Store(broken.url(name)) as store:
        store["parent"] = 0

        def child(send):
            send("began")
            for n in range(200):
                store["child"] = n
                assert store["child"] == n
                assert store["parent"] in (0, 1, 2)
            send(result(lambda: store["child"]))  # its own child
            with store:
                send("closing")

        beside = results(child)
        began = next(beside)
        for n in range(100):
            store["parent"] = n % 3
            assert store["parent"] == n % 3
        assert [began, *beside] == ["began", 199, "closing"]
        store["parent"] = 2  # the child has closed its own
        assert store["child"] == 199


def test_threads_share_a_handle(broken, name):
    with Store(broken.url(name)) as store:
        failed = []

        def work(number):
            try:
                for n in range(60):
                    key = (number, n % 7)
                    store[key] = n
                    assert store[key] == n
                    store.increment("all")
                    assert store.get_many([key, "all"]).keys() == {key, "all"}
            except BaseException as error:
                failed.append(error)
                raise

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failed
        assert store["all"] == 8 * 60
        assert len(store) == 8 * 7 + 1


TRAVELLER = """
import pathlib, pickle, sys, warnings
warnings.simplefilter("ignore")
with pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()) as store:
    store["there"] = store.pop("here")
"""


def test_a_handle_travels(broken, name, tmp_path):
    with Store(broken.url(name)) as store:
        store["here"] = {"a": 1}
        (tmp_path / "handle").write_bytes(pickle.dumps(store))
        run(TRAVELLER, tmp_path / "handle", seconds=60, anew=True)
        assert dict(store.items()) == {"there": {"a": 1}}


# Computed once.


def test_one_who_computes_is_lost(broken, name, monkeypatch):
    """One is killed, another one frozen; those who wait for them go on after the lease, and the frozen one later."""
    if not SECONDS:  # so as not to wait for six seconds
        monkeypatch.setattr(leases, "LEASE", 1.2)
        monkeypatch.setattr(leases, "_RENEWED_EVERY", 0.3)
    location = broken.url(name)

    def compute(send, number, seconds):
        with Store(location) as store:

            @store.memoize(name="slow")
            def slow(number):
                send(os.getpid())
                time.sleep(seconds)
                return number * 2

            send(slow(number))

    faults = {1: signal.SIGKILL, 2: signal.SIGSTOP}
    first = {number: results(partial(compute, number=number, seconds=2 * leases.LEASE)) for number in faults}
    processes = {number: next(running) for number, running in first.items()}
    second = {number: results(partial(compute, number=number, seconds=0)) for number in faults}
    healthy = results(partial(compute, number=3, seconds=2 * leases.LEASE))
    assert next(healthy)
    waits = results(partial(compute, number=3, seconds=0))
    for number, process in processes.items():
        os.kill(process, faults[number])
    started = time.monotonic()
    for number, running in second.items():
        said = next(running)
        assert said != processes[number], f"{number} was not computed by another"
        waited = time.monotonic() - started
        print(f"{faults[number].name}: the next one began after {waited:.1f} s")
        assert waited < leases.LEASE + SLOW
        assert list(running) == [number * 2]
    assert next(waits) == 6  # of a computation that took longer than a lease, and was not begun twice
    assert list(healthy) == [6]
    with pytest.raises(Died, match="SIGKILL"):
        next(first[1])
    os.kill(processes[2], signal.SIGCONT)
    assert list(first[2]) == [4]
    with Store(location) as store:

        @store.memoize(name="slow")
        def slow(number):
            raise AssertionError("it is there")

        assert [slow(number) for number in (1, 2, 3)] == [2, 4, 6]
