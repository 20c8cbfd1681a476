"""A node of the tests' own, which can be killed, stopped, continued and started again on its data."""

import http.client
import os
import pwd
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.support.elasticsearch.provision import ElasticsearchInstallation
from tests.support.engines import Server, die_with_parent, free_port, scratch_folder

START_SECONDS = 120  # 7 on a machine of two idle cores; much longer on a busy one

# A compiler less and nothing touched in advance: half the processor time of a start, at the price of
# about a third of the speed later.
_FAST_START_OPTIONS = [
    "-XX:TieredStopAtLevel=1",
    "-XX:-UseG1GC",
    "-XX:+UseSerialGC",
    "-XX:-AlwaysPreTouch",
]


class ElasticsearchServer(Server):
    """An Elasticsearch of one node on the loopback, without security unless the settings turn it on.

    Its process is a launcher, whose child is the engine itself. Signals go to that one; the launcher ends
    with it, and it with the launcher (its standard input ends). The two are a process group of their
    own, so that the kernel wakes and ends an engine whose launcher was killed while it was stopped.
    """

    def __init__(
        self,
        installation: ElasticsearchInstallation,
        settings: Mapping[str, object] | None = None,
        files: Mapping[str, str] | None = None,
        *,
        heap: str = "512m",
        fast_start: bool = True,
    ) -> None:
        """`settings` are lines of elasticsearch.yml, `files` more files of its folder, by name.

        `fast_start` starts fast; without it the node works as fast as it can, which is for measuring.
        """
        self.port = free_port()
        folder = scratch_folder("elasticsearch")
        self.settings: dict[str, object] = {
            "discovery.type": "single-node",
            "network.host": "127.0.0.1",
            "http.port": self.port,
            "transport.port": 0,
            "path.data": folder / "data",
            "path.logs": folder / "logs",
            "xpack.security.enabled": False,
            # A machine with little space left is no reason to stop; a test of that says so.
            "cluster.routing.allocation.disk.threshold_enabled": False,
            **(settings or {}),
        }
        shutil.copytree(installation.home / "config", folder / "config")
        for name in ("data", "logs", "tmp"):
            (folder / name).mkdir()
        for name, content in (files or {}).items():
            (folder / "config" / name).write_text(content)
        environment = {
            "PATH": "/usr/bin:/bin",
            "ES_JAVA_HOME": installation.java_home,
            "ES_PATH_CONF": folder / "config",
            "ES_TMPDIR": folder / "tmp",
            "ES_JAVA_OPTS": " ".join(
                [
                    f"-Xms{heap}",
                    f"-Xmx{heap}",
                    "-XX:-UsePerfData",
                    *(_FAST_START_OPTIONS if fast_start else []),
                ]
            ),
            "CLI_JAVA_OPTS": "-XX:-UsePerfData -XX:TieredStopAtLevel=1",
        }
        super().__init__(
            [
                *("env", "-i", *(f"{name}={value}" for name, value in environment.items())),
                installation.home / "bin" / "elasticsearch",
            ],
            folder,
            "nobody" if os.geteuid() == 0 else None,
        )
        if self.user:
            for path in [folder, *folder.rglob("*")]:
                shutil.chown(path, self.user)

    @property
    def url(self) -> str:
        """Its URL as the program wants it."""
        scheme = "https" if self.settings.get("xpack.security.http.ssl.enabled") else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        """The folder of its data."""
        return self.folder / "data"

    def start(self) -> None:
        """Start it and wait until all that it holds can be read; `settings` may have changed."""
        lines = [f"{name}: {_yaml(value)}\n" for name, value in self.settings.items()]
        (self.folder / "config" / "elasticsearch.yml").write_text("".join(lines))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self.user,
                group=pwd.getpwnam(self.user).pw_gid if self.user else None,
                cwd=self.folder,
                process_group=0,
                preexec_fn=die_with_parent,  # noqa: PLW1509
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError((self.folder / "log").read_text()[-4000:])
            time.sleep(0.05)

    def answers(self) -> bool:
        """Whether it takes requests and every shard that it holds is there."""
        try:
            connection: http.client.HTTPConnection
            if self.url.startswith("https"):
                context = ssl._create_unverified_context()
                connection = http.client.HTTPSConnection(
                    "127.0.0.1", self.port, timeout=10, context=context
                )
            else:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            connection.request("GET", "/_cluster/health?wait_for_status=yellow&timeout=2s")
            status = connection.getresponse().status
            connection.close()
        except (OSError, http.client.HTTPException):
            return False
        return status in (200, 401)  # the latter once it asks who is there

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the engine itself."""
        if engine := self.engine():
            engine.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would, as far as the process is concerned."""
        assert self.process is not None
        engine = self.engine()
        (engine or self.process).send_signal(signal.SIGKILL)
        self.process.wait()
        if engine:  # what a JVM puts there at its start and removes at its end
            Path(f"/tmp/.java_pid{engine.pid}").unlink(missing_ok=True)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it in good order, if it runs, also if it was stopped by a signal; its data stays."""
        self.send(signal.SIGCONT)
        super().stop(number)

    def engine(self) -> psutil.Process | None:
        """The engine's process, the launcher's child; none before it is started and after it ended."""
        if self.process is None or self.process.poll() is not None:
            return None
        try:
            return next(iter(psutil.Process(self.process.pid).children()), None)
        except psutil.NoSuchProcess:
            return None


def _yaml(value: object) -> str:
    """A scalar; numbers and truth values as they are, the rest quoted."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else f"'{value}'"
