"""Source trees of commits, so that a private installation can run one of them."""

import subprocess
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from loadtest.run.installation import PACKAGES

PROJECT = "pyproject.toml"
NAMES = ("backend", "instachat_cli", "loadtest")
COMMIT_DIGITS = 12


@dataclass(frozen=True)
class SourceTree:
    """A folder with the packages of the program; `commit` is None for the tree of this program."""

    folder: Path
    commit: str | None = None

    @property
    def requirements(self) -> list[str]:
        """The packages that this tree requires, with their versions; empty if it does not say so."""
        path = self.folder / PROJECT
        if not path.exists():
            return []
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {}).values()
        return sorted({*project["dependencies"], *(name for extra in extras for name in extra)})


@contextmanager
def source_tree(ref: str | None, repository: Path | None = None) -> Iterator[SourceTree]:
    """The tree of a commit of a repository, by default of the one in the working folder.

    Without the name of a commit it is the tree of this program. The tree of a commit is removed with the
    context. Raises ValueError if Git knows no such commit of this program.
    """
    if ref is None:
        yield SourceTree(PACKAGES)
        return
    # In a subfolder, `git archive` would take its paths from there.
    top = _output("git", "-C", str(repository or Path.cwd()), "rev-parse", "--show-toplevel")
    git = ("git", "-C", top)
    with TemporaryDirectory(prefix="instachat-load-tree-") as name, TemporaryFile() as archive:
        folder = Path(name)
        folder.chmod(0o755)  # root runs the engines as another user
        commit = _output(*git, "rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}")
        # A zip, because Python before 3.11.4 can't restrict what it extracts of a tar.
        zipped = ("archive", "--format=zip", "-0")
        _output(*git, *zipped, commit, *NAMES, PROJECT, to=archive.fileno())
        archive.seek(0)
        with zipfile.ZipFile(archive) as files:
            files.extractall(folder)
        yield SourceTree(folder, commit[:COMMIT_DIGITS])


def _output(*command: str, to: int = subprocess.PIPE) -> str:
    """What a command of Git prints. Raises ValueError with its error."""
    try:
        done = subprocess.run(command, stdout=to, stderr=subprocess.PIPE, check=True)
    except OSError as error:
        raise ValueError(f"git can't be run: {error.strerror}") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(lines[-1] if lines else "git has failed") from None
    return (done.stdout or b"").decode().strip()
