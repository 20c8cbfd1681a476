"""The results of commits in docs/benchmarks, and the tool that measures them."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.report.history import history
from loadtest.report.result import Audit, Result
from loadtest.run.commits import NAMES, PROJECT, SourceTree
from loadtest.run.runner import RunOptions
from tests.load.conftest import ROOT
from tests.load.test_parts import RESULT
from tools import measure_history
from tools.markdown_section import read_section
from tools.measure_history import FOLDER, PAGE, PLOT, SECTION, main, read, section

P50 = {"first": 5.0, "second": 5.0, "third": 4.0}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a commit a day for each name of P50, and an empty page; it is the working folder."""
    folder = tmp_path / "repository"
    (folder / FOLDER).mkdir(parents=True)
    monkeypatch.chdir(folder)

    def git(*words: str, **environment: str) -> None:
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@y", *words]
        subprocess.run(command, check=True, env=os.environ | environment)

    git("init", "--quiet")
    for name in NAMES:
        (folder / name).mkdir()
    for day, ref in enumerate(P50, 1):
        for name in NAMES:
            (folder / name / "version.py").write_text(ref)
        needs = "absent-package==1" if ref == "second" else "pytest==0.1"
        (folder / PROJECT).write_text(f'[project]\ndependencies = ["{needs}"]\n')
        git("add", "--all")
        date = f"2026-11-0{day}T12:00:00+02:00"
        git("commit", "--quiet", "--message", f"The {ref} | change", GIT_COMMITTER_DATE=date)
        git("tag", ref)
    (folder / FOLDER / PAGE).write_text(f"<!-- {SECTION}: begin -->\n<!-- {SECTION}: end -->\n")
    return folder


@pytest.fixture
def run(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Runs the tool, whose loads take no time: the p50 of a run is that of its tree. Returns its folder."""

    def in_turns(
        options: RunOptions, trees: Sequence[SourceTree], _: object, rounds: int, __: object
    ) -> Iterator[list[Result]]:
        for turn in range(rounds):
            results = []
            for place, tree in enumerate(trees):
                p50 = P50[(tree.folder / "backend" / "version.py").read_text()] * (1 + turn / 1_000)
                results.append(
                    replace(
                        RESULT,
                        started_at=f"2026-11-20T{turn:02}:00:{59 - place}Z",
                        host="http://127.0.0.1:54321",
                        total=replace(RESULT.total, p50_ms=p50),
                        audit=Audit(lost=int(p50 < 4.5)),
                        facts=options.facts | {"InstaChat": f"commit {tree.commit}"},
                    )
                )
            yield results

    monkeypatch.setattr(measure_history, "rounds_in_turns", in_turns)

    def run(*words: str) -> Path:
        monkeypatch.setattr("sys.argv", ["measure_history", *words])
        main()
        return repository / FOLDER

    return run


def test_the_results_of_each_commit_are_kept(run: Callable[..., Path]) -> None:
    """In a file that its day and its commit name, without the seconds, the machine's name and the address."""
    folder = run("third", "first", "--rounds", "4")
    files = read(folder)
    assert [name[:11] for name in files] == ["2026-11-01-", "2026-11-03-"]
    for name, runs in files.items():
        assert re.fullmatch(r"[0-9-]{11}[0-9a-f]{12}\.jsonl", name)
        assert len(runs) == 4
        assert {result.facts["InstaChat"] for result in runs} == {f"commit {name[11:23]}"}
        assert not any(result.timeline or result.latencies for result in runs)
        assert {result.facts["committed"] for result in runs} == {f"{name[:10]}T10:00:00Z"}
        text = (folder / name).read_text()
        assert "127.0.0.1" not in text
        assert str(folder) not in text
    assert (folder / PLOT).read_bytes()[1:4] == b"PNG"


def test_the_page_has_each_commit_and_what_has_changed(run: Callable[..., Path]) -> None:
    """Medians, the change points, and what the audit found."""
    text = read_section(run("first", "third", "--rounds", "8") / PAGE, SECTION)
    rows = [line for line in text.splitlines() if line.startswith("| 2026")]
    assert [row.split("|")[1].strip() for row in rows] == ["2026-11-01 10:00", "2026-11-03 10:00"]
    assert [row.split("|")[3].strip() for row in rows] == ["5.02", "4.01"]
    assert "The first \\| change" in rows[0]
    assert re.search(r"- from [0-9a-f]{7} on, p50 ms: -20%, better", text)
    assert re.search(r"- [0-9a-f]{7}: 8 lost", text)


def test_kept_commits_are_measured_again_beside_a_new_one(run: Callable[..., Path]) -> None:
    """So that all of them are of one day and one machine."""
    run("first", "--rounds", "3")
    folder = run("third", "--rounds", "4")
    assert [len(runs) for runs in read(folder).values()] == [4, 4]


def test_a_commit_that_requires_absent_packages_is_refused(run: Callable[..., Path]) -> None:
    """They are named; another version of a package is not absent. Nothing is written."""
    with pytest.raises(SystemExit, match="absent-package") as refused:
        run("first", "second")
    assert "pytest" not in str(refused.value)
    assert not list((Path.cwd() / FOLDER).glob("*.jsonl"))


def test_an_unknown_commit_is_refused(run: Callable[..., Path]) -> None:
    """With what Git says."""
    with pytest.raises(SystemExit, match="missing"):
        run("missing")


def test_runs_of_commits_are_ordered_by_the_commits(run: Callable[..., Path]) -> None:
    """Though they took turns, so that those of the last commit began before others of the first."""
    files = read(run("first", "third", "--rounds", "4"))
    results = [result for runs in files.values() for result in runs]
    for series in history(results):
        made = [result.facts["committed"] for result in series.results]
        assert made == sorted(made)


def test_the_kept_results_are_those_of_the_page() -> None:
    """Each file can be read, and the page lists them all, with their figures."""
    folder = ROOT / FOLDER
    files = read(folder)
    assert len(files) >= 6
    assert {path.name for path in folder.iterdir()} == {PAGE, PLOT, *files}
    page = folder / PAGE
    assert read_section(page, SECTION) == section(files)
    for name, runs in files.items():
        assert name[11:23] == runs[0].facts["InstaChat"].removeprefix("commit ")
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            assert not re.search(r"127\.0\.0\.1|/tmp/|/work|/home", json.dumps(json.loads(line)))
