"""Nodes: the servers, and the connections to each.

A connection is used by one call at a time, and goes back when its answer has been read.  One whose answer was not read
to its end is never used again: what comes later would be taken for the answer to something else.
"""

from __future__ import annotations

from typing import Any

from objstore.engines.redis.driver import Command, Driver, pack
from objstore.engines.redis.location import Address


class Unreached(Exception):
    """No connection could be made, for the reason in `cause`: nothing was sent."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


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
