"""The servers that other tests use are there, and can be broken and mended."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from servers import SLOTS, Cluster, ServerError, chosen, find, memory_directory, needed, slot_of, views, wait_for


def test_a_cluster_is_broken_and_mended(new_cluster):
    cluster = new_cluster
    keys = [b"{tag}%d" % n for n in range(95)]
    source = cluster.primary_of(keys[0])
    for key in keys:
        source.call("SET", key, "value")
    target = next(n for n in cluster.nodes if views(n)[n.id].slots and n is not source)

    steps = cluster.moving(slot_of(keys[0]), target)
    assert [next(steps), next(steps)] == [0, 10]
    with pytest.raises(ServerError, match="ASK"):
        [source.call("GET", key) for key in keys]
    assert max(steps) == len(keys)
    assert cluster.primary_of(keys[0]) is target
    assert target.call("GET", keys[-1]) == b"value"

    (replica,) = cluster.replicas_of(target)
    target.freeze()
    with pytest.raises(TimeoutError):
        target.call("PING", timeout=0.2)
    target.kill()
    cluster.wait_settled()
    assert cluster.primary_of(keys[0]) is replica
    cluster.heal()
    assert cluster.primary_of(keys[0]).call("GET", keys[0]) == b"value"


def test_a_server_with_a_password_and_tls(new_single, certificates):
    server = new_single("--maxmemory", "4mb", program="redis", password="a secret", certificates=certificates)
    assert server.call("CONFIG", "GET", "maxmemory") == [b"maxmemory", b"4194304"]
    assert server.url("name") == f"rediss://:a%20secret@127.0.0.1:{server.port}/name?ca=" + certificates.ca.replace(
        "/", "%2F"
    )


def test_a_cluster_with_a_password_and_tls(certificates):
    with memory_directory() as path:
        program = needed("redis")
        with Cluster.start(path, program, password="a secret", certificates=certificates) as cluster:
            key = b"a key"
            cluster.primary_of(key).call("SET", key, "value")
            ends = cluster.primary_of(0), cluster.primary_of(SLOTS - 1)
            target = ends[cluster.primary_of(key) is ends[0]]
            assert cluster.move_slot(slot_of(key), target) == 1
            assert target.call("GET", key) == b"value"


PROGRAM = """
import sys, time
sys.path.insert(0, sys.argv[1])
from servers import chosen, needed, start_single
server = start_single(sys.argv[2], needed(chosen()))
print(server.process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="the processes are looked at in /proc")
def test_a_server_dies_with_the_tests(tmp_path):
    needed(chosen())
    here = str(Path(__file__).parent)
    with subprocess.Popen([sys.executable, "-c", PROGRAM, here, str(tmp_path)], stdout=subprocess.PIPE) as tests:
        server = int(tests.stdout.readline())
        assert Path(f"/proc/{server}").exists()
        tests.send_signal(signal.SIGKILL)
    wait_for(lambda: not _runs(server), 10)


def _runs(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_programs_that_are_missing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert find("redis") is None
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="redis-server"):
        needed("redis")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="redis-server"):
        needed("redis")
