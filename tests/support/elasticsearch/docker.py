"""A full Elasticsearch in a container, where Docker runs: the same as a node of the tests' own."""

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
_LABEL = "instachat-test"  # its value is the process that started the container


class ElasticsearchContainer:
    """An Elasticsearch of one node on the loopback, without security unless the settings turn it on."""

    def __init__(
        self,
        settings: Mapping[str, object] | None = None,
        *,
        heap: str = "512m",
    ) -> None:
        """`settings` are lines of elasticsearch.yml. Raises NotAvailable if no container can be made."""
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
        """Its URL as the program wants it."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until all that it holds can be read."""
        _docker("start", self.container)
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if not self._is_running() or time.monotonic() > deadline:
                raise RuntimeError(_docker("logs", "--tail", "30", self.container))
            time.sleep(0.1)

    def answers(self) -> bool:
        """Whether it takes requests and every shard that it holds is there."""
        try:
            health = f"{self.url}/_cluster/health?wait_for_status=yellow&timeout=2s"
            with urlopen(health, timeout=10):
                return True
        except HTTPError as error:
            return error.code == 401  # it asks who is there
        except (URLError, OSError):
            return False

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all of it; a stop freezes it and a continue thaws it."""
        if number == signal.SIGSTOP:
            _docker("pause", self.container)
        elif number == signal.SIGCONT:
            _docker("unpause", self.container)
        else:
            _docker("kill", "--signal", number.name, self.container)

    def kill(self) -> None:
        """End it as a power cut would, as far as its processes are concerned."""
        self.send(signal.SIGKILL)
        _docker("wait", self.container)

    def stop(self) -> None:
        """End it in good order, if it runs, also if it was frozen; its data stays."""
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
    """Whether there is a Docker that starts containers."""
    if not shutil.which("docker"):
        return False
    try:
        _docker("version", "--format", "{{.Server.Version}}")
    except NotAvailable:
        return False
    return True


def pull() -> None:
    """Bring the image onto the machine. Raises NotAvailable if there is no way to it."""
    _docker("pull", "--quiet", IMAGE)


def _remove_leftovers() -> None:
    """Remove the containers of test runs that were killed."""
    form = f'{{{{.ID}}}} {{{{.Label "{_LABEL}"}}}}'
    listed = _docker("ps", "--all", "--filter", f"label={_LABEL}", "--format", form)
    for line in listed.splitlines():
        container, owner = line.split()
        try:
            os.kill(int(owner), 0)
        except ProcessLookupError:
            _docker("rm", "--force", "--volumes", container)
        except PermissionError:
            continue  # it lives, and is another user's


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotAvailable(f"docker {words[0]} failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout.strip()
