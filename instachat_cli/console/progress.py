"""A progress bar on standard error, if that is a terminal: count, rate, remaining time."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import rich.progress

MIN_UPDATE_SECONDS = 0.1
MIN_RATE_WIDTH = 60  # columns; a narrower terminal has no room for the rate beside the bar


class Progress:
    """One line that is redrawn, and erased at the end."""

    def __init__(self, noun: str, total: int | None, *, typed: bool = False) -> None:
        """With `typed`, the source is typed on the terminal: a bar would overwrite it, so there is none."""
        self._noun = noun
        self._total = total
        self._typed = typed
        self._bar: rich.progress.Progress | None = None
        self._started_at = time.monotonic()
        self._drawn_at = 0.0

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and not self._typed:
            self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, read: int) -> None:
        """`done` items are done; `read` of the total has been read from the source."""
        now = time.monotonic()
        if self._bar is None or now - self._drawn_at < MIN_UPDATE_SECONDS:
            return
        self._drawn_at = now
        rate = done / max(now - self._started_at, 0.001)
        self._bar.update(self._task, completed=read, done=f"{done:,}", rate=f"{rate:,.0f}")

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
        from rich.table import Column

        # Data that is printed while the bar is shown passes through this console, which must not change it.
        console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
        time_column = TimeRemainingColumn if self._total else TimeElapsedColumn
        rate = [TextColumn("{task.fields[rate]}/s")] if console.width >= MIN_RATE_WIDTH else []
        self._bar = Bar(
            TextColumn("{task.fields[done]} " + self._noun),
            BarColumn(24),  # the only column that shrinks
            *rate,
            time_column(table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # otherwise data would go to standard error
        )
        self._task = self._bar.add_task("", total=self._total, done="0", rate="0")
        self._bar.start()
