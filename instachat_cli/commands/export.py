"""Export all stored data as JSON lines, for `import`."""

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from backend.domain.errors import Failed
from backend.domain.plurals import counted
from instachat_cli.console.exit_codes import Interrupted
from instachat_cli.console.invocation import not_audited
from instachat_cli.console.options import App, Format
from instachat_cli.console.output import Printer
from instachat_cli.console.progress import Progress
from instachat_cli.runtime.context import backend_context

if TYPE_CHECKING:
    from backend.transfer.exporter import ExportSnapshot

LINES_PER_WRITE = 1_000

Target = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="Target file; default: standard output.", show_default=False
    ),
]
Outcome = Annotated[
    Format | None,
    typer.Option(
        "-o", "--output", help="How to print the result; FILE itself is always JSON lines."
    ),
]


@not_audited
def export(file: Target = "-", app: App = None, output: Outcome = None) -> None:
    """Export all stored data as JSON lines, for `import`.

    $ instachat export backup.jsonl
    $ instachat export --app $TOKEN | gzip > desk.jsonl.gz

    The export is one consistent snapshot and includes everything accepted before it started. Deleted items
    are exported too, so that no number is reused. FILE is replaced atomically at the end. It contains tokens:
    treat it as a password.
    """
    with (
        _open_target(file) as out,
        backend_context() as core,
        core.exporter.snapshot(None if app is None else core.tokens.original(app)) as snapshot,
    ):
        count = _write(snapshot, out)
    if out is not sys.stdout:
        Printer(output).outcome(
            {"lines": count, "file": file}, f"exported: {counted(count, 'line')} to {file}"
        )


def _write(snapshot: "ExportSnapshot", out: IO[str]) -> int:
    """Write all lines; returns how many."""
    count = 0
    lines = snapshot.lines()
    with Progress("lines", snapshot.count() if sys.stderr.isatty() else None) as progress:
        while block := list(islice(lines, LINES_PER_WRITE)):
            out.write("".join(block))
            count += len(block)
            progress.update(count, count)
    return count


@contextmanager
def _open_target(file: str) -> Iterator[IO[str]]:
    """Standard output, or a file that gets its name only once everything is written."""
    path = Path(file)
    if file == "-":
        yield sys.stdout
        return
    try:
        if path.exists() and not path.is_file():  # a pipe or a device: written directly
            with path.open("w", encoding="utf-8", newline="\n") as out:
                yield out
        else:
            with _atomic_replacement(path.resolve()) as out:
                yield out
    except OSError as error:
        raise Failed(f"{file} can't be written: {error.strerror or error}") from None
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {file} is unchanged") from None


@contextmanager
def _atomic_replacement(path: Path) -> Iterator[IO[str]]:
    """A temporary file in the same folder, readable by its owner only; it replaces `path` at the end."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="\n") as out:  # noqa: PTH123
            if path.exists():
                os.fchmod(descriptor, stat.S_IMODE(path.stat().st_mode))
            yield out
            out.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
