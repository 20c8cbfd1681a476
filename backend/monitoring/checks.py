"""The results of `doctor`: the subject of a check, its severity, and the remedy.

A check that cannot be evaluated has the severity `unknown`, never `ok`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from backend.domain.errors import EngineDown, InstaChatError
from backend.storage.redis.errors import RedisError


class Severity(StrEnum):
    """The severity of a result; `unknown` if the check could not be evaluated."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    UNKNOWN = "unknown"


class SafeRepair(StrEnum):
    """What `doctor --fix` may do by itself: nothing is lost, and everything goes on meanwhile.

    Repairs that decide something, delete, or take hours are left to the operator: their results have none.
    """

    MIGRATE = "instachat migrate"
    SYNC_COUNTERS = "instachat sync-counters"
    CREATE_INDEXES = "CREATE INDEX CONCURRENTLY"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check. `unreachable` if the cause is a dependency that does not answer."""

    check: str
    severity: Severity
    message: str
    remedy: str | None = None
    unreachable: bool = False
    repair: SafeRepair | None = None


def error_result(
    check: str, error: InstaChatError, repair: SafeRepair | None = None
) -> CheckResult:
    """The result for a check that raised an error."""
    unreachable = isinstance(error, EngineDown)
    return CheckResult(check, Severity.ERROR, error.message, error.hint, unreachable, repair)


def ok_result(check: str, message: str) -> CheckResult:
    """The result for a check that passed."""
    return CheckResult(check, Severity.OK, message)


def run_check(check: str, results: Callable[[], Iterable[CheckResult]]) -> Iterator[CheckResult]:
    """Yield a check's results, and a result `unknown` with the reason if it raises an error."""
    try:
        yield from results()
    except (InstaChatError, RedisError) as error:
        yield CheckResult(check, Severity.UNKNOWN, f"could not be evaluated: {error}")
