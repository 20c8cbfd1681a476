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


class WaitStage(StrEnum):
    """What `--wait` waits for."""

    STORED = "stored"
    SEARCHABLE = "searchable"


def parse_integer(value: str | int) -> int:
    """A whole number in plain digits; `1e3`, `1.0`, `1_000` and other scripts' digits are none."""
    if isinstance(value, int):
        return value
    if not re.fullmatch(r"[+-]?[0-9]{1,1000}", value):
        raise typer.BadParameter(f"{value[:40]!r} is not a whole number")
    return int(value)


def _check_minimum(minimum: int, value: int | None, name: str) -> int | None:
    if value is not None and value < minimum:
        raise Invalid(f"{name} is {value}: it has to be at least {minimum}")
    return value


def _check_count(value: int) -> int:
    from backend.domain.model import MAX_NUMBER

    if value > MAX_NUMBER:
        raise Invalid("--count is larger than any number that can be given")
    return _check_minimum(1, value, "--count") or 1


def _check_limit(value: int | None) -> int | None:
    return _check_minimum(1, value, "--limit")


def _check_after(value: int) -> int:
    from backend.domain.model import MAX_NUMBER

    # Beyond the highest number there is nothing, and SQL's numbers end not far from there.
    return min(_check_minimum(0, value, "--after") or 0, MAX_NUMBER)


def _check_timeout(value: float) -> float:
    if not 0 <= value < 1e9:
        raise Invalid(f"--timeout is {value}: it has to be a number of seconds, 0 or more")
    return value


_DURATION = re.compile(r"([0-9]{1,9})(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def parse_duration(value: str | int) -> int:
    """A time in seconds: `90s`, `15m`, `1h`, `2d`."""
    if isinstance(value, int):
        return value
    found = _DURATION.fullmatch(value)
    if not found:
        raise typer.BadParameter(f"{value[:40]!r} is no duration such as 90s, 15m, 1h or 2d")
    return int(found[1]) * _SECONDS[found[2]]


Token = Annotated[str, typer.Argument(metavar="TOKEN", help="The application's token.")]
ChatNumber = Annotated[
    int, typer.Argument(metavar="CHAT", help="The chat's number.", parser=parse_integer)
]
MessageNumber = Annotated[
    int, typer.Argument(metavar="N", help="The message's number.", parser=parse_integer)
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
        metavar="N",
        help="Create so many, 1,000 at a time.",
        parser=parse_integer,
        callback=_check_count,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="At most so many; otherwise all.",
        parser=parse_integer,
        callback=_check_limit,
    ),
]
After = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Only what has a higher number.",
        parser=parse_integer,
        callback=_check_after,
    ),
]
Wait = Annotated[WaitStage | None, typer.Option(help="Return once that is so.", show_default=False)]
Timeout = Annotated[
    float,
    typer.Option(
        metavar="SECONDS", help="How long --wait waits; then exit 4.", callback=_check_timeout
    ),
]
Cascade = Annotated[bool, typer.Option("--cascade", help="Delete what belongs to it, too.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRunFlag = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; do nothing.")]
UntilInputEnds = Annotated[
    bool,
    typer.Option("--until-input-ends", hidden=True, help="End with standard input, a pipe."),
]
Host = Annotated[str | None, typer.Option(metavar="HOST", help="Where the HTTP API listens.")]
Port = Annotated[int | None, typer.Option(min=1, max=65_535, help="The port of the HTTP API.")]
