"""Verdicts: what an error on the way to a server and back means.

Whether a command may be tried again, and which error of ours says why it was given up.  The true cause stands in the
text, because the packages hide it in theirs ("cluster cannot be connected").
"""

from __future__ import annotations

from objstore.engines.redis.driver import Driver
from objstore.engines.redis.location import Location
from objstore.errors import EngineUnavailable, OutcomeUnknown, StoreDenied, StoreError, StoreFull

# Answers that say that it was not done and may be tried again; the rest of these have classes of their own.
_NOT_NOW = ("NOREPLICAS", "UNKILLABLE", "BUSY")

# What is said of a command inside of a script whose key has gone on to where its slot is moved.
_ELSEWHERE = "access a non local key in a cluster node"

# What is said of a command inside of a script that its user may not give: by Valkey, and by Redis.
_DENIED_INSIDE = "ACL failure in script", "The user executing the script can't run this command"

# With what a connection fails where one side speaks TLS and the other does not.
_NO_TLS = "WRONG_VERSION_NUMBER", "record layer failure", "EOF occurred", "handshake operation timed out"
_CLOSED = "Connection reset", "closed by server"


class Verdicts:
    """What errors mean, for the servers of a location."""

    def __init__(self, driver: Driver, location: Location) -> None:
        errors = self._errors = driver.errors
        self._location = location
        self.refusals = (errors.ResponseError, errors.BusyLoadingError)
        """Answers that say that a command was not done."""
        self.denials = (errors.AuthenticationError, errors.AuthorizationError, errors.NoPermissionError)
        """Answers that say that one may not do this."""

    def may_succeed(self, error: Exception) -> bool:
        """Whether what was not done may be done a little later."""
        errors = self._errors
        if isinstance(error, self.denials):
            return False
        if isinstance(error, (errors.ConnectionError, errors.TimeoutError, OSError)):
            return "CERTIFICATE_VERIFY_FAILED" not in str(error)
        later = (errors.TryAgainError, errors.ClusterDownError, errors.MasterDownError, errors.ReadOnlyError)
        return isinstance(error, later) or str(error).startswith(_NOT_NOW) or _ELSEWHERE in str(error)

    def translated(self, error: Exception) -> StoreError:
        """The error of ours for one that is final."""
        errors, where = self._errors, self._location.text
        if isinstance(error, errors.OutOfMemoryError):
            return StoreFull(
                f"the servers of {where!r} have no memory left ({said(error)}); nothing was stored: delete something, "
                f"or give them more with maxmemory"
            )
        if isinstance(error, self.denials) or str(error).startswith(_DENIED_INSIDE):
            return StoreDenied(
                f"{where!r} does not let this user in, or not do this ({said(error)}); give the right user and "
                f"password, or let an administrator change its rights (ACL SETUSER)"
            )
        if isinstance(error, errors.ResponseError):
            return StoreError(f"a server of {where!r} refuses a command: {said(error)}")
        return self.unavailable(error)

    def unavailable(self, error: Exception, is_unsure: bool = False) -> StoreError:
        """The error of ours where the time is over; `is_unsure` says that something may have been done."""
        where = self._location.text
        if is_unsure:
            return OutcomeUnknown(
                f"a write to {where!r} was sent, and nobody answered within {self._location.timeout:g} s "
                f"({said(error)}): it may have been done, or not; do it again when the servers are there"
            )
        return EngineUnavailable(
            f"no server of {where!r} answers within {self._location.timeout:g} s ({said(error)}); start them, or "
            f"mend the location"
        )

    def unknown(self, error: Exception) -> OutcomeUnknown:
        """The error of ours for what may have been done, and must not be done twice."""
        return OutcomeUnknown(
            f"a write to {self._location.text!r} was sent, and its answer did not come ({said(error)}): it may have "
            f"been done, or not, and is not repeated by itself; look at what is stored"
        )

    def unreachable(self, error: Exception) -> EngineUnavailable:
        """The error of ours where no server can tell who has which slots."""
        return EngineUnavailable(
            f"no server of {self._location.text!r} can be reached ({said(error)}); start them, or mend the location"
            f"{self._hint(error)}"
        )

    def _hint(self, error: Exception) -> str:
        """What may be behind a connection that ends at once."""
        reason = said(error)
        if self._location.tls and any(text in reason for text in _NO_TLS):
            return f": one that speaks without TLS is {self._location.scheme[:-1]}://"
        if not self._location.tls and any(text in reason for text in _CLOSED):
            return f": one that speaks TLS alone is {self._location.scheme}s://"
        return ""


def said(error: Exception) -> str:
    """What went wrong, and why."""
    cause = error.__cause__ or error.__context__
    text = str(error) or type(error).__name__
    return text if cause is None or str(cause) in text else f"{text}: {cause}"
