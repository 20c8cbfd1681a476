"""Optimistic changes: by the version of what is changed, and again if another change came first."""

from collections.abc import Collection

from backend.domain.errors import StaleVersion

MAX_EDIT_ATTEMPTS = 5  # of a change that names no version


def check_version(wanted: Collection[int] | None, found: int, what: str) -> None:
    """Raise StaleVersion if the version found is none of those wanted; None stands for any."""
    if wanted is not None and found not in wanted:
        raise StaleVersion(
            f"{what} was changed meanwhile; nothing was done", "read it again, then repeat"
        )


def too_many_conflicts(what: str) -> StaleVersion:
    """The error after `MAX_EDIT_ATTEMPTS`."""
    return StaleVersion(f"other changes of {what} came first, several times", "try again")
