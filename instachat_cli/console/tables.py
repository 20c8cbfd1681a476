"""Tables for lists and records for single items. Imported late, because Rich is heavy.

Tables have few columns, so that 80 columns suffice. What users write is last: a terminal that reorders a
right-to-left text leaves the numbers and times before it where they are. Texts pass through `visible`, so
that no control character reaches the terminal.
"""

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from instachat_cli.console.output import Body, Verdict
from instachat_cli.console.stderr import visible


class Column(NamedTuple):
    """How a table shows a field."""

    title: str
    justify: Literal["left", "right"] = "left"
    min_width: int | None = None  # so that the pages of a long list align
    fold: bool = False  # wrapped over several lines instead of cut to one
    truncate: bool = False  # cut if the table would be too wide; the last such column is cut last


COLUMNS = {
    "token": Column("TOKEN", min_width=32),
    "name": Column("NAME", truncate=True),
    "number": Column("NUMBER", "right", 6),
    "chats_count": Column("CHATS", "right", 5),
    "messages_count": Column("MESSAGES", "right", 8),
    "text": Column("TEXT", truncate=True),
    "setting": Column("SETTING", min_width=31),
    "value": Column("VALUE", fold=True),
    "origin": Column("ORIGIN", min_width=11),
    "id": Column("ID"),
    "kind": Column("KIND", min_width=7),
    "chat": Column("CHAT", "right", 4),
    "detail": Column("WHAT DIFFERS", fold=True),
    "reason": Column("REASON", fold=True),
    "event": Column("EVENT", fold=True),
    "severity": Column("", min_width=7),
    "check": Column("CHECK", min_width=23),
    "message": Column("MESSAGE", fold=True),
    "actor": Column("WHO", fold=True),
    "time": Column("TIME (UTC)", min_width=23),
    "about": Column("ABOUT", fold=True),
    "took": Column("TOOK", "right", 6),
    "target": Column("TARGET", fold=True),
    "retention": Column("KEPT"),
    "limit": Column("LIMIT"),
    "change": Column("CHANGE", "right", 7),
    "load": Column("LOAD", fold=True),
    "what": Column("WHAT", fold=True),
}


def _column(name: str) -> Column:
    """A field that `COLUMNS` does not list is headed by its name, a time also by its zone."""
    if name in COLUMNS:
        return COLUMNS[name]
    if name.endswith("_at"):
        return Column(f"{_heading(name.removesuffix('_at'))} (UTC)", min_width=19)
    return Column(_heading(name))


def _heading(name: str) -> str:
    return name.replace("_", " ").upper()


COLOURS = {"ok": "green", "warning": "yellow", "error": "bold red", "unknown": "magenta"}
SIGNS = {"ok": "✓", "warning": "!", "error": "✗", "unknown": "?"}  # as on the status page
MIN_FOLD_WIDTH, MIN_TRUNCATE_WIDTH = 12, 8  # a text in a narrower column of a table is unreadable
# In a narrower terminal the columns of a record are closer, to hold a whole token.
WIDE_RECORD_WIDTH = 60
CONTEXT_CHARACTERS = 12  # characters before the first match, when a text is too long for its line


def print_page(rows: Sequence[Body], columns: Sequence[str], *, header: bool) -> None:
    """Print a page of a list as table rows; the first page has the header.

    On a terminal that is too narrow for the table, each row becomes a record.
    """
    console = Console(highlight=False, soft_wrap=False)
    words = _widest_words(console, rows, columns)
    if console.width < _min_table_width(columns, words):
        for at, row in enumerate(rows):
            if at or not header:
                _print(console, "")
            fields = (
                (name, _format_cell(console, name, row).append(_time_zone_suffix(name, row[name])))
                for name in columns
            )
            _print(console, _grid(console, fields))
        return
    table = Table(box=None, show_header=header, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        column = _column(name)
        table.add_column(
            column.title,
            justify=column.justify,
            min_width=max(column.min_width or 0, words.get(name, 0)) or None,
            no_wrap=not column.fold,
            overflow="fold" if column.fold else "ellipsis",
            header_style="bold",
        )
    for row in rows:
        table.add_row(*(_format_cell(console, name, row) for name in columns))
    _fit(console, table, [at for at, name in enumerate(columns) if _column(name).truncate])
    _print(console, table)


def _fit(console: Console, table: Table, truncated: Sequence[int]) -> None:
    """Cut the columns at these positions if the table is too wide: the last one takes the remaining width."""
    unbounded = console.options.update(max_width=1 << 20)
    if truncated and console.measure(table, options=unbounded).maximum > console.width:
        for at in truncated[:-1]:
            table.columns[at].max_width = max(MIN_TRUNCATE_WIDTH, console.width // 6)
        # Rich cuts only a column with a ratio if the table expands; otherwise it cuts all of them.
        table.columns[truncated[-1]].ratio = 1
        table.expand = True


def print_lines(lines: Iterable[str]) -> None:
    """Print lines of text, wrapped between words; the first one in bold."""
    console = Console(highlight=False)
    for at, line in enumerate(lines):
        _print(console, Text(visible(line), style="" if at else "bold"))


def print_record(fields: Body, verdict: Verdict | None = None) -> None:
    """Print a single item, one field per line, below the verdict on it."""
    console = Console(highlight=False)
    _print(console, _status(console, fields, verdict))


def watch(records: Iterable[tuple[Body, Verdict | None]]) -> None:
    """Redraw records in place on a terminal; print them one after another elsewhere."""
    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        for fields, verdict in records:
            if console.is_terminal:
                live.update(_status(console, fields, verdict), refresh=True)
            else:
                console.print(_status(console, fields, verdict), "", sep="\n")


def _status(console: Console, fields: Body, verdict: Verdict | None) -> RenderableType:
    record = _record(console, fields)
    if verdict is None:
        return record
    style = COLOURS[verdict.severity]
    lines = [
        Text(visible(f"{SIGNS[verdict.severity]} {verdict.sentence}"), style=f"bold {style}"),
        *(Text(visible(f"→ {advice}")) for advice in verdict.advice),
        Text(),
    ]
    return Group(*lines, record)


def _print(console: Console, content: RenderableType) -> None:
    """Print through `sys.stdout`, which a progress bar redirects to keep its own line intact."""
    with console.capture() as captured:
        console.print(content)
    sys.stdout.write(captured.get())


def _widest_words(console: Console, rows: Sequence[Body], columns: Sequence[str]) -> dict[str, int]:
    """The width of the widest word of each column that is wrapped: no line may break within a word."""
    wrapped = [name for name in columns if _column(name).fold]
    return {
        name: max(
            (_widest_word(console, _format_cell(console, name, row)) for row in rows), default=0
        )
        for name in wrapped
    }


def _widest_word(console: Console, text: Text) -> int:
    """The width of the widest word that fits into the terminal; a wider one is broken wherever it stands.

    Scripts that are written without spaces are broken anywhere: a wide character ends a word.
    """
    words = [word for word in text.plain.split() if cell_len(word) == len(word)]
    return max((len(word) for word in words if len(word) <= console.width), default=0)


def _min_table_width(columns: Sequence[str], words: dict[str, int]) -> int:
    """The width of the narrowest terminal that can show a table of these columns, with these widest words."""
    shown = [(name, _column(name)) for name in columns]
    widths = (
        max(
            column.min_width or 0,
            len(column.title),
            max(MIN_FOLD_WIDTH, words.get(name, 0)) if column.fold else 0,
            MIN_TRUNCATE_WIDTH if column.truncate else 0,
        )
        for name, column in shown
    )
    return sum(widths) + 2 * (len(shown) - 1)


def _record(console: Console, fields: Body) -> RenderableType:
    return _grid(console, ((name, _value(name, value)) for name, value in fields.items()))


def _value(name: str, value: Any) -> Text:
    lines = value.split("\n") if name == "text" else [value]
    return Text("\n".join(_format_value(name, line) for line in lines)).append(
        _time_zone_suffix(name, value)
    )


def _grid(console: Console, fields: Iterable[tuple[str, Text]]) -> RenderableType:
    """A record: one field per line; below its title if a word of it is too wide to stand beside it."""
    gap = 2 if console.width >= WIDE_RECORD_WIDTH else 1
    titled = [(_title(name), value) for name, value in fields]
    title_width = max((cell_len(title) for title, _ in titled), default=0)
    parts: list[RenderableType] = []
    for title, value in titled:
        if title_width + gap + _widest_word(console, value) > console.width:
            parts += [Text(title, style="bold"), value]
            continue
        line = Table.grid(padding=(0, gap, 0, 0))
        line.add_column(style="bold", no_wrap=True, width=title_width)
        line.add_column(overflow="fold")
        line.add_row(title, value)
        parts.append(line)
    return Group(*parts)


def _title(name: str) -> str:
    has_title = name in COLUMNS or name.endswith("_at")
    title = _column(name).title.partition(" (")[0].lower() if has_title else ""
    return title or name


def _format_cell(console: Console, name: str, row: Body) -> Text:
    value = row[name]
    if name == "severity":
        return Text(value, style=COLOURS[value])
    if name == "message":
        return _two_lines(row["message"], row["remedy"] and f"→ {row['remedy']}", "bold")
    if name == "result" and "counts" in row:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in row["counts"].items())
        return _two_lines(row["result"], counts, "dim")
    if name == "value":
        return _two_lines(_format_value(name, value), row["meaning"], "dim")
    text = Text(_format_value(name, value))
    if name == "text" and "highlight" in row:
        return _show_matches(console, text, row["highlight"])
    return text[: console.width] if not _column(name).fold else text


def _format_value(name: str, value: Any) -> str:
    if value is None:
        return "(unset)" if name == "value" else "-"
    if name.endswith("_at"):
        return f"{datetime.fromisoformat(value):%Y-%m-%d %H:%M:%S}"
    return visible(str(value))


def _time_zone_suffix(name: str, value: Any) -> str:
    """The time zone of a time, which a table names in the title of the column; nothing for no time."""
    return " UTC" if name.endswith("_at") and value is not None else ""


def _two_lines(first: str, second: str | None, style: str) -> Text:
    """`second` in its style on a line below `first`."""
    text = Text(visible(first))
    return text.append(f"\n{visible(second)}", style=style) if second else text


def mark_matches(text: Text, places: Sequence[Sequence[int]], *, styled: bool) -> Text:
    """The text with its matches, each a start and an end, marked: by a style, or by brackets."""
    if styled:
        for start, end in places:
            text.stylize("bold reverse", start, end)
        return text
    for start, end in reversed(places):
        text = text[:start] + Text("[") + text[start:end] + Text("]") + text[end:]
    return text


def _show_matches(console: Console, text: Text, places: list[list[int]]) -> Text:
    """The text with its matches marked, cut at the front if the first match would not be visible."""
    text = mark_matches(text, places, styled=console.is_terminal)
    first = places[0][0] if places else 0
    if (
        first > CONTEXT_CHARACTERS
        and cell_len(text.plain[: first + CONTEXT_CHARACTERS]) > console.width // 2
    ):
        text = Text("…") + text[first - CONTEXT_CHARACTERS :]
    return text[: console.width]
