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
from instachat_cli.console.exit_codes import Interrupted, explain
from instachat_cli.console.options import DryRun, Format, Output
from instachat_cli.console.output import Body, Printer, dumps
from instachat_cli.console.progress import Progress
from instachat_cli.console.stderr import talk, visible
from instachat_cli.runtime.context import backend

if TYPE_CHECKING:
    from backend.transfer.diff import Fault
    from backend.transfer.exporter import Snapshot
    from backend.transfer.importer import Counts, Import, Rehearsal

WRITTEN_LINES = 1_000  # at once

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
    with _target(file) as out, backend() as core, core.exporter.snapshot(app) as snapshot:
        count = _write(snapshot, out)
    if out is not sys.stdout:
        Printer(output).outcome(
            {"lines": count, "file": file}, f"exported: {count:,} lines to {file}"
        )


def import_(file: Source, dry_run: DryRun = False, output: Output = None) -> None:
    """Import what `export` wrote, keeping tokens, numbers and times.

    $ instachat import backup.jsonl --dry-run
    $ gunzip < desk.jsonl.gz | instachat import -

    What is there already is skipped, so an import can be repeated, or begun again after an interruption. The
    first bad line ends it with exit 2, the first that differs from what is there with exit 6: what was before
    it stays imported, nothing is overwritten. With --dry-run each such line is named, and nothing is written.
    """
    with _source(file) as source, backend() as core:
        if dry_run:
            _rehearse(core.importer.rehearse(), source, Printer(output))
        else:
            _import(core.importer.begin(), source, Printer(output))


# -- export ---------------------------------------------------------------------------------------


def _write(snapshot: "Snapshot", out: IO[str]) -> int:
    """Write all lines; returns how many."""
    count = 0
    lines = snapshot.lines()
    with Progress("lines", snapshot.count() if sys.stderr.isatty() else None) as progress:
        while block := list(islice(lines, WRITTEN_LINES)):
            out.write("".join(block))
            count += len(block)
            progress.update(count, count)
    return count


@contextmanager
def _target(file: str) -> Iterator[IO[str]]:
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
            with _replaced(path.resolve()) as out:
                yield out
    except OSError as error:
        raise Failed(f"{file} can't be written: {error.strerror or error}") from None
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {file} is as it was") from None


@contextmanager
def _replaced(path: Path) -> Iterator[IO[str]]:
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
def _source(file: str) -> Iterator[IO[bytes]]:
    """Standard input or a file, unbuffered."""
    if file == "-" and sys.stdin.isatty():
        talk.note("reading from the terminal; Ctrl-D ends it")
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

    def end(fault: "Fault") -> NoReturn:
        raise _at_its_line(fault)

    try:
        _work_through(work, source, end)
    except KeyboardInterrupt:
        # What was being stored at that moment may have been stored, too.
        raise Interrupted(f"interrupted; imported at least: {_said(work.counts)}") from None
    except InstaChatError as error:
        error.message += f"; imported before: {_said(work.counts)}"
        if isinstance(error, Invalid | Conflict):
            error.hint = "`--dry-run` names every such line"
        raise
    printer.outcome(_body(work.counts), f"imported: {_said(work.counts)}")


def _rehearse(work: "Rehearsal", source: IO[bytes], printer: Printer) -> None:
    """Name the fault of every line, and say what would be imported."""
    found: Counter[type[InstaChatError]] = Counter()

    def tell(fault: "Fault") -> None:
        error = _at_its_line(fault)
        found[type(error)] += 1
        if talk.as_json:
            body = {"error": explain(error).name, "line": fault.line, "message": error.message}
            talk.say(dumps(body | {"hint": None}))
        else:
            talk.say(visible(error.message))

    _work_through(work, source, tell)
    if found:
        kind = Invalid if found[Invalid] else Conflict
        raise kind(
            f"invalid lines: {found[Invalid]:,}, conflicts with what is there: {found[Conflict]:,};"
            " nothing was written"
        )
    printer.outcome(_body(work.counts), f"would import: {_said(work.counts)}; nothing was written")


def _work_through(
    work: "Import | Rehearsal", source: IO[bytes], tell: Callable[["Fault"], None]
) -> None:
    """Work on chunk after chunk, telling the faults that come up."""
    from backend.transfer.format import chunks
    from instachat_cli.console.stdin import size

    done = 0
    with Progress("lines", size(source.fileno())) as progress:
        for chunk in chunks(source.read):
            for fault in work.take(chunk):
                tell(fault)
            done += len(chunk.lines)
            progress.update(done, chunk.read)
    if not done:
        talk.note("there was no line to import")


def _at_its_line(fault: "Fault") -> Invalid | Conflict:
    fault.error.message = f"line {fault.line}: {fault.error.message}"
    return fault.error


def _body(counts: "Counts") -> Body:
    return {
        "applications": counts.applications,
        "chats": counts.chats,
        "messages": counts.messages,
        "skipped": counts.skipped,
    }


def _said(counts: "Counts") -> str:
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
    said = ", ".join(parts) or "nothing"
    if counts.skipped:
        were = "line was" if counts.skipped == 1 else "lines were"
        said += f"; {counts.skipped:,} {were} there already"
    return said
