"""Import an export, keeping tokens, numbers and times."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Annotated, NoReturn

import typer

from backend.domain.errors import Conflict, InstaChatError, Invalid
from backend.domain.plurals import counted
from instachat_cli.console.exit_codes import Interrupted, describe_error
from instachat_cli.console.invocation import note_count
from instachat_cli.console.options import DryRunFlag, Output
from instachat_cli.console.output import Body, Printer, dumps
from instachat_cli.console.progress import Progress
from instachat_cli.console.stderr import stderr, visible
from instachat_cli.runtime.context import backend_context
from instachat_cli.runtime.signals import was_interrupted

if TYPE_CHECKING:
    from backend.transfer.diff import LineFault
    from backend.transfer.importer import DryRun as ImportDryRun
    from backend.transfer.importer import Import, ImportCounts
    from backend.transfer.left_out import LeftOut

MAX_GAP_WARNINGS = 10
Source = Annotated[
    str, typer.Argument(metavar="FILE", help="An export file; - reads standard input.")
]


def import_(file: Source, dry_run: DryRunFlag = False, output: Output = None) -> None:
    """Import an export, keeping tokens, numbers and times.

    $ instachat import backup.jsonl --dry-run
    $ gunzip < desk.jsonl.gz | instachat import -

    Existing equal items are skipped, so an import can be repeated or continued. The first invalid line ends
    it with exit 2, the first conflicting line with exit 6; earlier lines stay imported and nothing is
    overwritten. With --dry-run, every such line is reported and nothing is written. A line that leaves out
    numbers is named before it is stored.
    """
    left_out = _LeftOutWarnings()
    with _open_source(file) as source, backend_context() as core:
        if dry_run:
            _dry_run(core.importer.dry_run(left_out.add), source, Printer(output))
        else:
            _import(core.importer.begin(left_out.add), source, Printer(output))
        left_out.finish()


class _LeftOutWarnings:
    """Warns of each gap that an import makes, up to MAX_GAP_WARNINGS, and counts the others."""

    def __init__(self) -> None:
        self._gaps = 0
        self._numbers = 0

    def add(self, left_out: "LeftOut") -> None:
        """Warn of a gap that is about to be made."""
        self._gaps += 1
        if self._gaps > MAX_GAP_WARNINGS:
            self._numbers += left_out.size
            return
        children = "chats" if left_out.parent.chat is None else "messages"
        which = f"number {left_out.first:,}"
        if left_out.size > 1:
            which = f"{left_out.size:,} numbers, {left_out.first:,} to {left_out.last:,},"
        stderr.warning(
            f"line {left_out.line:,} leaves out {which} of {left_out.parent}: counted as {children} until"
            " `instachat reconcile --repair` stores them as lost"
        )

    def finish(self) -> None:
        """Warn of the gaps that were not named."""
        if self._gaps > MAX_GAP_WARNINGS:
            gaps = counted(self._gaps - MAX_GAP_WARNINGS, "further gap")
            stderr.warning(f"{gaps} with {counted(self._numbers, 'number')}, left out as well")


@contextmanager
def _open_source(file: str) -> Iterator[IO[bytes]]:
    """Standard input or a file, unbuffered."""
    if file == "-" and sys.stdin.isatty():
        stderr.note("reading from the terminal; press Ctrl-D to finish")
    try:
        source = open(  # noqa: SIM115
            sys.stdin.fileno() if file == "-" else file, "rb", buffering=0, closefd=file != "-"
        )
    except OSError as error:
        raise Invalid(f"{file} can't be read: {error.strerror or error}") from None
    with source:
        yield source


def _import(work: "Import", source: IO[bytes], printer: Printer) -> None:
    """Import all lines, up to the first fault."""

    def raise_fault(fault: "LineFault") -> NoReturn:
        raise _with_line_number(fault)

    try:
        _process_chunks(work, source, raise_fault)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or was_interrupted():
            # The chunk that was being stored may have been committed as well.
            raise Interrupted(
                f"interrupted; imported at least: {_counts_sentence(work.counts)}. The same import"
                " continues"
            ) from None
        if not isinstance(error, InstaChatError):
            raise
        error.message += f"; imported before: {_counts_sentence(work.counts)}"
        if isinstance(error, Invalid | Conflict):
            error.hint = "`--dry-run` reports every such line"
        raise
    finally:
        for kind, count in _body(work.counts).items():
            note_count(kind, count)
    printer.outcome(_body(work.counts), f"imported: {_counts_sentence(work.counts)}")


def _dry_run(work: "ImportDryRun", source: IO[bytes], printer: Printer) -> None:
    """Report the fault of every line, and print what would be imported."""
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

    try:
        _process_chunks(work, source, on_fault)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; nothing was written") from None
    if errors:
        kind = Invalid if errors[Invalid] else Conflict
        raise kind(
            f"invalid lines: {errors[Invalid]:,}, conflicts with existing data: {errors[Conflict]:,};"
            " nothing was written"
        )
    printer.outcome(
        _body(work.counts), f"would import: {_counts_sentence(work.counts)}; nothing was written"
    )


def _process_chunks(
    work: "Import | ImportDryRun", source: IO[bytes], on_fault: Callable[["LineFault"], None]
) -> None:
    """Process the source chunk by chunk and call `on_fault` with each fault."""
    from backend.transfer.format import read_chunks
    from instachat_cli.runtime.stdin_messages import size

    line_count = 0
    with Progress("lines", size(source.fileno()), typed=source.isatty()) as progress:
        for chunk in read_chunks(source.read):
            for fault in work.process(chunk):
                on_fault(fault)
            if was_interrupted():
                raise KeyboardInterrupt
            line_count += len(chunk.lines)
            progress.update(line_count, chunk.read)
    if not line_count:
        stderr.note("the input was empty")


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
    """Such as “1 application, 2 chats, 3 messages; 4 lines already existed”."""
    parts = [
        counted(count, noun)
        for count, noun in [
            (counts.applications, "application"),
            (counts.chats, "chat"),
            (counts.messages, "message"),
        ]
        if count
    ]
    sentence = ", ".join(parts) or "nothing"
    if counts.skipped:
        sentence += f"; {counted(counts.skipped, 'line')} already existed"
    return sentence
