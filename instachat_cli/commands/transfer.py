"""`instachat export` and `instachat import`: everything as JSON lines, out of one place and into another."""

import os
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, NoReturn

import typer

from backend.domain.errors import Conflict, Failed, InstaChatError, Invalid
from instachat_cli.console.exit_codes import Interrupted, describe_error
from instachat_cli.console.options import DryRunFlag, Format, Output
from instachat_cli.console.output import Body, Printer, dumps
from instachat_cli.console.progress import Progress
from instachat_cli.console.stderr import stderr, visible
from instachat_cli.runtime.context import backend_context

if TYPE_CHECKING:
    from backend.transfer.diff import LineFault
    from backend.transfer.exporter import ExportSnapshot
    from backend.transfer.importer import DryRun as ImportDryRun
    from backend.transfer.importer import Import, ImportCounts

LINES_PER_WRITE = 1_000  # at once

Source = Annotated[
    str, typer.Argument(metavar="FILE", help="What an export wrote; - reads standard input.")
]
Target = Annotated[
    str,
    typer.Argument(metavar="FILE", help="Where to; otherwise standard output.", show_default=False),
]
Outcome = Annotated[
    Format | None,
    typer.Option(
        "-o", "--output", help="How to print that a FILE was written; it is JSON lines always."
    ),
]
App = Annotated[
    str | None,
    typer.Option("--app", metavar="TOKEN", help="Only this application; otherwise all."),
]


def export(file: Target = "-", app: App = None, output: Outcome = None) -> None:
    """Write everything that is stored as JSON lines, for `import`.

    $ instachat export backup.jsonl
    $ instachat export --app $TOKEN | gzip > desk.jsonl.gz

    All lines are of one moment; what was accepted before is waited for. What was deleted has a line, too, so
    that no number is used again. A FILE is replaced when all is written, never half. It holds tokens: keep it
    as a password.
    """
    with (
        _open_target(file) as out,
        backend_context() as core,
        core.exporter.snapshot(app) as snapshot,
    ):
        count = _write(snapshot, out)
    if out is not sys.stdout:
        Printer(output).outcome(
            {"lines": count, "file": file}, f"exported: {count:,} lines to {file}"
        )


def import_(file: Source, dry_run: DryRunFlag = False, output: Output = None) -> None:
    """Import what `export` wrote, keeping tokens, numbers and times.

    $ instachat import backup.jsonl --dry-run
    $ gunzip < desk.jsonl.gz | instachat import -

    What is there already is skipped, so an import can be repeated, or begun again after an interruption. The
    first bad line ends it with exit 2, the first that differs from what is there with exit 6: what was before
    it stays imported, nothing is overwritten. With --dry-run each such line is named, and nothing is written.
    """
    with _open_source(file) as source, backend_context() as core:
        if dry_run:
            _dry_run(core.importer.dry_run(), source, Printer(output))
        else:
            _import(core.importer.begin(), source, Printer(output))


# -- export ---------------------------------------------------------------------------------------


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
    """Standard output, or a file that gets its name when all is written, and not at all otherwise."""
    path = Path(file)
    if file == "-":
        yield sys.stdout
        return
    try:
        if path.exists() and not path.is_file():  # a pipe or a device: it can't be replaced
            with path.open("w", encoding="utf-8", newline="\n") as out:
                yield out
        else:
            with _atomic_replacement(path.resolve()) as out:
                yield out
    except OSError as error:
        raise Failed(f"{file} can't be written: {error.strerror or error}") from None
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {file} is as it was") from None


@contextmanager
def _atomic_replacement(path: Path) -> Iterator[IO[str]]:
    """A file beside that path, of which only its owner can read; it takes the other's place at the end."""
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


# -- import ---------------------------------------------------------------------------------------


@contextmanager
def _open_source(file: str) -> Iterator[IO[bytes]]:
    """Standard input or a file, unbuffered."""
    if file == "-" and sys.stdin.isatty():
        stderr.note("reading from the terminal; Ctrl-D ends it")
    try:
        source = open(  # noqa: SIM115
            sys.stdin.fileno() if file == "-" else file, "rb", buffering=0, closefd=file != "-"
        )
    except OSError as error:
        raise Invalid(f"{file} can't be read: {error.strerror or error}") from None
    with source:
        yield source


def _import(work: "Import", source: IO[bytes], printer: Printer) -> None:
    """Import all lines; the first fault ends it."""

    def raise_fault(fault: "LineFault") -> NoReturn:
        raise _with_line_number(fault)

    try:
        _process_chunks(work, source, raise_fault)
    except KeyboardInterrupt:
        # What was being stored at that moment may have been stored, too.
        raise Interrupted(
            f"interrupted; imported at least: {_counts_sentence(work.counts)}"
        ) from None
    except InstaChatError as error:
        error.message += f"; imported before: {_counts_sentence(work.counts)}"
        if isinstance(error, Invalid | Conflict):
            error.hint = "`--dry-run` names every such line"
        raise
    printer.outcome(_body(work.counts), f"imported: {_counts_sentence(work.counts)}")


def _dry_run(work: "ImportDryRun", source: IO[bytes], printer: Printer) -> None:
    """Name the fault of every line, and say what would be imported."""
    errors: Counter[type[InstaChatError]] = Counter()

    def on_fault(fault: "LineFault") -> None:
        error = _with_line_number(fault)
        errors[type(error)] += 1
        if stderr.as_json:
            body = {
                "error": describe_error(error).name,
                "line": fault.line,
                "message": error.message,
            }
            stderr.write_line(dumps(body | {"hint": None}))
        else:
            stderr.write_line(visible(error.message))

    _process_chunks(work, source, on_fault)
    if errors:
        kind = Invalid if errors[Invalid] else Conflict
        raise kind(
            f"invalid lines: {errors[Invalid]:,}, conflicts with what is there: {errors[Conflict]:,};"
            " nothing was written"
        )
    printer.outcome(
        _body(work.counts), f"would import: {_counts_sentence(work.counts)}; nothing was written"
    )


def _process_chunks(
    work: "Import | ImportDryRun", source: IO[bytes], on_fault: Callable[["LineFault"], None]
) -> None:
    """Work on chunk after chunk, telling the faults that come up."""
    from backend.transfer.format import read_chunks
    from instachat_cli.console.stdin import size

    line_count = 0
    with Progress("lines", size(source.fileno()), typed=source.isatty()) as progress:
        for chunk in read_chunks(source.read):
            for fault in work.process(chunk):
                on_fault(fault)
            line_count += len(chunk.lines)
            progress.update(line_count, chunk.read)
    if not line_count:
        stderr.note("there was no line to import")


def _with_line_number(fault: "LineFault") -> Invalid | Conflict:
    fault.error.message = f"line {fault.line}: {fault.error.message}"
    return fault.error


def _body(counts: "ImportCounts") -> Body:
    return {
        "applications": counts.applications,
        "chats": counts.chats,
        "messages": counts.messages,
        "skipped": counts.skipped,
    }


def _counts_sentence(counts: "ImportCounts") -> str:
    """Such as “1 application, 2 chats, 3 messages; 4 lines were there already”."""
    parts = [
        f"{count:,} {noun}{'' if count == 1 else 's'}"
        for count, noun in [
            (counts.applications, "application"),
            (counts.chats, "chat"),
            (counts.messages, "message"),
        ]
        if count
    ]
    sentence = ", ".join(parts) or "nothing"
    if counts.skipped:
        were = "line was" if counts.skipped == 1 else "lines were"
        sentence += f"; {counts.skipped:,} {were} there already"
    return sentence
