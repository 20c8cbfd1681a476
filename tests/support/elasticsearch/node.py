"""A node in a process, which tests can kill, stop, continue, and start again on its data."""

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

START_SECONDS = 120  # it takes 7 s on two idle cores, and much longer on a busy machine

# One compiler less, and memory is not touched in advance. This halves the processor time of a start, and
# makes the node about a third slower afterwards.
_FAST_START_OPTIONS = [
    "-XX:TieredStopAtLevel=1",
    "-XX:-UseG1GC",
    "-XX:+UseSerialGC",
    "-XX:-AlwaysPreTouch",
]


class ElasticsearchServer(Server):
    """One node on the loopback address, without security unless the settings enable it.

    Its process is a launcher, and the engine is the launcher's child. Signals go to the engine. The launcher
    ends with the engine, and the engine ends with the launcher, which closes its standard input. The two
    form a process group, so that the kernel continues and ends a stopped engine whose launcher was killed.
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
        """`settings` are lines of elasticsearch.yml, `files` the contents of more configuration files.

        A node without `fast_start` starts slowly and runs at full speed, for measurements.
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
            # A nearly full disk must not stop the node; tests of that case enable the threshold.
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
        """The URL for INSTACHAT_ELASTICSEARCH_URL."""
        scheme = "https" if self.settings.get("xpack.security.http.ssl.enabled") else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        """Its data folder."""
        return self.folder / "data"

    def start(self) -> None:
        """Start it, with the current `settings`, and wait until all of its data can be read."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start its process, with the current `settings`; it ends with the thread that calls this."""
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

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        """Return once all of its data can be read. Raises RuntimeError with its log if it does not start."""
        assert self.process is not None
        deadline = time.monotonic() + seconds
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError((self.folder / "log").read_text()[-4000:])
            time.sleep(0.05)

    def answers(self) -> bool:
        """Whether it accepts requests and all of its shards are available."""
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
        return status in (200, 401)  # 401 if it requires a user

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the engine."""
        if engine := self.engine():
            engine.send_signal(number)

    def kill(self) -> None:
        """End the process as a power failure would."""
        assert self.process is not None
        engine = self.engine()
        (engine or self.process).send_signal(signal.SIGKILL)
        self.process.wait()
        if engine:  # a file that the JVM creates at its start and removes at its end
            Path(f"/tmp/.java_pid{engine.pid}").unlink(missing_ok=True)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Shut it down if it runs, even if SIGSTOP has stopped it; its data remains."""
        self.send(signal.SIGCONT)
        super().stop(number)

    def remove(self) -> None:
        if self.engine():
            self.kill()  # an orderly end would write the data, which are deleted next
        super().remove()

    def engine(self) -> psutil.Process | None:
        """The process of the engine, the launcher's child; None before its start and after its end."""
        if self.process is None or self.process.poll() is not None:
            return None
        try:
            return next(iter(psutil.Process(self.process.pid).children()), None)
        except psutil.NoSuchProcess:
            return None


def _yaml(value: object) -> str:
    """A scalar: numbers and booleans unquoted, everything else quoted."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else f"'{value}'"
