"""The folder that the files of load tests are written to."""

from collections.abc import Iterable
from pathlib import Path

from backend.domain.errors import Invalid


def create_folder(
    folder: Path, files: Iterable[str], content: str, pronoun: str, *, force: bool
) -> None:
    """Create the folder. Called before a load, so that it does not fail after the load.

    `content` is what the files are, such as "a report", and `pronoun` the word for it in the hint. Raises
    Invalid if that is not possible, or if any of the files is there and may not be replaced.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = [name for name in files if (folder / name).exists()]
    except OSError as error:
        raise Invalid(f"can't create the folder {folder}: {error.strerror}") from None
    if there and not force:
        raise Invalid(
            f"{folder} has {content} already: {', '.join(there)}",
            f"name another folder, or use `--force` to replace {pronoun}",
        )
