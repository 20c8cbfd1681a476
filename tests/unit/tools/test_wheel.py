"""The wheel: the same source gives the same bytes, and its core is small and complete."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PathDistribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "backend", "instachat_cli", "loadtest")
EPOCH = 1_800_000_000
MAX_CORE_DISTRIBUTIONS = 40  # this one included
MAX_CORE_BYTES = 120e6
# Runs the program on what the folder named by the first argument contains, and on the standard library.
RUN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from instachat_cli.main import main; main()"
# Imports every module of the core, and those of the load tests that the commands need for their help.
IMPORT_CORE = """
import sys; sys.path.insert(0, sys.argv[1])
from importlib import import_module
from pkgutil import walk_packages
for root in ("backend", "instachat_cli", "loadtest.corpus.conversations", "loadtest.report.compare"):
    package = import_module(root)
    print(root)
    for module in walk_packages(getattr(package, "__path__", ()), root + "."):
        if not module.name.startswith(NOT_CORE):
            import_module(module.name)
"""
NOT_CORE = (
    "instachat_cli.__main__",
    "instachat_cli.bench",  # of the extra `bench`
    "backend.storage.elasticsearch.failover",  # of the extra `elasticsearch`; the client imports it late
    "backend.storage.postgres.migrations",  # Alembic runs them
)


def build(folder: Path, *, mode: int, modified_at: int) -> Path:
    """Build the wheel in a copy of the source, whose files have these modes and times."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, source / name)
    for path in source.rglob("*"):
        if path.is_file():
            path.chmod(mode)
        os.utime(path, (modified_at, modified_at))
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=source,
        env=os.environ | {"SOURCE_DATE_EPOCH": str(EPOCH)},
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that is built from files that all may read."""
    return build(tmp_path_factory.mktemp("wheel"), mode=0o644, modified_at=1_000_000_000)


def test_the_wheel_is_reproducible(wheel: Path, tmp_path: Path) -> None:
    """Byte for byte, so that a build can be compared with the one that was published."""
    again = build(tmp_path / "elsewhere" / "again", mode=0o600, modified_at=1_900_000_000)
    assert wheel.read_bytes() == again.read_bytes()


def normalized(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


INSTALLED = {normalized(found.metadata["Name"]): found for found in distributions()}


def required(requirements: Sequence[str], extras: set[str]) -> Iterator[Requirement]:
    """Those of the requirements that apply to this Python and machine."""
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield requirement


def closure(distribution: Distribution, extras: set[str]) -> dict[str, Distribution]:
    """What an installation of the distribution with these extras contains beside it, by name."""
    found: dict[str, Distribution] = {}
    remaining = list(required(distribution.requires or [], extras))
    seen = set()
    while remaining:
        requirement = remaining.pop()
        name = normalized(requirement.name)
        found[name] = INSTALLED[name]
        for each in required(found[name].requires or [], requirement.extras):
            if str(each) not in seen:
                seen.add(str(each))
                remaining.append(each)
    return found


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def program(unpacked: Path) -> PathDistribution:
    """The distribution, as the wheel's metadata describe it."""
    return PathDistribution(next(unpacked.glob("*.dist-info")))


@pytest.fixture(scope="module")
def core(unpacked: Path, program: PathDistribution) -> Path:
    """A folder to import from, with the wheel and what it requires without any extra, and nothing else."""
    for distribution in closure(program, set()).values():
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            source = Path(str(distribution.locate_file(top)))
            if source.exists() and not (unpacked / top).exists():
                (unpacked / top).symlink_to(source)
    return unpacked


def run(
    core: Path, code: str, *arguments: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run Python on that folder, outside of the checkout."""
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, core, *arguments],
        cwd=core.parent,
        env={"PATH": os.environ["PATH"], "HOME": str(core.parent), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_core_is_small(unpacked: Path, program: PathDistribution) -> None:
    """Neither pytest nor the load generator nor its web framework come with every worker."""
    needed = closure(program, set())
    assert not needed.keys() & {"flask", "locust", "matplotlib", "pytest", "gevent", "numpy"}
    assert len(needed) + 1 <= MAX_CORE_DISTRIBUTIONS, sorted(needed)
    files = [
        Path(str(file.locate())) for found in needed.values() for file in found.files or []
    ] + [path for path in unpacked.rglob("*") if not path.is_symlink()]
    assert sum(path.stat().st_size for path in files if path.is_file()) <= MAX_CORE_BYTES


def test_the_list_of_dependencies_that_was_given_is_named(program: PathDistribution) -> None:
    named = {normalized(Requirement(each).name) for each in program.requires or []}
    assert named >= {"typer", "rich", "redis", "sqlalchemy", "psycopg2-binary", "elasticsearch"}
    assert named >= {"huey", "locust", "pytest"}


def test_the_metadata_describe_the_project(program: PathDistribution) -> None:
    metadata = program.metadata
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "pipx install" in metadata.get_payload()  # type: ignore[attr-defined]  # a Message's
    labels = {line.partition(",")[0] for line in metadata.get_all("Project-URL", [])}
    assert labels >= {"Documentation", "Changelog", "Source"}
    tops = {path.parts[0] for path in map(Path, (str(file) for file in program.files or []))}
    assert {top for top in tops if "." not in top} == {"backend", "instachat_cli", "loadtest"}


def test_the_core_needs_no_package_of_an_extra(core: Path) -> None:
    """All of its modules can be imported where the extras are not installed."""
    done = run(core, f"NOT_CORE = {NOT_CORE!r}\n{IMPORT_CORE}")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_without_its_extra_names_it(core: Path) -> None:
    """`make smoke` looks at the extra `engines`, whose engines are started by other processes."""
    loaded = run(core, RUN, "bench", "run")
    assert loaded.returncode == 1
    assert "install `instachat[bench]`" in loaded.stderr
    addresses = {
        "INSTACHAT_DATABASE_URL": "postgresql://127.0.0.1:9/x",
        "INSTACHAT_REDIS_URL": "redis://127.0.0.1:9",
        "INSTACHAT_ELASTICSEARCH_URL": "http://127.0.0.1:9",
    }
    searched = run(core, RUN, "apps", "create", "x", **addresses)
    assert searched.returncode == 1
    assert "install `instachat[elasticsearch]`" in searched.stderr
