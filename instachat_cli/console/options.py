"""Arguments and options that more than one command takes."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

import typer

from backend.domain.errors import Invalid
from instachat_cli.console.suggestions import suggest_chats, suggest_tokens


class Format(StrEnum):
    """Format of printed data."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


class WaitStage(StrEnum):
    """What `--wait` waits for."""

    STORED = "stored"
    SEARCHABLE = "searchable"


def parse_integer(value: str | int) -> int:
    """A whole number in ASCII digits; rejects `1e3`, `1.0`, `1_000` and the digits of other scripts."""
    if isinstance(value, int):
        return value
    if not re.fullmatch(r"[+-]?[0-9]{1,1000}", value):
        raise typer.BadParameter(f"{value[:40]!r} is not a whole number")
    return int(value)


def _check_minimum(minimum: int, value: int | None, name: str) -> int | None:
    if value is not None and value < minimum:
        raise Invalid(f"{name} is {value}: it must be at least {minimum}")
    return value


def _check_count(value: int) -> int:
    from backend.domain.model import MAX_NUMBER

    if value > MAX_NUMBER:
        raise Invalid("--count exceeds the largest possible number")
    return _check_minimum(1, value, "--count") or 1


def _check_limit(value: int | None) -> int | None:
    return _check_minimum(1, value, "--limit")


def _check_after(value: int) -> int:
    from backend.domain.model import MAX_NUMBER

    # No item has a higher number, and SQL's integers end soon after it.
    return min(_check_minimum(0, value, "--after") or 0, MAX_NUMBER)


def _check_after_message(value: int | None) -> int | None:
    return None if value is None else _check_after(value)


def at_least_one(option: str) -> Callable[[int | None], int | None]:
    """The callback of an option that is a number of a message, or of messages."""

    def check(value: int | None) -> int | None:
        from backend.domain.model import MAX_NUMBER

        checked = _check_minimum(1, value, option)
        return None if checked is None else min(checked, MAX_NUMBER)

    return check


def _check_timeout(value: float) -> float:
    if not 0 <= value < 1e9:
        raise Invalid(f"--timeout is {value}: it must be a number of seconds, 0 or more")
    return value


_DURATION = re.compile(r"([0-9]{1,9})(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def parse_duration(value: str | int) -> int:
    """A duration such as `90s`, `15m`, `1h` or `2d`, in seconds."""
    if isinstance(value, int):
        return value
    match = _DURATION.fullmatch(value)
    if not match:
        raise typer.BadParameter(f"{value[:40]!r} is not a duration such as 90s, 15m, 1h or 2d")
    return int(match[1]) * _SECONDS[match[2]]


def parse_time(value: str | datetime) -> datetime:
    """A time as RFC 3339, or an age such as `2h`: that long ago."""
    from backend.domain.times import EXAMPLE, parse_rfc3339

    if isinstance(value, datetime):
        return value
    if _DURATION.fullmatch(value):
        try:
            return datetime.now(UTC) - timedelta(seconds=parse_duration(value))
        except OverflowError:
            raise typer.BadParameter(f"{value!r} is too long ago") from None
    try:
        return parse_rfc3339(value)
    except Invalid:
        raise typer.BadParameter(
            f"{value[:40]!r} is neither a time such as {EXAMPLE} nor an age such as 90s, 15m, 2h or 7d"
        ) from None


Token = Annotated[
    str,
    typer.Argument(
        metavar="TOKEN",
        help="The application's token. May be left out if INSTACHAT_TOKEN is set.",
        autocompletion=suggest_tokens,
    ),
]
ChatNumber = Annotated[
    int,
    typer.Argument(
        metavar="CHAT",
        help="The chat's number.",
        parser=parse_integer,
        autocompletion=suggest_chats,
    ),
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
        help="Output format. Default: a table on a terminal; otherwise JSON lines for lists and JSON"
        " for single items.",
    ),
]
Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="Print only the token or the number, one a line.")
]
Count = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="How many to create, in batches of 1,000.",
        parser=parse_integer,
        callback=_check_count,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Maximum number of items; default: all.",
        parser=parse_integer,
        callback=_check_limit,
    ),
]
After = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Only items after this number.",
        parser=parse_integer,
        callback=_check_after,
    ),
]
AfterToken = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN",
        help="Only applications after this one; it may have been deleted.",
        autocompletion=suggest_tokens,
    ),
]
NamePart = Annotated[
    str | None,
    typer.Option(metavar="PART", help="Only applications whose name contains this, in any case."),
]
AfterMessage = Annotated[
    int | None,
    typer.Option(
        "--after",
        metavar="N",
        help="Only messages after this number.",
        parser=parse_integer,
        callback=_check_after_message,
    ),
]
BeforeMessage = Annotated[
    int | None,
    typer.Option(
        "--before",
        metavar="N",
        help="Only messages before this number.",
        parser=parse_integer,
        callback=at_least_one("--before"),
    ),
]
Since = Annotated[
    datetime | None,
    typer.Option(
        metavar="T",
        help="Only messages created at this time or later: RFC 3339, or an age such as 2h.",
        parser=parse_time,
    ),
]
Until = Annotated[
    datetime | None,
    typer.Option(
        metavar="T",
        help="Only messages created before this time: RFC 3339, or an age such as 2h.",
        parser=parse_time,
    ),
]
AroundMessage = Annotated[
    int | None,
    typer.Option(
        "--around",
        metavar="N",
        help="This message, and as many before it as after it: at most --limit, or 50, together.",
        parser=parse_integer,
        callback=at_least_one("--around"),
    ),
]
FollowFlag = Annotated[bool, typer.Option("--follow", help="Then print what comes, until Ctrl-C.")]
LastMessages = Annotated[
    int | None,
    typer.Option(
        "--last",
        metavar="N",
        help="Only the newest N of them.",
        parser=parse_integer,
        callback=at_least_one("--last"),
    ),
]
Wait = Annotated[
    WaitStage | None,
    typer.Option(help="Wait until stored or searchable.", show_default=False),
]
Timeout = Annotated[
    float,
    typer.Option(
        metavar="SECONDS", help="Timeout for --wait; then exit 4.", callback=_check_timeout
    ),
]
Cascade = Annotated[
    bool, typer.Option("--cascade", help="Also delete everything that belongs to it.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
DryRunFlag = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be done without doing it.")
]
Partitions = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=256,
        metavar="N",
        help="Distribute the messages over N partitions, by chat; 1: one table. Copies all of them.",
    ),
]
UntilInputEnds = Annotated[
    bool,
    typer.Option("--until-input-ends", hidden=True, help="Stop when standard input, a pipe, ends."),
]
App = Annotated[
    str | None,
    typer.Option(
        "--app",
        metavar="TOKEN",
        help="Only this application; default: all.",
        autocompletion=suggest_tokens,
    ),
]
Host = Annotated[
    str | None, typer.Option(metavar="HOST", help="Address on which the HTTP API listens.")
]
Port = Annotated[int | None, typer.Option(min=1, max=65_535, help="Port of the HTTP API.")]
