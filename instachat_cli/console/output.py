"""The printer: all data that a command prints goes through here, to standard output.

A *list* is streamed, in memory that does not grow with it: JSON lines, one JSON array, or a table laid
page by page. A *single thing* is one JSON object, or a short record. How a field looks in a table is
decided by its name, once, in `tables`.
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

TABLE_PAGE_ROWS = 500  # rows of a table that are laid at once

_encode = json.JSONEncoder(ensure_ascii=False).encode
# Valid inside JSON, and yet a terminal obeys some of them and a reader of lines takes others for an end.
_UNSAFE = "[\x7f-\x9f\u2028\u2029\ud800-\udfff]"


def dumps(body: Body) -> str:
    """A body as one line of JSON."""
    line = _encode(body)
    if line.isascii():
        return line.replace("\x7f", "\\u007f")
    return re.sub(_UNSAFE, lambda found: f"\\u{ord(found.group()):04x}", line)


class StatusView(NamedTuple):
    """What is so at one moment: for programs a body, for people labelled lines."""

    body: Body
    shown: dict[str, str]


class Printer:
    """Prints in the format that was asked for; else as the kind of data and the terminal suggest."""

    def __init__(self, requested: Format | None) -> None:
        self._requested = requested

    def one(self, body: Body, shown: Sequence[str] | None = None) -> None:
        """Print a single thing; `shown` names the fields of its record, otherwise all of them."""
        if self._format(Format.JSON) is not Format.TABLE:
            _write(dumps(body) + "\n")
            return
        from instachat_cli.console import tables

        tables.print_record({name: body[name] for name in shown or body})

    def outcome(self, body: Body, sentence: str) -> None:
        """Print what a command has done: for people a sentence, for programs a body."""
        table = self._format(Format.JSON) is Format.TABLE
        _write((visible(sentence) if table else dumps(body)) + "\n")
        sys.stdout.flush()

    def prose(self, body: Body, lines: Iterable[str]) -> None:
        """Print a single thing that people read as a text of their own."""
        if self._format(Format.JSON) is not Format.TABLE:
            _write(dumps(body) + "\n")
            return
        for line in lines:
            _write(visible(line) + "\n")

    def view(self, view: StatusView) -> None:
        """Print how things are now."""
        if self._format(Format.JSON) is not Format.TABLE:
            _write(dumps(view.body) + "\n")
            return
        from instachat_cli.console import tables

        tables.print_record(view.shown)

    def watch(self, views: Iterable[StatusView]) -> None:
        """Print how things are again and again: a list, or on a terminal in one place."""
        if self._format(Format.JSONL) is Format.TABLE:
            from instachat_cli.console import tables

            tables.watch(view.shown for view in views)
            return
        with self.stream(flush=True) as emit:
            for view in views:
                emit(view.body)

    def many(self, bodies: Iterable[Body], columns: Sequence[str], empty: str = "nothing") -> None:
        """Print a list; `columns` names the fields that fit in a table, which says `empty` if it is empty."""
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
        """Print a list as it comes about: call what this gives with each body.

        For people each becomes a `sentence`. An array is closed whatever happens, so that what came
        before a failure can be read; of a list that failed at its beginning nothing is printed.
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

    def _format(self, otherwise: Format) -> Format:
        if self._requested is not None:
            return self._requested
        return Format.TABLE if sys.stdout.isatty() else otherwise


def _write(text: str) -> None:
    sys.stdout.write(text)
