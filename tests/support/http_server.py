"""A running `instachat serve`, and a plain client for it."""

import http.client
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from backend.settings import Settings
from tests.support.engines import free_port
from tests.support.fork_server import ForkedProcess, start_module
from tests.support.waiting import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class HttpResponse:
    """A whole response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


def exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None,
    headers: Mapping[str, str],
) -> HttpResponse:
    """Make one request on the connection."""
    connection.request(method, path, body, dict(headers))
    response = connection.getresponse()
    received = {name.lower(): value for name, value in response.getheaders()}
    return HttpResponse(response.status, received, response.read())


class HttpServer:
    """`instachat serve` as a process. A file keeps its standard error."""

    program = "instachat_cli"
    command = "serve"

    def __init__(
        self, settings: Settings, folder: Path, *arguments: str, **overrides: object
    ) -> None:
        self.port = free_port()
        self.settings = settings
        self._stderr_path = folder / f"server-{self.port}"
        variables = (
            settings.model_dump(exclude_unset=True) | {"app_creation_limit": "off"} | overrides
        )
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("INSTACHAT_")}
        self.env = inherited | {f"INSTACHAT_{k.upper()}": str(v) for k, v in variables.items()}
        self._arguments = [self.command, "--port", str(self.port), *arguments]
        self.process = self.start()

    def start(self) -> ForkedProcess:
        """Start the server, also again after its end.

        The processes that answer requests are its children, which load the program by themselves.
        """
        with self._stderr_path.open("ab") as stderr:
            self.process = start_module(
                self.program, *self._arguments, environment=self.env, stderr=stderr
            )
        return self.process

    @property
    def stderr_text(self) -> str:
        """Its standard error so far."""
        return self._stderr_path.read_text()

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The lines of its log for requests."""
        lines = [json.loads(line) for line in self.stderr_text.splitlines()]
        return [line for line in lines if line["event"] == "request"]

    def wait_ready(self) -> "HttpServer":
        """Wait until it responds."""
        wait_until(lambda: self.process.poll() is not None or self._responds())
        assert self.process.poll() is None, self.stderr_text
        return self

    def __call__(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        timeout: float = PATIENCE_SECONDS,
        **headers: str,
    ) -> HttpResponse:
        """Make one request on a new connection. `body` is sent as JSON, `raw` unchanged."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            raw = json.dumps(body).encode()
            named.setdefault("content-type", "application/json")
        with self.connected(timeout) as connection:
            return exchange(connection, method, path, raw, named)

    def wait_found(self, path: str) -> HttpResponse:
        """Ask again until the response is 200, and return it.

        202: what was accepted is not stored yet; 503: an engine did not answer, or the machine is busy.
        Fails at once on a status that never becomes 200, such as 404, or 410 for a dead letter.
        """
        responses: list[HttpResponse] = []

        def is_final() -> bool:
            responses.append(self("GET", path))
            return responses[-1].status not in (202, 503)

        wait_until(is_final)
        assert responses[-1].status == 200, responses[-1]
        return responses[-1]

    @contextmanager
    def connected(self, timeout: float = 30) -> Iterator[http.client.HTTPConnection]:
        """A connection to the server."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            yield connection
        finally:
            connection.close()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)

    def remove(self) -> None:
        """Stop the process, by SIGKILL if it does not end within 15 seconds."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def _responds(self) -> bool:
        try:
            return self("GET", "/healthz", timeout=2).status == 200
        except (OSError, http.client.HTTPException):
            return False


class UpServer(HttpServer):
    """`instachat up` on engines that run: it starts the server, and a worker."""

    command = "up"


class ImpatientServer(HttpServer):
    """One that gives up a slow client after five seconds."""

    program = "tests.support.impatient_server"


@contextmanager
def running_server(
    settings: Settings, folder: Path, *arguments: str, **overrides: object
) -> Iterator[HttpServer]:
    """A server that responds; it is removed at the end."""
    server = HttpServer(settings, folder, *arguments, **overrides)
    try:
        yield server.wait_ready()
    finally:
        server.remove()


class ApplicationClient:
    """An application created over HTTP, and its routes."""

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        made = server("POST", "/api/v1/applications", {"application": {"name": "Support desk"}})
        assert made.status == 201, made
        self.token: str = made.json["token"]
        self.path = f"/api/v1/applications/{self.token}"

    def chat(self) -> str:
        """Create a chat; returns its path."""
        made = self.server("POST", f"{self.path}/chats")
        assert made.status == 202, made
        return f"{self.path}/chats/{made.json['number']}"

    def message(self, chat: str, text: str = "Good morning") -> str:
        """Create a message and wait until it is stored; returns its path."""
        path = f"{chat}/messages"
        made = self.server("POST", f"{path}?wait=stored", {"message": {"text": text}})
        assert made.status in (201, 202), made  # 202 if it takes more than five seconds
        message = f"{path}/{made.json['number']}"
        self.server.wait_found(message)
        return message


def server_processes(server: HttpServer) -> list[psutil.Process]:
    """The processes that answer requests: the children of the program's process."""
    processes = []
    for child in psutil.Process(server.process.pid).children():
        with suppress(psutil.NoSuchProcess):  # raised for a zombie, too
            if "spawn_main" in " ".join(child.cmdline()):
                processes.append(child)
    return processes
