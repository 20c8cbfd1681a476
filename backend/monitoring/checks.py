"""Diagnosis: the findings of `doctor`. What a check looked at, how bad it is, and the remedy.

"Could not be evaluated" is a finding of its own (`unknown`): what a check can't see, it does not call well.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import redis

from backend.domain.errors import EngineDown, InstaChatError


class Severity(StrEnum):
    """How bad a finding is; `unknown` could not be evaluated."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. `unreachable` if the cause is a dependency that does not answer."""

    check: str
    severity: Severity
    message: str
    remedy: str | None = None
    unreachable: bool = False


def fault(check: str, error: InstaChatError) -> Finding:
    """The finding that an error stands for."""
    away = isinstance(error, EngineDown)
    return Finding(check, Severity.ERROR, error.message, error.hint, unreachable=away)


def ok(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(check, Severity.OK, message)


def evaluated(check: str, findings: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What a check finds; or that it could not be evaluated, and why."""
    try:
        yield from findings()
    except (InstaChatError, redis.RedisError) as error:
        yield Finding(check, Severity.UNKNOWN, f"could not be evaluated: {error}")
