"""Diagnosis: the results of `doctor`. What a check looked at, how bad it is, and the remedy.

"Could not be evaluated" is a result of its own (`unknown`): what a check can't see, it does not call well.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from backend.domain.errors import EngineDown, InstaChatError
from backend.storage.redis.errors import RedisError


class Severity(StrEnum):
    """How bad a result is; `unknown` could not be evaluated."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found. `unreachable` if the cause is a dependency that does not answer."""

    check: str
    severity: Severity
    message: str
    remedy: str | None = None
    unreachable: bool = False


def error_result(check: str, error: InstaChatError) -> CheckResult:
    """The result that an error stands for."""
    away = isinstance(error, EngineDown)
    return CheckResult(check, Severity.ERROR, error.message, error.hint, unreachable=away)


def ok_result(check: str, message: str) -> CheckResult:
    """All is well."""
    return CheckResult(check, Severity.OK, message)


def run_check(check: str, results: Callable[[], Iterable[CheckResult]]) -> Iterator[CheckResult]:
    """What a check finds; or that it could not be evaluated, and why."""
    try:
        yield from results()
    except (InstaChatError, RedisError) as error:
        yield CheckResult(check, Severity.UNKNOWN, f"could not be evaluated: {error}")
