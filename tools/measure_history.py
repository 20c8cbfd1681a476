"""Measures commits of the repository in the working folder, and keeps the results; `make commits` runs it.

Private installations of all commits run beside each other and are loaded in turns, in random order, so that
whatever slows the machine down for a while slows all of them. The commits are those that the folder has
results of, and the given ones: results of other days would be of another machine. To drop a commit, delete
its file before.

    .venv/bin/python -m tools.measure_history [--folder docs/benchmarks] [REF…]

All run with the packages that are installed. A commit that requires further ones finds them in a folder that
PYTHONPATH names (`pip install --no-deps --target FOLDER …`).
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from instachat_cli.bench.harness.machine import machine
from loadtest.errors import CouldNotRun
from loadtest.report.history import COMMITTED, happened_at, history
from loadtest.report.history_plot import draw
from loadtest.report.metrics import HISTORY, RATE
from loadtest.report.result import Result, dumps, loads
from loadtest.run.choices import Profile, Scenario
from loadtest.run.commits import COMMIT_DIGITS, SourceTree, source_tree
from loadtest.run.plan import plan
from loadtest.run.runner import RunOptions
from loadtest.run.turns import rounds_in_turns
from tools.markdown_section import replace_section

FOLDER: Final = Path("docs", "benchmarks")
PAGE: Final = "README.md"
PLOT: Final = "history.png"
SECTION: Final = "measured"
SUBJECT: Final = "subject"  # the fact of a commit's first line
LOAD_RATE: Final = 100.0
MAX_SUBJECT: Final = 90  # characters of it in the table
KEPT_FACTS: Final = ("processor", "memory", "Python", "InstaChat", "ground")
COLUMNS: Final = tuple(metric for metric in HISTORY if metric is not RATE)  # the load has a rate


class Commit(NamedTuple):
    """A commit of this repository."""

    name: str  # the first COMMIT_DIGITS of its hash
    made_at: str  # RFC 3339, UTC
    subject: str

    @property
    def file(self) -> str:
        """The name of the file with its results."""
        return f"{self.made_at[:10]}-{self.name}.jsonl"


def commit_of(ref: str) -> Commit:
    """The commit that a name stands for. Raises SystemExit if Git knows none."""
    command = ["git", "log", "-1", "--format=%H%n%ct%n%s", "--end-of-options", f"{ref}^{{commit}}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{ref}: {done.stderr.strip()}")
    name, seconds, subject = done.stdout.splitlines()
    made = datetime.fromtimestamp(int(seconds), UTC)
    return Commit(name[:COMMIT_DIGITS], made.strftime("%Y-%m-%dT%H:%M:%SZ"), subject)


def measure(commits: Sequence[Commit], rounds: int, seconds: float) -> list[list[Result]]:
    """Load each commit once in each round; the runs of each commit, in the order of the commits.

    Raises SystemExit if a commit requires packages that are not installed, and CouldNotRun.
    """
    load = plan(Scenario.MIXED, Profile.SMOKE, 1, rate=LOAD_RATE, seconds=seconds)
    options = RunOptions(load, max_errors=None, facts=machine())
    with ExitStack() as stack:
        trees = [stack.enter_context(source_tree(one.name)) for one in commits]
        for tree in trees:
            if lacking := not_installed(tree):
                raise SystemExit(
                    f"commit {tree.commit} requires packages that are not installed: {', '.join(lacking)}"
                )
        names = [one.name[:7] for one in commits]
        found = list(rounds_in_turns(options, trees, names, rounds, _say))
    if len(found) < rounds:
        raise KeyboardInterrupt
    return [list(runs) for runs in zip(*found, strict=True)]


def not_installed(tree: SourceTree) -> list[str]:
    """What a tree requires and this Python does not find, in any version."""
    installed = {_normal(each.name) for each in metadata.distributions()}
    required = (re.split(r"[\[=<>!~; ]", text, maxsplit=1)[0] for text in tree.requirements)
    return sorted({name for name in required if _normal(name) not in installed})


def kept(result: Result, commit: Commit) -> Result:
    """What is kept of a run: nothing of its seconds, and nothing that names this machine or its paths."""
    facts = {name: result.facts[name] for name in KEPT_FACTS if name in result.facts}
    return replace(
        result,
        host="private",
        facts=facts | {COMMITTED: commit.made_at, SUBJECT: commit.subject},
        timeline=[],
        latencies=[],
        trends=[],
        warnings=[],
    )


def read(folder: Path) -> dict[str, list[Result]]:
    """The kept results by the names of their files, the oldest commit first."""
    files = {
        path.name: [loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in folder.glob("*.jsonl")
    }
    return dict(sorted(files.items(), key=lambda item: (happened_at(item[1][0]), item[0])))


def write(folder: Path, measured: Sequence[tuple[Commit, Sequence[Result]]]) -> None:
    """Write the results of each commit, the plot, and the section of the page."""
    for commit, results in measured:
        lines = (dumps(kept(result, commit)) + "\n" for result in results)
        (folder / commit.file).write_text("".join(lines), encoding="utf-8")
    files = read(folder)
    draw(history([result for runs in files.values() for result in runs]), folder / PLOT)
    replace_section(folder / PAGE, SECTION, section(files))


def section(files: dict[str, list[Result]]) -> str:
    """The section of the page, as Markdown."""
    return "\n".join(_lines(files))


def _lines(files: dict[str, list[Result]]) -> Iterator[str]:
    results = [result for runs in files.values() for result in runs]
    first, days = results[0], sorted({result.started_at[:10] for result in results})
    counts = sorted({len(runs) for runs in files.values()})
    yield (
        f"Medians of {' or '.join(map(str, counts))} runs of each commit: {first.scenario},"
        f" {first.rate or 0:g} requests a second for {first.duration_s:g} s, measured on"
        f" {' and '.join(days)}, with {'; '.join(_machines(results))}."
    )
    yield ""
    yield f"| made | commit | {' | '.join(metric.title for metric in COLUMNS)} | its last change |"
    yield f"| --- | --- |{' ---: |' * len(COLUMNS)} --- |"
    for name, runs in files.items():
        facts = runs[0].facts
        cells = (_cell([metric.of(run) for run in runs]) for metric in COLUMNS)
        made, commit = facts[COMMITTED][:16].replace("T", " "), _commit_name(runs[0])
        yield (
            f"| {made} | [{commit[:7]}]({name}) | {' | '.join(cells)} | {_short(facts[SUBJECT])} |"
        )
    yield ""
    yield from _changes(results)
    yield ""
    yield from _failed(files)


def _changes(results: Sequence[Result]) -> Iterator[str]:
    points = [point for series in history(results) for point in series.change_points]
    if not points:
        yield "`bench history` finds no change."
        return
    yield "What `bench history` finds:"
    yield ""
    for point in sorted(points, key=lambda point: happened_at(point.result)):
        verdict = "worse" if point.is_worse else "better"
        commit = _commit_name(point.result)[:7]
        yield f"- from {commit} on, {point.metric}: {point.change:+.0%}, {verdict}"


def _failed(files: dict[str, list[Result]]) -> Iterator[str]:
    """What the audits and the answers say."""
    found = []
    for runs in files.values():
        faults: dict[str, int] = {}
        for run in runs:
            for kind, count in run.audit.faults.items():
                faults[kind] = faults.get(kind, 0) + count
        if failed := sum(run.total.failures for run in runs):
            faults["requests failed"] = failed
        if faults:
            kinds = ", ".join(
                f"{count:,} {kind.replace('_', ' ')}" for kind, count in faults.items()
            )
            found.append(f"- {_commit_name(runs[0])[:7]}: {kinds}")
    if found:
        yield "What failed, in all runs of a commit together:"
        yield ""
        yield from found
    else:
        yield "No request failed in any run, and no audit found a fault."


def _machines(results: Sequence[Result]) -> list[str]:
    names = ("processor", "memory", "Python")
    return list(
        dict.fromkeys(
            ", ".join(run.facts[name] for name in names if name in run.facts) for run in results
        )
    )


def _commit_name(result: Result) -> str:
    return result.facts["InstaChat"].removeprefix("commit ")


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    value = median(known)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _short(subject: str) -> str:
    text = subject if len(subject) <= MAX_SUBJECT else subject[: MAX_SUBJECT - 1].rstrip() + "…"
    return text.replace("|", "\\|")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measure the kept commits and the given ones, and write all of them."""
    parser = argparse.ArgumentParser(description="Measures commits under one load.")
    parser.add_argument("refs", nargs="*", metavar="REF", help="a commit of this repository")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--rounds", type=int, default=8, help="runs of each commit")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each run")
    given = parser.parse_args()
    refs = [*(_commit_name(runs[0]) for runs in read(given.folder).values()), *given.refs]
    commits = sorted({commit_of(ref) for ref in refs}, key=lambda commit: commit.made_at)
    if not commits:
        parser.error("name at least one commit")
    try:
        results = measure(commits, given.rounds, given.seconds)
    except CouldNotRun as error:
        raise SystemExit(str(error)) from None
    write(given.folder, list(zip(commits, results, strict=True)))


if __name__ == "__main__":
    main()
