"""Rebuild the search index without downtime."""

import time
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer

from backend.domain.errors import CheckFailed, Invalid, Unavailable
from backend.domain.plurals import counted
from instachat_cli.console.exit_codes import Interrupted
from instachat_cli.console.invocation import audited_without, note_count
from instachat_cli.console.options import DryRunFlag, Output
from instachat_cli.console.output import Printer
from instachat_cli.console.progress import Progress
from instachat_cli.runtime.context import backend_context

if TYPE_CHECKING:
    from backend.bootstrap import Backend
    from backend.search.reindex import Reindexer

Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted reindex.")]
Rollback = Annotated[
    bool,
    typer.Option("--rollback", help="Switch searches back to the previous index. Nothing is lost."),
]
Check = Annotated[
    bool,
    typer.Option("--check", help="Compare the index with the messages; exit 4 if they differ."),
]
Abort = Annotated[
    bool, typer.Option("--abort", help="Delete the partial index of an interrupted reindex.")
]


@audited_without("check")
def reindex(
    resume: Resume = False,
    rollback: Rollback = False,
    check: Check = False,
    abort: Abort = False,
    dry_run: DryRunFlag = False,
    output: Output = None,
) -> None:
    """Rebuild the search index without downtime.

    $ instachat reindex
    $ instachat reindex --check

    Searches use the old index until the new one holds every message; the alias is then swapped atomically.
    The old index is kept up to date for --rollback. Only one reindex runs at a time. Without Elasticsearch
    there is nothing to build.
    """
    if resume + rollback + check + abort > 1:
        raise Invalid("--resume, --rollback, --check and --abort exclude each other")
    printer = Printer(output)
    with backend_context() as core:
        if core.reindexer is None:
            _without_elasticsearch(core, printer, abort=abort and not dry_run)
        elif check:
            _check(core.reindexer, printer)
        elif dry_run:
            _print_plan(core.reindexer, printer, resume=resume, rollback=rollback, abort=abort)
        elif rollback:
            name = core.reindexer.rollback()
            printer.outcome({"index": name}, f"rolled back: searches now use {name}")
        elif abort:
            removed = core.reindexer.abort()
            outcome = (
                f"removed {removed}" if removed else "nothing to remove: no reindex was interrupted"
            )
            printer.outcome({"removed": removed}, outcome)
        else:
            _build(core.reindexer, printer, resume=resume)


def _build(reindexer: "Reindexer", printer: Printer, *, resume: bool) -> None:
    since = time.monotonic()
    with _StepProgress() as steps:
        try:
            built = reindexer.build(resume=resume, start_new=not resume, progress=steps.update)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted{steps.position()}; `instachat reindex --resume` continues,"
                " `instachat reindex --abort` deletes the partial index"
            ) from None
        except Unavailable as error:
            error.message += steps.position()
            if steps.position():
                error.hint = f"{error.hint}; then `instachat reindex --resume` continues"
            raise
    if built is None:
        printer.outcome(
            {"index": None, "messages": 0, "previous": None},
            "nothing to resume: no reindex was interrupted; `instachat reindex` starts one",
        )
        return
    seconds = time.monotonic() - since
    note_count("messages", built.messages)
    hint = (
        "; the previous index is kept for `instachat reindex --rollback`" if built.previous else ""
    )
    printer.outcome(
        {"index": built.name, "messages": built.messages, "previous": built.previous},
        f"reindexed {counted(built.messages, 'message')} in {seconds:,.1f} s: searches now use {built.name}"
        f"{hint}",
    )


def _check(reindexer: "Reindexer", printer: Printer) -> None:
    with _StepProgress() as steps:
        found = reindexer.check(progress=steps.update)
    outcome = "differs" if found.faults else "matches"
    printer.outcome(
        {"index": found.name, "messages": found.messages, "faults": found.faults},
        f"{found.name or 'no index'}, {counted(found.messages, 'message')}: {outcome}",
    )
    if found.faults:
        raise CheckFailed(
            f"the search index differs: {'; '.join(found.faults)}",
            "`instachat reindex` rebuilds it without downtime",
        )


def _print_plan(
    reindexer: "Reindexer", printer: Printer, *, resume: bool, rollback: bool, abort: bool
) -> None:
    """Print what would be done."""
    now = reindexer.state()
    if rollback:
        outcome = (
            f"switch searches to {now.previous}"
            if now.previous
            else "fail: there is no previous index"
        )
    elif abort:
        outcome = (
            f"remove {now.building}"
            if now.building
            else "remove nothing: no reindex was interrupted"
        )
    elif now.building and not resume:
        outcome = f"fail: {now.building} is being built, or its reindex was interrupted"
    elif now.building:
        outcome = (
            f"copy {counted(now.messages - now.copied, 'remaining message')} into {now.building}"
        )
    elif resume and now.live:
        outcome = "do nothing: no reindex was interrupted"
    else:
        outcome = (
            f"copy {counted(now.messages, 'message')} into a new index and swap the alias to it"
        )
    printer.outcome(now._asdict(), f"would {outcome}; nothing was done")


def _without_elasticsearch(core: "Backend", printer: Printer, *, abort: bool) -> None:
    """Build nothing. With `abort`, stop queueing changes for an Elasticsearch that was configured earlier."""
    from backend.search.reindex import disable_publishing

    if abort and disable_publishing(core.database):
        outcome = "changes are no longer queued for Elasticsearch; `instachat reindex` starts from scratch"
    else:
        outcome = "nothing to build: PostgreSQL searches (INSTACHAT_ELASTICSEARCH_URL is not set)"
    printer.outcome({"index": None, "messages": 0, "previous": None}, outcome)


class _StepProgress:
    """One progress bar per step."""

    def __init__(self) -> None:
        self._step = ""
        self._progress: Progress | None = None
        self._done = self._total = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress:
            self._progress.__exit__(kind, error, traceback)

    def update(self, step: str, done: int, total: int) -> None:
        """`done` of `total` messages have passed the step, such as `copied`."""
        if step != self._step or self._progress is None:
            self.__exit__(None, None, None)
            self._step, self._progress = step, Progress(f"messages {step}", total)
            self._progress.__enter__()
        self._done, self._total = done, total
        self._progress.update(done, done)

    def position(self) -> str:
        """The progress, such as ` (2,500 of 9,000 messages copied)`; empty before the first step."""
        if not self._step:
            return ""
        return f" ({self._done:,} of {counted(self._total, 'message')} {self._step})"
