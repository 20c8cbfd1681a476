"""Releases of the program beside each other: source trees, and the processes that run them."""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from backend.settings import Settings
from tests.support.engines import free_port
from tests.support.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
PACKAGES = ("backend", "instachat_cli", "loadtest")
_POSTGRES = Path("backend", "storage", "postgres")
_SCHEMA = re.compile(r'^SCHEMA = "(\d{4})"', re.MULTILINE)
_MIGRATION = '''"""A migration of the next release, for a test."""

from alembic import op

revision = "{schema}"
down_revision = "{before}"
compatible_since = {compatible_since!r}


def upgrade() -> None:
    """Run the statements."""
    op.execute("""{statements}""")
'''
_LATER_EVENTS = """

LOG_FORMAT += 1
_pack_entry_before = _pack_entry


def _pack_entry(token: str, chat: int, messages: bytes) -> bytes:
    return b"v%d %b" % (LOG_FORMAT, _pack_entry_before(token, chat, messages))
"""


class Release:
    """A source tree; what runs it uses only its modules."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        # Releases before the move of SCHEMA have it beside the tables.
        places = [tree / _POSTGRES / name for name in ("schema.py", "tables.py")]
        self._schema_file = next(each for each in places if _SCHEMA.search(each.read_text("utf-8")))

    @property
    def schema(self) -> str:
        """The number of its newest migration."""
        found = _SCHEMA.search(self._schema_file.read_text("utf-8"))
        assert found
        return found[1]

    def next(self, folder: Path, statements: str, compatible_since: str | None = None) -> "Release":
        """A copy of this release, in a new folder, with one more migration and a later format of the log."""
        for package in PACKAGES:  # with what Python has compiled, which would take seconds again
            shutil.copytree(self.tree / package, folder / package)
        schema = f"{int(self.schema) + 1:04}"
        script = _MIGRATION.format(
            schema=schema,
            before=self.schema,
            statements=statements,
            compatible_since=compatible_since,
        )
        versions = folder / _POSTGRES / "migrations" / "versions"
        (versions / f"{schema}_next.py").write_text(script, encoding="utf-8")
        made = Release(folder)
        text = _SCHEMA.sub(f'SCHEMA = "{schema}"', self._schema_file.read_text("utf-8"))
        made._schema_file.write_text(text, encoding="utf-8")
        with (folder / "backend" / "domain" / "events.py").open("a", encoding="utf-8") as events:
            events.write(_LATER_EVENTS)
        return made


class ReleaseProcess:
    """A command of a release that runs until it is stopped. A file keeps its output."""

    def __init__(self, release: Release, settings: Settings, folder: Path, *words: str) -> None:
        self._command = _command(words)
        self._environment = _environment(release, settings)
        self._output = folder / f"output-{'-'.join(words)}-{release.schema}-{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def output(self) -> str:
        """What its processes have written."""
        return self._output.read_text(encoding="utf-8")

    def start(self) -> None:
        """Start it, also again after its end. Returns at once."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait(self) -> int:
        """Wait for its end; returns the exit code."""
        assert self._process
        return self._process.wait(PATIENCE_SECONDS)

    def restart(self, number: signal.Signals) -> None:
        """End it by a signal, and start it again."""
        assert self._process
        self._process.send_signal(number)
        self.wait()
        self.start()

    def remove(self) -> None:
        """Kill it with all its processes."""
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class ReleaseServer(ReleaseProcess):
    """`instachat serve` of a release."""

    def __init__(self, release: Release, settings: Settings, folder: Path) -> None:
        self.port = free_port()
        super().__init__(release, settings, folder, "serve", "--port", str(self.port))


def run(release: Release, settings: Settings, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of a release to its end."""
    return subprocess.run(
        _command(words),
        env=_environment(release, settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def _command(words: tuple[str, ...]) -> list[str]:
    # -P: the working folder is this tree, whatever the release.
    return [sys.executable, "-P", "-m", "instachat_cli", *words]


def _environment(release: Release, settings: Settings) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("INSTACHAT_")}
    urls = {
        "INSTACHAT_DATABASE_URL": str(settings.database_url),
        "INSTACHAT_REDIS_URL": str(settings.redis_url),
    }
    return inherited | {"PYTHONPATH": str(release.tree)} | urls
