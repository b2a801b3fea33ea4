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
from objstore.engines.redis.nodes import Node, Unreached
from objstore.engines.redis.verdicts import Verdicts
from objstore.errors import EngineUnavailable, OutcomeUnknown, StoreError

SLOTS = 16384

# Kinds of commands: what changes nothing, what may be done twice, and what may not.
READ, WRITE, ONCE = range(3)

_FIRST_PAUSE, _LONGEST_PAUSE, _FACTOR = 0.02, 0.5, 1.6

Call = tuple[int, Command]
"""A slot and a command for it."""


class NodeGone(Exception):
    """A server that was asked has no slots any more."""


class Failure(NamedTuple):
    """Why a command has no answer, and whether it may have been done all the same."""

    error: Exception
    was_sent: bool
    node: Node


class Router:
    """The servers of a location, by the slots that they have."""

    def __init__(self, driver: Driver, location: Location) -> None:
        self._driver = driver
        self._location = location
        self._scripts: Mapping[bytes, bytes] = {}
        self._verdicts = Verdicts(driver, location)
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
            failure = Failure(exc, not isinstance(exc, self._verdicts.refusals), node)
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
            if not self._verdicts.may_succeed(error):
                raise self._verdicts.translated(error) from error
            if time.monotonic() > ends:
                raise self._verdicts.unavailable(error) from error
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
                    if unread and isinstance(exc, self._verdicts.refusals):
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
            lacking: set[Node] = set()  # our scripts
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
                    lacking.add(node)
                elif was_sent or self._verdicts.may_succeed(error):
                    must_pause = must_refresh = True
                else:
                    raise _at(failures, self._verdicts.translated(error)) from error
            for node in lacking:
                self._load_scripts(node, failures)
            if time.monotonic() > ends:
                error = next(iter(failures.values())).error
                raise _at(failures, self._verdicts.unavailable(error, bool(unsure) and kind != READ)) from error
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
            raise _at(failures, self._verdicts.unknown(error)) from error

    def _load_scripts(self, node: Node, failures: dict[int, Failure]) -> None:
        try:
            for text in self._scripts.values():
                node.call((b"SCRIPT", b"LOAD", text))
        except self._verdicts.denials as exc:
            raise _at(failures, self._verdicts.translated(exc)) from exc
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
                if isinstance(error, self._verdicts.denials):
                    raise self._verdicts.translated(error) from error
            assert error is not None
            raise self._verdicts.unreachable(error) from error

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


def _at(failures: Mapping[int, Failure], error: StoreError) -> StoreError:
    error.places = sorted(failures)  # type: ignore[attr-defined]
    return error
