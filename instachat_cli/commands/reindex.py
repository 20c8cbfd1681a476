"""`instachat reindex`: the search index, built anew while searches go on."""

import time
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer

from backend.domain.errors import CheckFailed, Invalid, Unavailable
from instachat_cli.console.exit_codes import Interrupted
from instachat_cli.console.options import DryRunFlag, Output
from instachat_cli.console.output import Printer
from instachat_cli.console.progress import Progress
from instachat_cli.runtime.context import backend_context

if TYPE_CHECKING:
    from backend.bootstrap import Backend
    from backend.search.reindex import Reindexer

Resume = Annotated[bool, typer.Option("--resume", help="Go on with one that was interrupted.")]
Rollback = Annotated[
    bool, typer.Option("--rollback", help="Search the index before this one; loses nothing.")
]
Check = Annotated[
    bool, typer.Option("--check", help="Compare the index with the messages; 4 if it differs.")
]
Abort = Annotated[bool, typer.Option("--abort", help="Remove what an interrupted one has built.")]


def reindex(
    resume: Resume = False,
    rollback: Rollback = False,
    check: Check = False,
    abort: Abort = False,
    dry_run: DryRunFlag = False,
    output: Output = None,
) -> None:
    """Build the search index anew, while searches and changes go on.

    $ instachat reindex
    $ instachat reindex --check

    Searches read the old index until the new one holds every message; then they turn to it from one moment
    to the next. The old one stays, and is kept up to date, for --rollback. One runs at a time. Where
    PostgreSQL searches there is nothing to build.
    """
    if resume + rollback + check + abort > 1:
        raise Invalid("--resume, --rollback, --check and --abort are four different things to do")
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
            printer.outcome({"index": name}, f"rolled back: searches read {name} now")
        elif abort:
            removed = core.reindexer.abort()
            outcome = f"removed {removed}" if removed else "nothing to remove: none was interrupted"
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
                f"interrupted{steps.position()}; `instachat reindex --resume` goes on with it,"
                " `instachat reindex --abort` removes what was built"
            ) from None
        except Unavailable as error:
            error.message += steps.position()
            if steps.position():
                error.hint = f"{error.hint}; then `instachat reindex --resume` goes on with it"
            raise
    if built is None:
        printer.outcome(
            {"index": None, "messages": 0, "previous": None},
            "nothing to resume: no reindex was interrupted; `instachat reindex` begins one",
        )
        return
    seconds = time.monotonic() - since
    hint = "; the one before is kept for `instachat reindex --rollback`" if built.previous else ""
    printer.outcome(
        {"index": built.name, "messages": built.messages, "previous": built.previous},
        f"reindexed {built.messages:,} messages in {seconds:,.1f} s: searches read {built.name}{hint}",
    )


def _check(reindexer: "Reindexer", printer: Printer) -> None:
    with _StepProgress() as steps:
        found = reindexer.check(progress=steps.update)
    outcome = "differs" if found.faults else "fits"
    printer.outcome(
        {"index": found.name, "messages": found.messages, "faults": found.faults},
        f"{found.name or 'no index'}, {found.messages:,} messages: {outcome}",
    )
    if found.faults:
        raise CheckFailed(
            f"the search index does not fit: {'; '.join(found.faults)}",
            "`instachat reindex` builds another, while searches go on",
        )


def _print_plan(
    reindexer: "Reindexer", printer: Printer, *, resume: bool, rollback: bool, abort: bool
) -> None:
    """Say what would be done."""
    now = reindexer.state()
    if rollback:
        outcome = (
            f"have searches read {now.previous}" if now.previous else "refuse: there is none before"
        )
    elif abort:
        outcome = (
            f"remove {now.building}" if now.building else "remove nothing: none was interrupted"
        )
    elif now.building and not resume:
        outcome = f"refuse: {now.building} is being built, or its reindex was interrupted"
    elif now.building:
        outcome = f"copy the {now.messages - now.copied:,} messages left into {now.building}"
    elif resume and now.live:
        outcome = "do nothing: none was interrupted"
    else:
        outcome = f"copy {now.messages:,} messages into another index, and have searches read that"
    printer.outcome(now._asdict(), f"would {outcome}; nothing was done")


def _without_elasticsearch(core: "Backend", printer: Printer, *, abort: bool) -> None:
    """Nothing to build; changes are no longer noted for an Elasticsearch of before, if that is asked for."""
    from backend.search.reindex import disable_publishing

    if abort and disable_publishing(core.database):
        outcome = (
            "changes are no longer noted for Elasticsearch; `instachat reindex` begins anew with it"
        )
    else:
        outcome = "nothing to build: PostgreSQL searches (INSTACHAT_ELASTICSEARCH_URL is not set)"
    printer.outcome({"index": None, "messages": 0, "previous": None}, outcome)


class _StepProgress:
    """A progress bar for each step; it starts when the step does."""

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
        """So many messages are through that step, such as `copied`, of so many."""
        if step != self._step or self._progress is None:
            self.__exit__(None, None, None)
            self._step, self._progress = step, Progress(f"messages {step}", total)
            self._progress.__enter__()
        self._done, self._total = done, total
        self._progress.update(done, done)

    def position(self) -> str:
        """How far it has come, such as ` (2,500 of 9,000 messages copied)`; nothing before the first step."""
        if not self._step:
            return ""
        return f" ({self._done:,} of {self._total:,} messages {self._step})"
