"""Translates Redis's errors: Redis is down or full, holds other programs' data, or may have accepted."""

import re
import socket

import redis
from redis.exceptions import RedisError as RedisError  # so that others need not import redis
from redis.exceptions import ResponseError

from backend.domain.errors import EngineDown, Failed, LogFull, NodeDown, Unconfirmed
from backend.settings import redact

# Redis can't work now. redis-py has classes for some of these errors; the others are known by their text.
_TEMPORARY_ERRORS = (
    redis.exceptions.ClusterDownError,
    redis.exceptions.MasterDownError,
    redis.exceptions.NoPermissionError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
)
_CLUSTER_ERRORS = (
    redis.exceptions.ClusterCrossSlotError,
    redis.exceptions.MovedError,
    redis.exceptions.AskError,
)
_NO_REPLY_ERRORS = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.InvalidResponse,
)
_TEMPORARY_MESSAGES = re.compile(
    r"(^|: )(MISCONF|NOREPLICAS|BUSY) "
    r"|^ACL failure in script|^The user executing the script can't (run this command|access at least one)"
    # A script's slot is moving to another node, or its node has lost the cluster. Redis says so at the first
    # access to a key that its node does not have, and each script reads its keys before it writes.
    r"|[Aa]ttempted to access a (non local key|slot not served)"
    r"|undeclared keys were accessed during rehashing"
    r"|Script attempted to execute a (write )?command while the cluster is down"
)
# `accept`, which has the names of its keys in a list, has run on a node that does not have them.
_NODE_MESSAGES = re.compile(r"[Aa]ttempted to access a non local key")
# What managed services say of a script without KEYS, and what a Redis would say that forbids several slots.
_UNDECLARED_KEYS_MESSAGES = re.compile(
    r"without any input keys|number of keys can't be|using (the )?KEYS array"
    r"|access keys that do not hash to the same slot"
)
_OTHER_HOSTS = re.compile(r",[^@/?]*(?=[/?]|$)")  # of a cluster's URL, those after the first


class CommandRefused(Failed):
    """Redis does not let this user run a command. Its own error is the cause."""


class NodeAway(redis.exceptions.ConnectionError):
    """A node of a cluster did not answer before, and does not yet: nothing was sent to it."""


class translate_errors:  # noqa: N801  # a context manager, called like a function
    """Raise EngineDown or LogFull for Redis's errors, and Failed for a key with another program's data.

    A class, because a generator takes four times as long, and each call of Redis enters two.
    """

    __slots__ = ("_url",)

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        """See contextlib.AbstractContextManager."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """See contextlib.AbstractContextManager."""
        if error is not None:
            _raise_translated(error, self._url)


def _raise_translated(error: BaseException, url: str) -> None:
    """Raise the error that an error of Redis means; return if the error itself says it."""
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        raise log_full_error("Redis is at its memory limit") from None
    if isinstance(error, redis.exceptions.BusyLoadingError):
        # A ConnectionError, although Redis has answered.
        raise engine_down(url, error) from None
    if isinstance(error, _NO_REPLY_ERRORS):
        raise engine_down(url, error) from error
    if isinstance(error, ResponseError):
        if "+cluster" not in url and (
            isinstance(error, _CLUSTER_ERRORS) or _NODE_MESSAGES.search(str(error))
        ):
            raise cluster_node_error(url) from None
        # Refused before the first write: without a cause, `unconfirmed_on_lost_reply` lets it pass.
        if isinstance(error, _TEMPORARY_ERRORS) or _TEMPORARY_MESSAGES.search(str(error)):
            raise engine_down(url, error) from None
        if is_wrong_type(error):
            raise foreign_data_error() from error
        if isinstance(error, redis.exceptions.AskError):  # which MovedError is, too
            raise engine_down(url, error) from None
    elif isinstance(error, redis.exceptions.ClusterError):
        raise engine_down(url, error) from None  # every node has only redirected the call
    elif isinstance(error, redis.exceptions.RedisClusterException):
        # The client could not find a node. It may have looked for one because a call got no reply.
        lost = error.__context__
        raise engine_down(url, error) from lost if isinstance(lost, _NO_REPLY_ERRORS) else None


class unconfirmed_on_lost_reply:  # noqa: N801  # as `translate_errors`
    """Raise Unconfirmed for an EngineDown after the call was sent: the call may have been executed."""

    __slots__ = ("_url",)

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        """See contextlib.AbstractContextManager."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """See contextlib.AbstractContextManager."""
        if (
            isinstance(error, EngineDown)
            and (cause := error.__cause__) is not None
            and not never_sent(cause)
        ):
            raise Unconfirmed(
                f"Redis at {redact(self._url)} went away before it answered: it is not known "
                "whether this was done",
                "check what was created or changed before you repeat the request",
            ) from None


def foreign_data_error(subject: str = "", shard: int | None = None) -> Failed:
    """InstaChat's key of `subject` has a value that no script of InstaChat writes."""
    key = f"the key of the {subject}" if subject else "a key of InstaChat's"
    of_shard = "" if shard is None else f" of shard {shard}"
    return Failed(
        f"Redis holds a foreign value under {key}{of_shard}; nothing was accepted",
        "another program writes to this Redis: give InstaChat a Redis of its own",
    )


def cluster_node_error(url: str) -> Failed:
    """The URL names a node of a Redis Cluster, and is not that of a cluster."""
    return Failed(
        f"Redis at {redact(url)} is a node of a Redis Cluster; nothing was accepted",
        "set INSTACHAT_REDIS_URL to redis+cluster://…, and INSTACHAT_HUEY_URL to a plain Redis",
    )


def scripts_missing_error() -> EngineDown:
    """Redis has just been given the scripts, and does not have them."""
    return EngineDown("Redis does not keep the program's scripts; nothing was accepted")


def log_full_error(reason: str) -> LogFull:
    """Redis has too little memory left for accepting."""
    return LogFull(
        f"{reason}; nothing was accepted",
        "see `instachat status`: is a worker running? Or raise Redis's maxmemory",
    )


def backlog_full_error() -> LogFull:
    """What a shard's log holds takes too much of Redis's memory, which the other shards need."""
    return LogFull(
        "what is not stored yet takes too much memory; nothing was accepted",
        "see `instachat status`: is a worker running? Or raise Redis's maxmemory",
    )


def keys_full_error() -> LogFull:
    """The idempotency keys of a shard take too much of Redis's memory, which others need."""
    return LogFull(
        "too many idempotency keys are kept; nothing was accepted",
        "repeat it without a key, or when some have expired after a day; or raise Redis's maxmemory",
    )


def overdue_error() -> LogFull:
    """An application's backlog is so long that it leaves the rest of the log to the others in its shard."""
    return LogFull(
        "too much of the application is not stored yet; nothing was accepted",
        "wait until it is stored: see `instachat status`",
    )


def is_elsewhere(error: Exception) -> bool:
    """Whether a script without KEYS had no access to a key that is on another node of the cluster."""
    return _NODE_MESSAGES.search(str(error)) is not None


def refuses_undeclared_keys(error: Exception) -> bool:
    """Whether a node of a cluster executes no script that has keys which are not among its KEYS."""
    return _UNDECLARED_KEYS_MESSAGES.search(str(error)) is not None


def is_wrong_type(error: Exception) -> bool:
    """Whether a key holds a value of another type than InstaChat writes."""
    return "WRONGTYPE" in str(error)


def engine_down(url: str, error: BaseException) -> EngineDown:
    """Redis, or a node of a cluster, can't be used, for the reason in `error`."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, redis.exceptions.InvalidResponse):
        reason = "its reply is not valid"  # the error quotes it, and a reply may have texts
    shown = redact(url)
    check = f"-u {shown} ping"
    if "+cluster" in url:
        check = f"-u {_OTHER_HOSTS.sub('', shown.replace('+cluster', '', 1))} cluster nodes"
    return (NodeDown if "+cluster" in url else EngineDown)(
        f"Redis at {shown} can't be used: {reason}",
        f"check it with `redis-cli {check}`; the setting is INSTACHAT_REDIS_URL",
    )


def never_sent(error: BaseException) -> bool:
    """Whether the connection could not be opened, so that nothing was sent."""
    refusals = (
        NodeAway,
        ConnectionRefusedError,
        FileNotFoundError,
        PermissionError,
        socket.gaierror,
    )
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, refusals) or "connecting to" in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
