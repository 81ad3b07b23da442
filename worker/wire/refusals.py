"""What redis-py and the server say, in our own words: one sentence, and never a password."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from redis import exceptions
from redis.sentinel import MasterNotFoundError

from worker.errors import NotPermitted, ServerError, ServerFull, ServerUnavailable

_IN_SCRIPTS = ("user executing the script", "ACL failure in script")
"""What is not permitted within a script, in Redis' words and in Valkey's."""

_PASSING = frozenset({"NOREPLICAS", "MISCONF", "BUSY", "UNBLOCKED"})
_NOT_NOW = (
    exceptions.BusyLoadingError,
    exceptions.ClusterDownError,  # MASTERDOWN is one
    exceptions.TryAgainError,
    exceptions.AskError,  # sent from node to node: the slot moves
)
"""Refusals that pass: too few replicas, a full disk, a failover, a script that runs too long."""


def in_our_words(error: Exception, name: str) -> ServerError:
    """``error`` as what it means to the caller; ``name``: what may be shown of the URL.

    What passes by itself is a ServerUnavailable; what somebody has to mend is not.
    """
    for cause in _causes(error):
        if found := _known(cause, name):
            return found
    if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError):
        return ServerUnavailable(f"no answer from a server at {name}: {error}")
    if isinstance(error, exceptions.RedisClusterException):
        return ServerUnavailable(f"the Cluster at {name} cannot do this now: {error}")
    return ServerError(f"the server at {name} answered: {error}")


def _known(error: BaseException, name: str) -> ServerError | None:
    """What ``error`` means, if its kind or its first word tells."""
    said = str(error)
    if isinstance(error, exceptions.AuthenticationError):
        if "required" in said.lower():
            return ServerError(f"the server at {name} wants a user's name and password in its URL")
        return ServerError(f"the server at {name} refused our name or password: {said}")
    if isinstance(error, exceptions.NoPermissionError) or any(word in said for word in _IN_SCRIPTS):
        return NotPermitted(f"the server at {name} does not permit this to our user: {said}")
    if isinstance(error, exceptions.NoScriptError):
        return ServerUnavailable(
            f"the server at {name} does not have mien's scripts, which our user may not load: "
            "a worker or the operator's next command does that"
        )
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        # It may have died. But it does so, too, to whom it does not know.
        return ServerUnavailable(
            f"the server at {name} has cut the TLS connection (does it want an ssl_certfile?)"
        )
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLWantReadError):
        return ServerError(f"no TLS connection with the server at {name}: {_tls_trouble(error)}")
    if isinstance(error, MasterNotFoundError):
        if "AuthenticationError" in said:  # the Sentinels' own, as part of a list
            return ServerError(
                f"the Sentinels at {name} refused our sentinel_password, or want one"
            )
        return ServerUnavailable(f"no Sentinel at {name} knows a primary of that name that is up")
    if isinstance(error, exceptions.ReadOnlyError):
        return ServerUnavailable(f"the server at {name} is a read-only replica")
    if isinstance(error, exceptions.OutOfMemoryError):
        return ServerFull(f"the server at {name} has reached its memory limit")
    if isinstance(error, exceptions.AskError) and "+cluster" not in name:  # MOVED as well
        return ServerError(
            f"the server at {name} is a node of a Cluster: write its URL with redis+cluster://"
        )
    if "cluster support disabled" in said:
        return ServerError(f"the server at {name} is no Cluster: write its URL with redis://")
    if isinstance(error, _NOT_NOW) or said.partition(" ")[0] in _PASSING:
        return ServerUnavailable(f"the server at {name} cannot do this now: {said}")
    return None


def _tls_trouble(error: ssl.SSLError) -> str:
    """Why the two cannot talk."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted, {error.verify_message.rstrip('.')}"
    reason = error.reason or ""
    if "ALERT" in reason:
        return f"it refused ours ({reason.lower().replace('_', ' ')}), see ssl_certfile"
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
        return "it does not speak TLS at this port"
    return reason.lower().replace("_", " ")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """``error`` and what lies behind it: redis-py wraps what it met."""
    at: BaseException | None = error
    while at is not None:
        yield at
        at = at.__cause__ or at.__context__
