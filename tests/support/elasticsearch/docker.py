"""A full Elasticsearch in a Docker container, with the interface of `ElasticsearchServer`."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from tests.support.elasticsearch.provision import VERSION, NotAvailable
from tests.support.engines import free_port

IMAGE = f"elasticsearch:{VERSION}"
START_SECONDS = 120
_LABEL = "instachat-test"  # its value is the id of the process that started the container


class ElasticsearchContainer:
    """One node on the loopback address, without security unless the settings enable it."""

    def __init__(
        self,
        settings: Mapping[str, object] | None = None,
        *,
        heap: str = "512m",
    ) -> None:
        """`settings` are lines of elasticsearch.yml.

        Raises NotAvailable if Docker can't create a container.
        """
        _remove_leftovers()
        self.port = free_port()
        self.settings: dict[str, object] = {
            "discovery.type": "single-node",
            "xpack.security.enabled": False,
            "xpack.ml.enabled": False,
            "ingest.geoip.downloader.enabled": False,
            "cluster.routing.allocation.disk.threshold_enabled": False,
            "ES_JAVA_OPTS": f"-Xms{heap} -Xmx{heap}",
            **(settings or {}),
        }
        environment = [f"{name}={_text(value)}" for name, value in self.settings.items()]
        self.container = _docker(
            *("create", "--label", f"{_LABEL}={os.getpid()}"),
            *("--publish", f"127.0.0.1:{self.port}:9200"),
            *(part for line in environment for part in ("--env", line)),
            IMAGE,
        )

    @property
    def url(self) -> str:
        """The URL for INSTACHAT_ELASTICSEARCH_URL."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until all of its data can be read."""
        _docker("start", self.container)
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if not self._is_running() or time.monotonic() > deadline:
                raise RuntimeError(_docker("logs", "--tail", "30", self.container))
            time.sleep(0.1)

    def answers(self) -> bool:
        """Whether it accepts requests and all of its shards are available."""
        try:
            health = f"{self.url}/_cluster/health?wait_for_status=yellow&timeout=2s"
            with urlopen(health, timeout=10):
                return True
        except HTTPError as error:
            return error.code == 401  # it requires a user
        except (URLError, OSError):
            return False

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its processes; SIGSTOP pauses the container and SIGCONT continues it."""
        if number == signal.SIGSTOP:
            _docker("pause", self.container)
        elif number == signal.SIGCONT:
            _docker("unpause", self.container)
        else:
            _docker("kill", "--signal", number.name, self.container)

    def kill(self) -> None:
        """End its processes as a power failure would."""
        self.send(signal.SIGKILL)
        _docker("wait", self.container)

    def stop(self) -> None:
        """Shut it down if it runs, even if it is paused; its data remains."""
        if _docker("inspect", "--format", "{{.State.Paused}}", self.container) == "true":
            self.send(signal.SIGCONT)
        _docker("stop", self.container)

    def remove(self) -> None:
        """End it and delete its data."""
        _docker("rm", "--force", "--volumes", self.container)

    def _is_running(self) -> bool:
        state = _docker("inspect", "--format", "{{json .State}}", self.container)
        return bool(json.loads(state)["Running"])


def docker_is_available() -> bool:
    """Whether Docker can start containers here."""
    if not shutil.which("docker"):
        return False
    try:
        _docker("version", "--format", "{{.Server.Version}}")
    except NotAvailable:
        return False
    return True


def pull() -> None:
    """Pull the image. Raises NotAvailable if that fails."""
    _docker("pull", "--quiet", IMAGE)


def _remove_leftovers() -> None:
    """Remove the containers that killed test runs have left."""
    form = f'{{{{.ID}}}} {{{{.Label "{_LABEL}"}}}}'
    listed = _docker("ps", "--all", "--filter", f"label={_LABEL}", "--format", form)
    for line in listed.splitlines():
        container, owner = line.split()
        try:
            os.kill(int(owner), 0)
        except ProcessLookupError:
            _docker("rm", "--force", "--volumes", container)
        except PermissionError:
            continue  # it runs, as another user


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotAvailable(f"docker {words[0]} failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout.strip()
