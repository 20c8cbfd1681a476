"""What the options of load tests have in common: how their values are read."""

import re

import typer
from typer.models import OptionInfo

from instachat_cli.console.options import parse_integer
from loadtest.run.counts import parse_count
from loadtest.run.durations import parse_seconds


def seconds(value: str | float) -> float:
    """Seconds from a text such as `90`, `90s`, `5m`, `1h` or `50ms`; not 0."""
    try:
        found = parse_seconds(str(value))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if not found:
        raise typer.BadParameter(f"{str(value)[:40]!r} is not a time, such as 90s or 5m")
    return found


def milliseconds(value: str | float) -> float:
    """Milliseconds from a text such as `50ms`, `0.5s` or `50`."""
    text = str(value)
    return seconds(f"{text}ms" if text[-1:].isdigit() else text) * 1000


def share(value: str | float) -> float:
    """A share of 0 to 1, from a text such as `0.1%` or `0.001`."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(%)?", str(value))
    share = float(found[1]) / (100 if found[2] else 1) if found else 2
    if share > 1:
        raise typer.BadParameter(f"{str(value)[:40]!r} is not a share, such as 0.1% or 0.001")
    return share


def count(value: str | int) -> int:
    """A number from a text such as `5000`, `100k` or `1m`."""
    try:
        return parse_count(str(value))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _positive(value: int | None) -> int | None:
    """The number, if it is not below 1."""
    if value is not None and value < 1:
        raise typer.BadParameter(f"{value} is not 1 or more")
    return value


def positive_option(help_text: str) -> OptionInfo:
    """An option whose value is a number of 1 or more."""
    option: OptionInfo = typer.Option(
        metavar="N", help=help_text, parser=parse_integer, callback=_positive
    )
    return option
