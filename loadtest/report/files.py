"""A result as files in a folder: a page, plots, tables and JSON."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from loadtest.report.page import page
from loadtest.report.plots import figures, to_svg, write_png
from loadtest.report.result import Moment, Result, RouteStatistics, Spread, dumps

FILES = ("report.html", "series.csv", "routes.csv", "lags.csv", "latencies.hlog", "result.json")


def write(result: Result, folder: Path) -> list[Path]:
    """Write the files; returns their paths.

    They are `report.html`, a PNG for each plot, `series.csv`, `routes.csv`, `lags.csv`, `latencies.hlog` and
    `result.json`. The folder must exist; files with these names are replaced. Raises OSError if writing
    fails.
    """
    paths = {name: folder / name for name in FILES}
    images, plots = [], {}
    for plot, figure in figures(result):
        images.append(folder / f"{plot.name}.png")
        write_png(figure, images[-1])
        plots[plot.title] = to_svg(figure, plot.name)
    paths["report.html"].write_text(page(result, plots), encoding="utf-8")
    _table(
        paths["series.csv"],
        [field.name for field in fields(Moment)],
        (asdict(moment).values() for moment in result.timeline),
    )
    columns = [field.name for field in fields(RouteStatistics)]
    _table(
        paths["routes.csv"],
        columns,
        (_flatten(asdict(row), columns) for row in (*result.requests, result.total)),
    )
    _table(
        paths["lags.csv"],
        ["until", *(f"{field.name}{_unit(field.name)}" for field in fields(Spread))],
        ((until, *asdict(lag).values()) for until, lag in result.lag_ms.items()),
    )
    log = "".join(f"{line}\n" for line in result.histogram_log)
    paths["latencies.hlog"].write_text(log, encoding="utf-8")
    paths["result.json"].write_text(dumps(result) + "\n", encoding="utf-8")
    return [*paths.values(), *images]


def _unit(spread_field: str) -> str:
    return "" if spread_field in ("samples", "missed") else "_ms"


def _flatten(row: dict[str, object], names: Sequence[str]) -> list[object]:
    errors = row["errors"]
    assert isinstance(errors, dict)
    errors_text = "; ".join(f"{error}: {count}" for error, count in errors.items())
    return [errors_text if name == "errors" else row[name] for name in names]


def _table(path: Path, heads: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(heads)
        writer.writerows(rows)
