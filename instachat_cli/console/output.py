"""The printer: all data that a command prints to standard output goes through it.

A *list* is streamed in constant memory: as JSON lines, as one JSON array, or as a table laid out page by
page. A *single item* is one JSON object, or a short record. `tables` decides by a field's name how it is
shown.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

from instachat_cli.console.options import Format
from instachat_cli.console.stderr import stderr, visible

Body = dict[str, Any]
Emit = Callable[[Body], None]

TABLE_PAGE_ROWS = 500  # rows of a table that are laid out together

_encode = json.JSONEncoder(ensure_ascii=False).encode
# Valid inside JSON, but terminals obey some of them and line readers take others for the end of a line.
_UNSAFE = "[\x7f-\x9f\u2028\u2029\ud800-\udfff]"


def dumps(body: Body) -> str:
    """A body as one line of JSON."""
    line = _encode(body)
    if line.isascii():
        return line.replace("\x7f", "\\u007f")
    return re.sub(_UNSAFE, lambda found: f"\\u{ord(found.group()):04x}", line)


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Such as “1 chat” and “2,000 chats”."""
    return f"{count:,} {noun if count == 1 else f'{noun}s' if plural is None else plural}"


class StatusView(NamedTuple):
    """A status at one moment: the JSON body, and the labelled lines of its table."""

    body: Body
    shown: dict[str, str]


class Printer:
    """Prints in the requested format, or in the default one for the kind of data and standard output."""

    def __init__(self, requested: Format | None) -> None:
        self._requested = requested

    def one(self, body: Body, shown: Sequence[str] | None = None) -> None:
        """Print a single item; `shown` names the fields of its record, by default all of them."""
        self.view(StatusView(body, {name: body[name] for name in shown or body}))

    def outcome(self, body: Body, sentence: str) -> None:
        """Print what a command has done: a sentence as a table, else the body as JSON."""
        table = self._format(Format.JSON) is Format.TABLE
        _write((visible(sentence) if table else dumps(body)) + "\n")
        sys.stdout.flush()

    def prose(self, body: Body, lines: Iterable[str]) -> None:
        """Print a single item whose table is these lines of text."""
        if self._is_table(body):
            for line in lines:
                _write(visible(line) + "\n")

    def view(self, view: StatusView) -> None:
        """Print a status."""
        if self._is_table(view.body):
            from instachat_cli.console import tables

            tables.print_record(view.shown)

    def watch(self, views: Iterable[StatusView]) -> None:
        """Print a status repeatedly: as a list, or as a table that is redrawn in place."""
        if self._format(Format.JSONL) is Format.TABLE:
            from instachat_cli.console import tables

            tables.watch(view.shown for view in views)
            return
        with self.stream(flush=True) as emit:
            for view in views:
                emit(view.body)

    def many(self, bodies: Iterable[Body], columns: Sequence[str], empty: str = "nothing") -> None:
        """Print a list. `columns` names the fields that a table shows; `empty` is noted for an empty one."""
        if self._format(Format.JSONL) is Format.TABLE:
            from instachat_cli.console import tables

            count = 0
            rows = iter(bodies)
            while page := list(islice(rows, TABLE_PAGE_ROWS)):
                tables.print_page(page, columns, header=count == 0)
                count += len(page)
            if not count:
                stderr.note(empty)
            return
        with self.stream() as emit:
            for body in bodies:
                emit(body)

    @contextmanager
    def stream(
        self, sentence: Callable[[Body], str] | None = None, *, flush: bool = False
    ) -> Iterator[Emit]:
        """Print a list as it is produced: yields a function to call with each body.

        As a table, each body becomes a `sentence`. A JSON array is always closed, so that the bodies before a
        failure can be parsed; if the first body fails, nothing is printed.
        """
        format_ = self._format(Format.JSONL)
        opened = False

        def emit(body: Body) -> None:
            nonlocal opened
            if format_ is Format.JSON:
                _write(("," if opened else "[") + "\n  " + dumps(body))
            elif format_ is Format.TABLE and sentence:
                _write(visible(sentence(body)) + "\n")
            else:
                _write(dumps(body) + "\n")
            opened = True
            if flush:
                sys.stdout.flush()

        try:
            yield emit
            if format_ is Format.JSON and not opened:
                _write("[]\n")
        finally:
            if format_ is Format.JSON and opened:
                _write("\n]\n")

    def _is_table(self, body: Body) -> bool:
        """Whether a single item is shown as a table; if not, print its body."""
        if self._format(Format.JSON) is Format.TABLE:
            return True
        _write(dumps(body) + "\n")
        return False

    def _format(self, otherwise: Format) -> Format:
        if self._requested is not None:
            return self._requested
        return Format.TABLE if sys.stdout.isatty() else otherwise


def _write(text: str) -> None:
    sys.stdout.write(text)
