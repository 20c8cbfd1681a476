"""Optimistic changes: by the version of what is changed, and again if another change came first."""

from backend.domain.errors import StaleVersion

MAX_EDIT_ATTEMPTS = 5  # of a change that names no version


def check_version(wanted: int | None, found: int, what: str) -> None:
    """Raise StaleVersion if a version is wanted, and another one found."""
    if wanted is not None and wanted != found:
        raise StaleVersion(
            f"{what} was changed meanwhile; nothing was done", "read it again, then repeat"
        )


def too_many_conflicts(what: str) -> StaleVersion:
    """The error after `MAX_EDIT_ATTEMPTS`."""
    return StaleVersion(f"other changes of {what} came first, several times", "try again")
