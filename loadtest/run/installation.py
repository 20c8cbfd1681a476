"""Private servers for one run: `instachat up` on a temporary folder and a free port, or `instachat serve`.

They end with this process, even if that is killed by `kill -9`; only the temporary folder is left then.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import urllib3

from loadtest.corpus.preload import Preload
from loadtest.errors import Unusable
from loadtest.polling import wait_until
from loadtest.run.faults import Target
from loadtest.run.local_elasticsearch import LocalElasticsearch
from loadtest.run.local_processes import COMMANDS
from loadtest.run.processes import ChildProcess, free_port

READY_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 40.0
REMOVE_TIMEOUT_SECONDS = 10.0
PACKAGES = Path(__file__).parents[2]
_ENGINE_URLS = tuple(
    f"INSTACHAT_{name}_URL" for name in ("DATABASE", "REDIS", "HUEY", "ELASTICSEARCH")
)

_PROGRAMS = {Target.POSTGRES: {"postgres"}, Target.VALKEY: {"valkey-server", "redis-server"}}


class PrivateInstallation:
    """A running `instachat up`."""

    def __init__(
        self,
        home: Path,
        host: str,
        up: ChildProcess,
        environment: Mapping[str, str],
        elasticsearch: LocalElasticsearch | None = None,
    ) -> None:
        self.host = host
        self.preload = Preload()
        self._home, self._up, self._environment = home, up, environment
        self._elasticsearch = elasticsearch

    def import_messages(self, messages: int, seed: int) -> None:
        """Import that many messages, of applications of their own. Raises Unusable if the import fails."""
        preload = Preload.new(messages)
        with (self._home / "import.log").open("w+b") as log:
            process = subprocess.Popen(
                _command("import", "-"),
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
            assert process.stdin
            try:
                # If the import has failed, its exit code says so.
                with suppress(BrokenPipeError), process.stdin as pipe:
                    pipe.writelines(line.encode() for line in preload.lines(seed))
                code = process.wait()
            except BaseException:
                process.kill()
                process.wait()
                raise
            if code:
                log.seek(0)
                last = log.read().decode(errors="replace").strip().splitlines()[-1:]
                raise Unusable(f"`instachat import` exited with {code}: {' '.join(last)}")
        self.preload = preload

    def processes(self) -> list[psutil.Process]:
        """`up` and the engines. The engines are not its children; their command lines name its home."""
        found = [psutil.Process(self._up.pid)] if self._up.running else []
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self._home) in word for word in process.info["cmdline"] or ()):
                found.append(process)
        return found

    def processes_of(self, target: Target) -> list[psutil.Process]:
        """The processes of one part, the one that started the others first; empty while none runs."""
        if target is Target.ELASTICSEARCH:
            return self._elasticsearch.processes if self._elasticsearch else []
        parts = (
            [root, *root.children(recursive=True)] for root in self._roots() if _is_of(target, root)
        )
        return next(parts, [])

    def _roots(self) -> Iterator[psutil.Process]:
        """The server, the worker, and the first process of each engine."""
        with suppress(psutil.NoSuchProcess):
            yield from psutil.Process(self._up.pid).children()
        yield from self.processes()


def _is_of(target: Target, process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    if target in (Target.SERVER, Target.WORKER):
        return COMMANDS[target] in words and "--until-input-ends" in words
    return bool(words) and Path(words[0]).name in _PROGRAMS[target]


@contextmanager
def private_installation(
    tree: Path = PACKAGES, elasticsearch_url: str | None = None
) -> Iterator[PrivateInstallation]:
    """An installation that is ready, on engines of its own; it is ended and deleted with the context.

    `tree` has the packages of the program that it runs. It searches by the given Elasticsearch, which runs on
    this machine and which nothing else may use, or by PostgreSQL. Raises Unusable, with its last output, if
    it does not become ready, and if the Elasticsearch may have other users.
    """
    elasticsearch = LocalElasticsearch(elasticsearch_url) if elasticsearch_url else None
    home = Path(tempfile.mkdtemp(prefix="instachat-load-"))
    if os.geteuid() == 0:
        home.chmod(0o711)  # root runs the engines as another user, which must be able to enter
    environment = {k: v for k, v in os.environ.items() if k not in _ENGINE_URLS}
    try:
        environment |= {"INSTACHAT_HOME": str(home), "PYTHONPATH": _module_path(tree)}
        if elasticsearch:
            environment["INSTACHAT_ELASTICSEARCH_URL"] = elasticsearch.url
        with _running_command("up", environment, home) as (host, process):
            yield PrivateInstallation(home, host, process, environment, elasticsearch)
    finally:
        _remove(home)
        if elasticsearch:
            with suppress(
                Unusable
            ):  # the next run with it names those that are left, and is refused
                elasticsearch.remove_indices()


@contextmanager
def api_server() -> Iterator[str]:
    """The HTTP API alone, on this process's settings; yields its address."""
    with (
        tempfile.TemporaryDirectory(prefix="instachat-load-") as folder,
        _running_command(
            "serve", os.environ | {"PYTHONPATH": _module_path(PACKAGES)}, Path(folder)
        ) as (host, _),
    ):
        yield host


@contextmanager
def _running_command(
    command: str, environment: Mapping[str, str], folder: Path
) -> Iterator[tuple[str, ChildProcess]]:
    """`instachat COMMAND` on a free port: its address and its process, once it is ready."""
    port = free_port()
    host = f"http://127.0.0.1:{port}"
    process = ChildProcess(
        _command(command, "--host", "127.0.0.1", "--port", str(port), "--until-input-ends"),
        folder / "output.log",
        {**environment, "INSTACHAT_APP_CREATION_LIMIT": "off"},
    )
    try:
        _wait_ready(command, host, process)
        yield host, process
    finally:
        process.terminate(STOP_TIMEOUT_SECONDS)


def _command(*words: str) -> list[str]:
    # -P keeps modules in the working folder, which may be anyone's, from being imported.
    return [sys.executable, "-P", "-m", "instachat_cli", *words]


def _module_path(tree: Path) -> str:
    return os.pathsep.join(filter(None, [str(tree), os.environ.get("PYTHONPATH")]))


def _wait_ready(command: str, host: str, process: ChildProcess) -> None:
    pool = urllib3.PoolManager(retries=False, timeout=2.0)

    def is_ready() -> bool:
        try:
            return pool.request("GET", f"{host}/readyz").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    deadline = time.monotonic() + READY_TIMEOUT_SECONDS
    wait_until(lambda: not process.running or is_ready(), deadline, pause=0.05)
    if not (process.running and is_ready()):
        raise Unusable(
            f"`instachat {command}` did not become ready; its last output: {process.last_lines()}"
        )


def _remove(home: Path) -> None:
    def removed() -> bool:
        shutil.rmtree(home, ignore_errors=True)
        return not home.exists()

    # An engine that is ending may still write its last files.
    wait_until(removed, time.monotonic() + REMOVE_TIMEOUT_SECONDS, pause=0.1)
