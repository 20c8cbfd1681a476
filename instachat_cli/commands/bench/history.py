"""`instachat bench history`: find the runs from which on a value has changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.domain.errors import Failed, Invalid
from backend.domain.plurals import counted
from instachat_cli.console.invocation import not_audited
from instachat_cli.console.options import Output
from instachat_cli.console.output import Printer
from instachat_cli.console.stderr import stderr

if TYPE_CHECKING:
    from loadtest.report.history import Series
    from loadtest.report.result import Result

COLUMNS = ["metric", "change", "verdict", "commit", "load"]
PLOT_SUFFIXES = (".png", ".svg")


@not_audited
def history(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Results, as `bench run` writes or prints them: .json or .jsonl."
        ),
    ],
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw each value over the runs: a .png or .svg file."),
    ] = None,
    output: Output = None,
) -> None:
    """Find the runs from which on a value of the load has changed.

    $ instachat bench history build/results
    $ instachat bench history build/results --plot build/history.svg

    Compares all results in the folder and in those below it, oldest first, among runs with the same load. A
    change point has at least three runs on each side, and chance makes one in a hundred series have one.
    Interrupted and aborted runs are left out.
    """
    from loadtest.report.history import history as find

    if plot and plot.suffix not in PLOT_SUFFIXES:
        raise Invalid(f"{plot} is no file that can be drawn: its name ends with .png or .svg")
    results = list(_results(folder))
    if not results:
        raise Invalid(
            f"{folder} contains no result", "write some with `instachat bench run --report FOLDER`"
        )
    series = find(results)
    stderr.note(
        f"{counted(len(results), 'run')} of {counted(len({s.load for s in series}), 'load')}"
    )
    Printer(output).many(_rows(series), COLUMNS, "no change points")
    if plot:
        _draw(series, plot)


def _rows(series: "list[Series]") -> Iterator[dict[str, Any]]:
    from loadtest.report.history import happened_at

    for one in series:
        for point in one.change_points:
            yield {
                "load": one.load,
                "metric": point.metric,
                "changed_at": happened_at(point.result),
                "commit": point.result.facts.get("InstaChat", "unknown").removeprefix("commit "),
                "before": round(point.before, 3),
                "after": round(point.since, 3),
                "change": f"{point.change:+.1%}",
                "verdict": "worse" if point.is_worse else "better",
            }


def _results(folder: Path) -> "Iterator[Result]":
    """The results of all files, whatever else lies there."""
    from loadtest.report.result import loads

    if not folder.is_dir():
        raise Invalid(f"{folder} is not a folder")
    for path in sorted([*folder.rglob("*.json"), *folder.rglob("*.jsonl")]):
        try:
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.strip():
                    yield loads(line)
        except OSError as error:
            raise Invalid(f"can't read {path}: {error.strerror}") from None
        except ValueError:
            stderr.note(f"{path} is not the result of a run, and is left out")


def _draw(series: "list[Series]", path: Path) -> None:
    from loadtest.report.history_plot import draw

    try:
        draw(series, path)
    except OSError as error:
        raise Failed(f"can't write {path}: {error.strerror}") from None
    stderr.note(f"the plot is {path}")
