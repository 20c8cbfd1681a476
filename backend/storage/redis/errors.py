"""Redis's troubles in our words: what is down, full or foreign, and what may have been done after all."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis.exceptions import RedisError as RedisError  # so that others need not import redis
from redis.exceptions import ResponseError

from backend.domain.errors import EngineDown, Failed, LogFull, Unconfirmed
from backend.settings import redact

# What Redis says when it can't do its work now: redis-py knows some of it by class, the rest by word.
_TEMPORARY_ERRORS = (
    redis.exceptions.ClusterDownError,
    redis.exceptions.MasterDownError,
    redis.exceptions.NoPermissionError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
)
_TEMPORARY_MESSAGES = re.compile(
    r"(^|: )(MISCONF|NOREPLICAS|BUSY) "
    r"|^ACL failure in script|^The user executing the script can't run this command"
)


class CommandRefused(Failed):
    """Redis does not let this user run a command. Its own error is the cause."""


@contextmanager
def translate_errors(url: str) -> Iterator[None]:
    """Redis's own troubles become EngineDown or LogFull, foreign keys Failed."""
    try:
        yield
    except redis.exceptions.OutOfMemoryError:
        raise LogFull(
            "Redis is at its memory limit; nothing was accepted",
            "see `instachat status`: is a worker running? Or raise Redis's maxmemory",
        ) from None
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        raise engine_down(url, error) from error
    except ResponseError as error:
        # Refused before anything was written: there is no cause that could make it uncertain.
        if isinstance(error, _TEMPORARY_ERRORS) or _TEMPORARY_MESSAGES.search(str(error)):
            raise engine_down(url, error) from None
        if is_wrong_type(error):
            raise Failed(
                "Redis holds something foreign under a key of InstaChat's",
                "another program writes to this Redis: give InstaChat one of its own",
            ) from error
        raise


@contextmanager
def unconfirmed_on_lost_reply(url: str) -> Iterator[None]:
    """An answer lost after the call was sent is not known to be a refusal."""
    try:
        yield
    except EngineDown as error:
        cause = error.__cause__
        if cause is None or _never_sent(cause):
            raise
        raise Unconfirmed(
            f"Redis at {redact(url)} went away before it answered: it is not known "
            "whether this was accepted",
            "look at what is there before you repeat it",
        ) from None


def foreign_data_error(which: str, shard: int) -> Failed:
    """A script has found what no script of ours writes."""
    return Failed(
        f"Redis holds something foreign under the key of the {which} of shard {shard}; "
        "nothing was accepted",
        "another program writes to this Redis: give InstaChat one of its own",
    )


def is_wrong_type(error: Exception) -> bool:
    """Whether a key holds what another program put there."""
    return "WRONGTYPE" in str(error)


def engine_down(url: str, error: BaseException) -> EngineDown:
    """Redis can't be used, and why."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return EngineDown(
        f"Redis at {redact(url)} can't be used: {reason}",
        f"check it with `redis-cli -u {redact(url)} ping`; the setting is INSTACHAT_REDIS_URL",
    )


def _never_sent(error: BaseException) -> bool:
    """Whether the connection could not even be opened."""
    refusals = (ConnectionRefusedError, FileNotFoundError, PermissionError, socket.gaierror)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, refusals) or "connecting to" in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
