"""Arguments and options that more than one command takes."""

import re
from enum import StrEnum
from typing import Annotated

import typer

from backend.domain.errors import Invalid


class Format(StrEnum):
    """How data is printed."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


class Until(StrEnum):
    """What `--wait` waits for."""

    STORED = "stored"
    SEARCHABLE = "searchable"


def whole(value: str | int) -> int:
    """A whole number in plain digits; `1e3`, `1.0`, `1_000` and other scripts' digits are none."""
    if isinstance(value, int):
        return value
    if not re.fullmatch(r"[+-]?[0-9]{1,1000}", value):
        raise typer.BadParameter(f"{value[:40]!r} is not a whole number")
    return int(value)


def _at_least(least: int, value: int | None, name: str) -> int | None:
    if value is not None and value < least:
        raise Invalid(f"{name} is {value}: it has to be at least {least}")
    return value


def _count(value: int) -> int:
    from backend.domain.model import MAX_NUMBER

    if value > MAX_NUMBER:
        raise Invalid("--count is larger than any number that can be given")
    return _at_least(1, value, "--count") or 1


def _limit(value: int | None) -> int | None:
    return _at_least(1, value, "--limit")


def _after(value: int) -> int:
    from backend.domain.model import MAX_NUMBER

    # Beyond the highest number there is nothing, and SQL's numbers end not far from there.
    return min(_at_least(0, value, "--after") or 0, MAX_NUMBER)


def _timeout(value: float) -> float:
    if not 0 <= value < 1e9:
        raise Invalid(f"--timeout is {value}: it has to be a number of seconds, 0 or more")
    return value


_DURATION = re.compile(r"([0-9]{1,9})(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def duration(value: str | int) -> int:
    """A time in seconds: `90s`, `15m`, `1h`, `2d`."""
    if isinstance(value, int):
        return value
    found = _DURATION.fullmatch(value)
    if not found:
        raise typer.BadParameter(f"{value[:40]!r} is no duration such as 90s, 15m, 1h or 2d")
    return int(found[1]) * _SECONDS[found[2]]


Token = Annotated[str, typer.Argument(metavar="TOKEN", help="The application's token.")]
ChatNumber = Annotated[int, typer.Argument(metavar="CHAT", help="The chat's number.", parser=whole)]
MessageNumber = Annotated[
    int, typer.Argument(metavar="N", help="The message's number.", parser=whole)
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="1 to 255 characters.")]

Output = Annotated[
    Format | None,
    typer.Option(
        "-o",
        "--output",
        help="How to print; otherwise a table on a terminal, else JSON lines for a list and JSON for"
        " a single thing.",
    ),
]
Count = Annotated[
    int,
    typer.Option(
        metavar="N", help="Create so many, 1,000 at a time.", parser=whole, callback=_count
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="At most so many; otherwise all.", parser=whole, callback=_limit
    ),
]
After = Annotated[
    int,
    typer.Option(metavar="N", help="Only what has a higher number.", parser=whole, callback=_after),
]
Wait = Annotated[Until | None, typer.Option(help="Return once that is so.", show_default=False)]
Timeout = Annotated[
    float,
    typer.Option(metavar="SECONDS", help="How long --wait waits; then exit 4.", callback=_timeout),
]
Cascade = Annotated[bool, typer.Option("--cascade", help="Delete what belongs to it, too.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; do nothing.")]
UntilInputEnds = Annotated[
    bool,
    typer.Option("--until-input-ends", hidden=True, help="End with standard input, a pipe."),
]
Host = Annotated[str | None, typer.Option(metavar="HOST", help="Where the HTTP API listens.")]
Port = Annotated[int | None, typer.Option(min=1, max=65_535, help="The port of the HTTP API.")]
