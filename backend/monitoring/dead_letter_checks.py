"""The check of dead letters, for `doctor`."""

from collections.abc import Iterator

from backend.monitoring.checks import CheckResult, Severity, ok_result
from backend.storage.postgres import dead_letters
from backend.storage.postgres.database import Database

_CHECK = "dead letters"


def check_dead_letters(database: Database) -> Iterator[CheckResult]:
    """An error if a number was given twice, a warning if anything else could not be stored or published."""
    with database.connect() as connection:
        total = sum(dead_letters.count_dead_letters(connection).values())
        duplicates = dead_letters.count_duplicate_numbers(connection) if total else 0
    if duplicates:
        yield CheckResult(
            _CHECK,
            Severity.ERROR,
            f"numbers that were given twice: {duplicates:,}. One creation is stored under each, another one"
            " was answered with it and is a dead letter",
            "`instachat reconcile` names them; send each again as `instachat dead show ID` prints it,"
            " then discard it by `instachat dead purge ID`",
        )
    elif total:
        yield CheckResult(
            _CHECK,
            Severity.WARNING,
            f"{total:,} that could not be stored or published",
            "see `instachat dead list`; once the cause is removed, run `instachat dead retry --all`",
        )
    else:
        yield ok_result(_CHECK, "none")
