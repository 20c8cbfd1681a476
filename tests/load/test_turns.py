"""`bench compare --before REF`: two commits beside each other, loaded in turns."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from backend.domain.errors import CheckFailed, Invalid
from instachat_cli.commands.bench.compare import compare
from instachat_cli.console.exit_codes import Interrupted
from instachat_cli.program import app
from loadtest.report.compare import Method, method
from loadtest.report.result import Result, loads
from loadtest.run import turns
from loadtest.run.commits import NAMES, PROJECT, source_tree
from loadtest.run.installation import PACKAGES
from loadtest.run.runner import RunOptions
from tests.load.conftest import finish, start_bench
from tests.load.test_docs import commands
from tests.load.test_parts import RESULT
from tools.slowed_tree import copy_tree, slow_down

P50 = {"v1.0": 5.0, "main": 5.0, "slow": 5.6}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a commit for each name of P50; it is the working folder."""
    folder = tmp_path / "repository"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@y", *words], check=True)

    git("init", "--quiet", "--initial-branch=trunk")
    for name in NAMES:
        (folder / name).mkdir()
    for ref in P50:
        for name in NAMES:
            (folder / name / "version.py").write_text(f"VERSION = {ref!r}\n")
        (folder / PROJECT).write_text(f'[project]\ndependencies = ["for=={len(ref)}"]\n')
        git("add", "--all")
        git("commit", "--quiet", "--message", ref)
        git("tag", ref)
    return folder


def test_the_tree_of_a_commit_is_made_and_removed(repository: Path) -> None:
    """It has the packages as they were then; the checkout stays as it is."""
    with source_tree("v1.0") as old, source_tree("main", repository / "backend") as new:
        assert (old.folder / "backend" / "version.py").read_text() == "VERSION = 'v1.0'\n"
        assert (new.folder / "loadtest" / "version.py").read_text() == "VERSION = 'main'\n"
        assert old.commit != new.commit
        assert (old.requirements, new.requirements) == (["for==4"], ["for==4"])
    assert not old.folder.exists()
    assert not new.folder.exists()
    assert (repository / "backend" / "version.py").read_text() == "VERSION = 'slow'\n"
    with source_tree(None) as this:
        assert (this.folder, this.commit) == (PACKAGES, None)
        assert this.requirements


def test_outside_of_a_repository_there_are_no_commits(tmp_path: Path) -> None:
    """Git says so."""
    with pytest.raises(ValueError, match="not a git repository"), source_tree("HEAD", tmp_path):
        pass


@pytest.mark.parametrize("ref", ["missing", "--output=x", "HEAD:backend", ""])
def test_what_is_no_commit_is_refused(repository: Path, ref: str) -> None:
    """Neither is an option of Git's taken for one."""
    with pytest.raises(ValueError, match=r"."), source_tree(ref, repository):
        pass
    assert not (repository / "x").exists()


@dataclass
class Loads:
    """Stands in for installations and loads: a load takes no time, and its p50 depends on its tree."""

    running: int = 0
    imported: list[tuple[int, int]] = field(default_factory=list)  # messages and seed
    trees: list[Path] = field(default_factory=list)
    loads: list[tuple[str, int]] = field(default_factory=list)  # version and seed, in order
    interrupted_at: int = -1

    @contextmanager
    def install(self, tree: Path) -> Iterator["Installation"]:
        """An installation has its tree here."""
        self.running += 1
        self.trees.append(tree)
        yield Installation(tree, self.imported)
        self.running -= 1

    def load(self, options: RunOptions, _: object, installation: "Installation") -> Result:
        """Both installations run meanwhile."""
        assert self.running == 2
        version = (installation.tree / "backend" / "version.py").read_text().split("'")[1]
        self.loads.append((version, options.plan.seed))
        count = len(self.loads)
        p50 = P50[version] * (1 + count % 5 / 1_000)
        return replace(
            RESULT,
            started_at=(datetime(2026, 11, 1, tzinfo=UTC) + timedelta(seconds=count)).isoformat(),
            seed=options.plan.seed,
            requests=[],
            total=replace(RESULT.total, p50_ms=p50, p95_ms=2 * p50, p99_ms=3 * p50),
            facts=options.facts,
            interrupted=count == self.interrupted_at,
        )


@dataclass
class Installation:
    """Stands in for a private installation."""

    tree: Path
    imported: list[tuple[int, int]]

    def import_messages(self, messages: int, seed: int) -> None:
        """Nothing is imported."""
        self.imported.append((messages, seed))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Loads:
    """Takes the place of private installations and of their loads."""
    made = Loads()
    monkeypatch.setattr(turns, "private_installation", made.install)
    monkeypatch.setattr(turns, "run_load", made.load)
    return made


def run(words: list[str]) -> None:
    """Run a command in this process; raises its failure."""
    command: Any = get_command(app)
    command.main(words, standalone_mode=False)


@pytest.mark.usefixtures("repository")
def test_two_commits_take_turns(
    stand_in: Loads, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command of the docs. Each round loads both, in random order, with the same requests."""
    ((_, *words),) = commands("turns")
    folder = tmp_path / "results"
    words = [str(folder) if word == "build/compared" else word for word in words]
    run(words)
    rounds = int(words[words.index("--rounds") + 1])
    pairs = list(zip(stand_in.loads[::2], stand_in.loads[1::2], strict=True))
    assert len(pairs) == 1 + rounds  # the first one warms them up
    for (one, seed), (other, same_seed) in pairs:
        assert {one, other} == {"v1.0", "main"}
        assert seed == same_seed
    assert len({seed for (_, seed), _ in pairs}) == 1 + rounds
    assert len({one for (one, _), _ in pairs}) == 2  # or chance has made 2 ** rounds equal orders
    sides = [
        list(map(loads, (folder / name).read_text().splitlines()))
        for name in ("before.jsonl", "after.jsonl")
    ]
    assert [len(side) for side in sides] == [rounds, rounds]
    assert method(*sides) is Method.PAIRS
    commits = [{result.facts["InstaChat"] for result in side} for side in sides]
    assert len(commits[0] | commits[1]) == 2
    assert stand_in.running == 0
    assert not any(tree.exists() for tree in stand_in.trees)
    assert "regression" not in capsys.readouterr().out
    with pytest.raises(Invalid, match="results already"):
        run(words)
    with pytest.raises(CheckFailed, match="p50 ms of all"):
        run([*words, "--force", "--after", "slow"])


@pytest.mark.usefixtures("repository")
def test_ctrl_c_leaves_out_its_round(stand_in: Loads, capsys: pytest.CaptureFixture[str]) -> None:
    """The rounds before it are compared; without any, there is nothing to compare."""
    stand_in.interrupted_at = 2 + 3 * 2 + 1
    assert stand_in.imported == []
    with pytest.raises(Interrupted, match="3 rounds"):
        compare(before="v1.0", after="main")
    assert '"metric": "p50 ms"' in capsys.readouterr().out
    stand_in.interrupted_at = len(stand_in.loads) + 1
    with pytest.raises(Interrupted, match="no round"):
        compare(before="v1.0", after="main", preload=1_000)
    assert stand_in.imported == [(1_000, 1)] * 2
    assert stand_in.running == 0


@pytest.mark.parametrize(
    "words", [(), ("a.json",), ("a.json", "b.json", "--before", "HEAD"), ("--after", "HEAD")]
)
def test_files_and_commits_exclude_each_other(words: tuple[str, ...]) -> None:
    """Usage, exit code 2."""
    with pytest.raises(Invalid):
        run(["bench", "compare", *words])


@pytest.mark.usefixtures("repository")
def test_an_unknown_commit_is_wrong_usage() -> None:
    """Git's own words, and what to do."""
    with pytest.raises(Invalid, match="single revision"):
        run(["bench", "compare", "--before", "missing"])


@pytest.mark.xdist_group("load turns")  # early, because it takes long
def test_two_real_commits_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each side runs its own commit: only after, every request takes the time by which that is slowed.

    The program of the checkout, which a later commit slows down once more, is not run by either.
    """
    slowed_ms = 20
    repository, results = tmp_path / "repository", tmp_path / "results"
    repository.mkdir()
    copy_tree(repository)
    git = ("git", "-C", str(repository), "-c", "user.name=x", "-c", "user.email=x@y")
    subprocess.run([*git, "init", "--quiet"], check=True)
    for seconds in (0.0, slowed_ms / 1_000, 60.0):
        slow_down(repository, seconds)
        subprocess.run([*git, "add", "--all"], check=True)
        subprocess.run([*git, "commit", "--quiet", "--message", f"{seconds}"], check=True)
    monkeypatch.chdir(repository)
    run = finish(
        start_bench(
            *("compare", "--before", "HEAD~2", "--after", "HEAD~1", "--results", results),
            *("--rounds", 1, "--duration", "2s", "--rate", 15, "-o", "markdown"),
        )
    )
    assert run.code in (0, 4), run.err
    assert "| all | p50 ms |" in run.out
    before, after = (
        loads((results / name).read_text()) for name in ("before.jsonl", "after.jsonl")
    )
    assert before.facts["InstaChat"] != after.facts["InstaChat"]
    for result in (before, after):
        assert result.audit.answered == result.audit.stored > 0
        assert result.audit.faults == {}
    assert min(bucket.from_ms for bucket in before.latencies) < slowed_ms
    assert min(bucket.to_ms for bucket in after.latencies) > slowed_ms
