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

from backend.domain.errors import Invalid
from instachat_cli.console.options import Format
from instachat_cli.console.stderr import stderr, visible
from instachat_cli.console.wrap import wrap_for

Body = dict[str, Any]
Emit = Callable[[Body], None]

TABLE_PAGE_ROWS = 500  # rows of a table that are laid out together
MAX_TERMINAL_ROWS = 50  # of a list that no option limits

_encode = json.JSONEncoder(ensure_ascii=False).encode
# Valid inside JSON, but terminals obey some of them and line readers take others for the end of a line.
_UNSAFE = "[\x7f-\x9f\u2028\u2029\ud800-\udfff]"


def dumps(body: Body) -> str:
    """A body as one line of JSON."""
    line = _encode(body)
    if line.isascii():
        return line.replace("\x7f", "\\u007f")
    return re.sub(_UNSAFE, lambda found: f"\\u{ord(found.group()):04x}", line)


class Verdict(NamedTuple):
    """What a status amounts to: a severity (`ok`, `unknown`, `warning`, `error`), a sentence, what to do."""

    severity: str
    sentence: str
    advice: Sequence[str]


class StatusView(NamedTuple):
    """A status at one moment: the JSON body, and the labelled lines of its table, below the verdict."""

    body: Body
    shown: dict[str, str]
    verdict: Verdict | None = None


class Printer:
    """Prints in the requested format, or in the default one for the kind of data and standard output.

    With `quiet`, prints only the token or the number of each item.
    """

    def __init__(self, requested: Format | None, *, quiet: bool = False) -> None:
        """Raises Invalid for a format and `quiet` together."""
        if quiet and requested is not None:
            raise Invalid("-q prints no format: leave out -o or -q")
        self._requested = requested
        self._quiet = quiet

    def one(self, body: Body, shown: Sequence[str] | None = None) -> None:
        """Print a single item; `shown` names the fields of its record, by default all of them."""
        self.view(StatusView(body, {name: body[name] for name in shown or body}))

    def outcome(self, body: Body, sentence: str) -> None:
        """Print what a command has done: a sentence as a table, else the body as JSON."""
        if self._quiet:
            _write_name(body)
        else:
            table = self._format(Format.JSON) is Format.TABLE
            _write((_shown(sentence) if table else dumps(body)) + "\n")
        sys.stdout.flush()

    def prose(self, body: Body, lines: Iterable[str]) -> None:
        """Print a single item whose table is these lines of text."""
        if self._is_table(body):
            for line in lines:
                _write(visible(line) + "\n")

    def report(
        self, body: Body, lines: Iterable[str], rows: Sequence[Body], columns: Sequence[str]
    ) -> None:
        """Print a single item whose table is these lines of text, above a table of rows."""
        if self._is_table(body):
            from instachat_cli.console import tables

            tables.print_lines(lines)
            if rows:
                tables.print_page(rows, columns, header=True)

    def view(self, view: StatusView) -> None:
        """Print a status."""
        if self._is_table(view.body):
            from instachat_cli.console import tables

            tables.print_record(view.shown, view.verdict)

    def watch(self, views: Iterable[StatusView]) -> None:
        """Print a status repeatedly, as JSON lines or as a table that is redrawn in place.

        JSON is JSON lines here, too: an array would never end.
        """
        if self._format(Format.JSONL) is Format.TABLE:
            from instachat_cli.console import tables

            tables.watch((view.shown, view.verdict) for view in views)
            return
        for view in views:
            _write(dumps(view.body) + "\n")
            sys.stdout.flush()

    def many(
        self,
        bodies: Iterable[Body],
        columns: Sequence[str],
        empty: str = "nothing",
        *,
        cut: str | None = None,
    ) -> None:
        """Print a list. `columns` names the fields that a table shows; `empty` is noted for an empty one.

        With `cut`, a table on a terminal ends after MAX_TERMINAL_ROWS items, and `cut` is noted if there are
        more: it says how to list them.
        """
        if not self._quiet and self._format(Format.JSONL) is Format.TABLE:
            from instachat_cli.console import tables

            count = 0
            rows = iter(bodies)
            is_cut = cut is not None and sys.stdout.isatty()
            shown = islice(rows, MAX_TERMINAL_ROWS) if is_cut else rows
            while page := list(islice(shown, TABLE_PAGE_ROWS)):
                tables.print_page(page, columns, header=count == 0)
                count += len(page)
            if not count:
                stderr.note(empty)
            elif is_cut and next(rows, None) is not None:
                stderr.note(f"these are the first {count}; {cut}")
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
            if self._quiet:
                _write_name(body)
            elif format_ is Format.JSON:
                _write(("," if opened else "[") + "\n  " + dumps(body))
            elif format_ is Format.TABLE and sentence:
                _write(_shown(sentence(body)) + "\n")
            else:
                _write(dumps(body) + "\n")
            opened = True
            if flush:
                sys.stdout.flush()

        try:
            yield emit
            if format_ is Format.JSON and not (opened or self._quiet):
                _write("[]\n")
        finally:
            if format_ is Format.JSON and opened and not self._quiet:
                _write("\n]\n")

    def _is_table(self, body: Body) -> bool:
        """Whether a single item is shown as a table; if not, print its body."""
        if self._quiet:
            _write_name(body)
            return False
        if self._format(Format.JSON) is Format.TABLE:
            return True
        _write(dumps(body) + "\n")
        return False

    def _format(self, otherwise: Format) -> Format:
        if self._requested is not None:
            return self._requested
        return Format.TABLE if sys.stdout.isatty() else otherwise


def _write_name(body: Body) -> None:
    """Print what names an item, or each of a range of items: a token or numbers."""
    if "first" in body:
        for number in range(body["first"], body["last"] + 1):
            _write(f"{number}\n")
    else:
        _write(f"{body['token'] if 'token' in body else body['number']}\n")


def _shown(sentence: str) -> str:
    """A sentence for standard output: on a terminal no line breaks within a word."""
    return wrap_for(sys.stdout, visible(sentence))


def _write(text: str) -> None:
    sys.stdout.write(text)
