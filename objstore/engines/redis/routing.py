"""Routing: which server a command goes to, and what is done where that fails.

The keys of a cluster lie in 16,384 slots, and each slot has one primary, which may change: slots are moved, and a
primary that dies is replaced by one of its replicas within some seconds.  A single server is a cluster that has all.

Whatever fails is tried again until the time for the whole operation is over, so that a failover is one slow call and no
error.  What a failure means for that:

* The server answered that it did not do it (moved, loading, a read-only replica, the cluster is down), or nothing
  was sent: it is tried again, in the right place, after a pause.
* It was sent, and no answer came: whether it was done is unknown.  What may be done twice (`READ`, `WRITE`) is tried
  again; what may not (`ONCE`) raises OutcomeUnknown.

Any number of commands make one round: all that go to one server are sent at once, to all servers, and then the answers
are read.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from objstore.engines.base import process
from objstore.engines.redis.driver import ANSWER_SECONDS, Command, Driver, pack
from objstore.engines.redis.location import Address, Location
from objstore.errors import EngineUnavailable, OutcomeUnknown, StoreDenied, StoreError, StoreFull

SLOTS = 16384

# Kinds of commands: what changes nothing, what may be done twice, and what may not.
READ, WRITE, ONCE = range(3)

_FIRST_PAUSE, _LONGEST_PAUSE, _FACTOR = 0.02, 0.5, 1.6

# Answers that say that it was not done and may be tried again; the rest of these have classes of their own.
_NOT_NOW = ("NOREPLICAS", "UNKILLABLE", "BUSY")

# What is said of a command inside of a script whose key has gone on to where its slot is moved.
_ELSEWHERE = "access a non local key in a cluster node"

# What is said of a command inside of a script that its user may not give: by Valkey, and by Redis.
_DENIED_INSIDE = "ACL failure in script", "The user executing the script can't run this command"

# With what a connection fails where one side speaks TLS and the other does not.
_NO_TLS = "WRONG_VERSION_NUMBER", "record layer failure", "EOF occurred", "handshake operation timed out"
_CLOSED = "Connection reset", "closed by server"

Call = tuple[int, Command]
"""A slot and a command for it."""


class Unreached(Exception):
    """No connection could be made, for the reason in `cause`: nothing was sent."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


class NodeGone(Exception):
    """A server that was asked has no slots any more."""


class Failure(NamedTuple):
    """Why a command has no answer, and whether it may have been done all the same."""

    error: Exception
    was_sent: bool
    node: Node


class Node:
    """A server, and the connections to it that nobody uses just now."""

    def __init__(self, driver: Driver, address: Address) -> None:
        self.address = address
        self._driver = driver
        self._refusal = driver.errors.ResponseError
        self._idle: list[Any] = []

    def __repr__(self) -> str:
        return "{}:{}".format(*self.address)

    def take(self, fresh: bool) -> Any:
        """A connection: one of the idle ones, which its server may have closed meanwhile, unless it must be `fresh`.

        Raises Unreached.
        """
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if not fresh or self._is_open(connection):
                return connection
            connection.disconnect()
        try:
            return self._driver.connect(self.address)
        except self._driver.failures as exc:
            raise Unreached(exc) from exc

    def _is_open(self, connection: Any) -> bool:
        """Whether the server has neither closed an idle connection nor said anything on it."""
        try:
            return not connection.can_read(timeout=0)
        except self._driver.failures:
            return False

    def give_back(self, connection: Any) -> None:
        self._idle.append(connection)

    def call(self, command: Command, fresh: bool = False) -> Any:
        """Send one command and read its answer."""
        connection = self.take(fresh)
        try:
            packed = pack(command)
            connection.send_packed_command(packed, check_health=False)
            if len(packed) > 1:
                self._driver.await_answer(connection, sum(map(len, packed)))
            answer = connection.read_response()
        except self._refusal:
            self._idle.append(connection)
            raise
        except BaseException:  # an answer that comes later would be taken for the next one
            connection.disconnect()
            raise
        self._idle.append(connection)
        return answer

    def close(self) -> None:
        while self._idle:
            self._idle.pop().disconnect()


class Router:
    """The servers of a location, by the slots that they have."""

    def __init__(self, driver: Driver, location: Location) -> None:
        self._driver = driver
        self._location = location
        self._scripts: Mapping[bytes, bytes] = {}
        errors = driver.errors
        self._refusals = (errors.ResponseError, errors.BusyLoadingError)
        """Answers that say that a command was not done."""
        self._denials = (errors.AuthenticationError, errors.AuthorizationError, errors.NoPermissionError)
        self.replicas = 0
        """How many replicas must acknowledge a write before it counts as done."""
        self._forget()
        self._refresh(self._version)

    def _forget(self) -> None:
        """Know no server but those of the location, and no connection: as at the beginning, and in a forked child."""
        self._lock = threading.RLock()  # a signal's handler may need the servers in the middle of asking them
        self._version = 0
        self._all = {address: Node(self._driver, address) for address in self._location.addresses}
        self._nodes = [next(iter(self._all.values()))] * SLOTS
        self._born = process.generation  # at last: other threads of the child go by it

    def _node(self, address: Address) -> Node:
        return self._all.setdefault(address, Node(self._driver, address))

    def knows(self, scripts: Mapping[bytes, bytes]) -> None:
        """The texts of the scripts that are called, by their digests."""
        self._scripts = scripts

    def close(self) -> None:
        """Close all connections that nobody uses."""
        if self._born == process.generation:
            for node in list(self._all.values()):
                node.close()

    # Calls

    def call(self, slot: int, command: Command, kind: int = READ, again: Any = None) -> Any:
        """The answer to a command.

        `again` is the answer where it was done twice, if that is another than the second one.

        Raises EngineUnavailable where there is no answer in time, OutcomeUnknown where that may have been a write,
        StoreFull, StoreDenied, StoreError.
        """
        if self._born != process.generation:
            self._renew()
        if kind != READ and self.replicas:
            return self.call_many([(slot, command)], kind, again)[0]
        began = time.monotonic()
        node = self._nodes[slot]
        try:
            return node.call(command, kind == ONCE)
        except Unreached as exc:
            failure = Failure(exc.cause, False, node)
        except self._driver.failures as exc:
            failure = Failure(exc, not isinstance(exc, self._refusals), node)
        return self._persist([(slot, command)], [None], {0: failure}, kind, again, began)[0]

    def call_many(self, calls: Sequence[Call], kind: int = READ, again: Any = None) -> list[Any]:
        """The answers to many commands, each on its own; those that fail are tried again.

        Raises what `call` raises, when the others are done; the error then has the places of those that failed in
        `places`.
        """
        if self._born != process.generation:
            self._renew()
        began = time.monotonic()
        answers: list[Any] = [None] * len(calls)
        failures = self._round(calls, range(len(calls)), answers, kind, {})
        return self._persist(calls, answers, failures, kind, again, began) if failures else answers

    def primaries(self) -> list[Node]:
        """The servers that have slots."""
        if self._born != process.generation:
            self._renew()
        return list(dict.fromkeys(self._nodes))

    def call_node(self, node: Node, command: Command) -> Any:
        """The answer of one server.  Raises NodeGone where it has no slots any more, and what `call` raises."""
        if self._born != process.generation:
            self._renew()
            raise NodeGone  # it has the connections of the parent
        ends = time.monotonic() + self._location.timeout
        pauses = _pauses()
        while True:
            try:
                return node.call(command)
            except Unreached as exc:
                error = exc.cause
            except self._driver.failures as exc:
                error = exc
            if not self._may_succeed(error):
                raise self._translated(error) from error
            if time.monotonic() > ends:
                raise self._unavailable(error) from error
            time.sleep(next(pauses))
            with suppress(EngineUnavailable):  # then it is tried where it was
                self._refresh(self._version, {node})
            if node not in self._nodes:
                raise NodeGone

    def _round(
        self,
        calls: Sequence[Call],
        places: Iterable[int],
        answers: list[Any],
        kind: int,
        asked: Mapping[int, Node],
    ) -> dict[int, Failure]:
        """Send the commands at these places, and note their answers; why the others have none.

        `asked` are servers that shall be asked in the place of those that have the slots, this once.
        """
        groups: dict[Node, list[int]] = {}
        for place in places:
            groups.setdefault(asked.get(place) or self._nodes[calls[place][0]], []).append(place)
        failures: dict[int, Failure] = {}
        waits = kind != READ and self.replicas
        under_way: list[tuple[Node, Any, list[int], int]] = []
        refusal = self._driver.errors.ResponseError
        try:
            for node, members in groups.items():
                try:
                    connection = node.take(kind == ONCE)
                except Unreached as exc:
                    failures.update(dict.fromkeys(members, Failure(exc.cause, False, node)))
                    continue
                packed = list(_joined(self._packed(calls, members, asked, waits)))
                under_way.append((node, connection, members, sum(map(len, packed))))
                try:
                    connection.send_packed_command(packed, check_health=False)
                except self._driver.failures as exc:
                    under_way.pop()
                    connection.disconnect()
                    failures.update(dict.fromkeys(members, Failure(exc, True, node)))
            while under_way:
                node, connection, members, size = under_way[-1]
                unread = list(reversed(members))
                try:
                    self._driver.await_answer(connection, size)
                    while unread:
                        if unread[-1] in asked:
                            connection.read_response()
                        try:
                            answers[unread[-1]] = connection.read_response()
                        except refusal as exc:
                            failures[unread[-1]] = Failure(exc, False, node)
                        unread.pop()
                    if waits:
                        self._count_replicas(connection.read_response(), members, failures, node)
                except self._driver.failures as exc:
                    connection.disconnect()
                    failures.update(dict.fromkeys(unread or members, Failure(exc, True, node)))
                    if unread and isinstance(exc, self._refusals):
                        failures[unread[-1]] = Failure(exc, False, node)
                else:
                    node.give_back(connection)
                under_way.pop()
        finally:
            for _, connection, _, _ in under_way:  # what comes later would be taken for other answers
                connection.disconnect()
        return failures

    def _packed(
        self, calls: Sequence[Call], members: Sequence[int], asked: Mapping[int, Node], waits: int
    ) -> Iterable[bytes | memoryview]:
        for place in members:
            if place in asked:
                yield from pack((b"ASKING",))
            yield from pack(calls[place][1])
        if waits:
            yield from pack((b"WAIT", b"%d" % waits, b"%d" % (min(ANSWER_SECONDS, self._location.timeout) * 750)))

    def _count_replicas(self, count: int, members: Iterable[int], failures: dict[int, Failure], node: Node) -> None:
        if count < self.replicas:
            error = OutcomeUnknown(
                f"{node} has the write, and {count} of the {self.replicas} replicas that durability 'replicated' asks "
                f"for have acknowledged it in time: it is lost if {node} is lost before they do; look at the replicas, "
                f"and write it again"
            )
            failures.update({place: Failure(error, True, node) for place in members if place not in failures})

    # Failures

    def _persist(
        self,
        calls: Sequence[Call],
        answers: list[Any],
        failures: dict[int, Failure],
        kind: int,
        again: Any,
        began: float,
    ) -> list[Any]:
        """Try again what failed, until it is done or the time is over."""
        ends = began + self._location.timeout
        pauses = _pauses()
        unsure: set[int] = set()  # what may have been done
        moves = 0
        while failures:
            asked: dict[int, Node] = {}
            version = self._version
            must_pause = must_refresh = False
            for place, (error, was_sent, node) in failures.items():
                if was_sent:
                    node.close()  # what else is idle was most likely closed there, too
                    unsure.add(place)
                    self._refuse_unknown(error, kind, failures)
                name = type(error).__name__
                if name == "MovedError":
                    self._nodes[calls[place][0]] = self._node(_redirected(error, node))
                    must_refresh = True
                elif name == "AskError":
                    asked[place] = self._node(_redirected(error, node))
                elif name == "NoScriptError":
                    try:
                        self._load_scripts(node)
                    except self._denials as exc:
                        raise _at(failures, self._translated(exc)) from exc
                elif was_sent or self._may_succeed(error):
                    must_pause = must_refresh = True
                else:
                    raise _at(failures, self._translated(error)) from error
            if time.monotonic() > ends:
                error = next(iter(failures.values())).error
                raise _at(failures, self._unavailable(error, unsure and kind != READ)) from error
            moves += 1
            if must_pause or moves > 3:
                time.sleep(next(pauses))
            if must_refresh:
                with suppress(EngineUnavailable):  # then it is tried where it was
                    self._refresh(version, {failure.node for failure in failures.values()})
            tried = set(failures)
            failures = self._round(calls, sorted(tried), answers, kind, asked)
            if again is not None:
                for place in tried & unsure - failures.keys():
                    answers[place] = again
        return answers

    def _refuse_unknown(self, error: Exception, kind: int, failures: dict[int, Failure]) -> None:
        """Raise for what may have been done, where that must not be done twice."""
        if isinstance(error, OutcomeUnknown):
            raise _at(failures, error)
        if kind == ONCE:
            unknown = OutcomeUnknown(
                f"a write to {self._location.text!r} was sent, and its answer did not come ({_said(error)}): it may "
                f"have been done, or not, and is not repeated by itself; look at what is stored"
            )
            raise _at(failures, unknown) from error

    def _may_succeed(self, error: Exception) -> bool:
        """Whether what was not done may be done a little later."""
        errors = self._driver.errors
        if isinstance(error, self._denials):
            return False
        if isinstance(error, (errors.ConnectionError, errors.TimeoutError, OSError)):
            return not _is_certificate(error)
        later = (errors.TryAgainError, errors.ClusterDownError, errors.MasterDownError, errors.ReadOnlyError)
        return isinstance(error, later) or str(error).startswith(_NOT_NOW) or _ELSEWHERE in str(error)

    def _translated(self, error: Exception) -> StoreError:
        errors, where = self._driver.errors, self._location.text
        if isinstance(error, errors.OutOfMemoryError):
            return StoreFull(
                f"the servers of {where!r} have no memory left ({_said(error)}); nothing was stored: delete something, "
                f"or give them more with maxmemory"
            )
        if isinstance(error, self._denials) or str(error).startswith(_DENIED_INSIDE):
            return StoreDenied(
                f"{where!r} does not let this user in, or not do this ({_said(error)}); give the right user and "
                f"password, or let an administrator change its rights (ACL SETUSER)"
            )
        if isinstance(error, errors.ResponseError):
            return StoreError(f"a server of {where!r} refuses a command: {_said(error)}")
        return self._unavailable(error)

    def _unavailable(self, error: Exception, is_unsure: object = False) -> StoreError:
        where = self._location.text
        if is_unsure:
            return OutcomeUnknown(
                f"a write to {where!r} was sent, and nobody answered within {self._location.timeout:g} s "
                f"({_said(error)}): it may have been done, or not; do it again when the servers are there"
            )
        return EngineUnavailable(
            f"no server of {where!r} answers within {self._location.timeout:g} s ({_said(error)}); start them, or "
            f"mend the location"
        )

    def _load_scripts(self, node: Node) -> None:
        try:
            for text in self._scripts.values():
                node.call((b"SCRIPT", b"LOAD", text))
        except self._denials:
            raise
        except Unreached:  # then it is tried again
            return
        except self._driver.failures:
            return

    # Who has which slots

    def _renew(self) -> None:
        """Begin anew in a forked child, which has none of the connections."""
        self._forget()
        self._refresh(self._version)

    def _refresh(self, seen: int, suspects: Iterable[Node] = ()) -> None:
        """Ask who has which slots, unless somebody has done that since `seen`; the suspects last.

        Raises EngineUnavailable where nobody can tell, StoreDenied.
        """
        with self._lock:
            if self._version != seen:
                return
            last = set(suspects)
            error: Exception | None = None
            for node in sorted(self._all.values(), key=last.__contains__):
                try:
                    self._nodes = self._ask(node)
                except Unreached as exc:
                    error = exc.cause
                except self._driver.failures as exc:
                    error = exc
                else:
                    self._version += 1
                    return
                if isinstance(error, self._denials):
                    raise self._translated(error) from error
            assert error is not None
            raise EngineUnavailable(
                f"no server of {self._location.text!r} can be reached ({_said(error)}); start them, or mend the "
                f"location{self._hint(error)}"
            ) from error

    def _hint(self, error: Exception) -> str:
        """What may be behind a connection that ends at once."""
        said = _said(error)
        if self._location.tls and any(text in said for text in _NO_TLS):
            return f": one that speaks without TLS is {self._location.scheme[:-1]}://"
        if not self._location.tls and any(text in said for text in _CLOSED):
            return f": one that speaks TLS alone is {self._location.scheme}s://"
        return ""

    def _ask(self, node: Node) -> list[Node]:
        """The servers of all slots, as this one knows them; of what it knows nothing it is what it was."""
        try:
            ranges = node.call((b"CLUSTER", b"SLOTS"))
        except self._driver.errors.ResponseError as exc:
            if "cluster support disabled" not in str(exc):
                raise
            return [node] * SLOTS
        nodes = list(self._nodes)
        for start, stop, primary, *_ in ranges:
            host = (primary[0] or b"").decode() or node.address[0]
            nodes[start : stop + 1] = [self._node((host, primary[1]))] * (stop + 1 - start)
        return nodes


def _joined(parts: Iterable[bytes | memoryview]) -> Iterable[bytes | memoryview]:
    """The same bytes in fewer parts, without copies of large ones."""
    small: list[bytes | memoryview] = []
    size = 0
    for part in parts:
        if len(part) > 1 << 16:
            yield b"".join(small)
            yield part
            small, size = [], 0
            continue
        small.append(part)
        size += len(part)
        if size > 1 << 18:
            yield b"".join(small)
            small, size = [], 0
    if small:
        yield b"".join(small)


def _pauses() -> Iterator[float]:
    """Seconds between two trials: longer and longer, and not the same for everybody."""
    pause = _FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.5, 1.5)  # noqa: S311  (no secret)
        pause = min(pause * _FACTOR, _LONGEST_PAUSE)


def _redirected(error: Any, node: Node) -> Address:
    """Where an answer sends one; no host is that of the server that said so."""
    return error.host or node.address[0], error.port


def _is_certificate(error: Exception) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def _said(error: Exception) -> str:
    """What went wrong, and why."""
    cause = error.__cause__ or error.__context__
    text = str(error) or type(error).__name__
    return text if cause is None or str(cause) in text else f"{text}: {cause}"


def _at(failures: Mapping[int, Failure], error: StoreError) -> StoreError:
    error.places = sorted(failures)  # type: ignore[attr-defined]
    return error
