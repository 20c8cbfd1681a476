"""The servers of the HTTP benchmarks (ours, a gateway, a bare one), and wrk, the client of all of them."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backend.api.server.address import is_responding
from backend.bootstrap import Backend
from backend.domain.errors import Failed
from backend.settings import Settings
from backend.storage.redis.keys import shard_key
from instachat_cli.bench.harness.processes import (
    child_process,
    settings_environment,
    wait_ready,
)

CONNECTIONS = 64
MAX_WRK_SECONDS = 60
POLL_SECONDS = 0.05
GATEWAY = Path(__file__).parent / "gateway"
READER = Path(__file__).parent / "reader"
_CONSTANT_APP = """
async def app(scope, receive, send):
    await receive()
    await send({"type": "http.response.start", "status": 202,
                "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b'{"number":12}'})
"""
_SCRIPT = """
local paths = {%s}
local count = 0
wrk.method = "%s"
if wrk.method == "POST" then
  wrk.headers["Content-Type"] = "application/json"
  wrk.body = '{"message": {"text": "Good morning, how are you? I hope all is well today."}}'
end
function request()
  count = count + 1
  return wrk.format(nil, paths[count %% #paths + 1])
end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("RESULT %%d %%d %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), errors.status, errors.read, errors.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The result of wrk: requests a second, the median and the 99th percentile of the latency in ms."""

    rate: float
    median: float
    p99: float


def wrk(
    port: int,
    paths: Sequence[str],
    seconds: int,
    method: str = "POST",
    connections: int = CONNECTIONS,
) -> LoadResult:
    """Send requests to the paths in turn, for `seconds`, or longer if none was answered by then.

    An answer may take a minute: a slow one is a latency. Raises Failed if an answer is an error, or none
    comes within a minute.
    """
    program = shutil.which("wrk")
    if program is None:
        raise Failed(
            "the benchmarks of HTTP need wrk", "install it; on Debian by `apt install wrk`"
        )
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_SCRIPT % (",".join(f'"{path}"' for path in paths), method))
        script.flush()
        done = subprocess.run(
            [
                *(program, "-t1", f"-c{connections}", f"-d{seconds}s"),
                *(
                    "--timeout",
                    f"{MAX_WRK_SECONDS}s",
                ),  # its own counts an answer after 2 s as an error
                *("--latency", "-s", script.name, f"http://127.0.0.1:{port}/"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    found = re.search(r"RESULT ([\d ]+)", done.stdout)
    if found is None:
        raise Failed(f"wrk failed: {done.stderr.strip() or done.stdout.strip()}")
    requests, micros, median, p99, refused, broken, late = map(int, found[1].split())
    if refused or broken or late:
        raise Failed(
            f"of {requests:,} requests, {refused:,} were answered with an error, {broken:,} were not"
            f" answered whole, and {late:,} were not answered within {MAX_WRK_SECONDS} s"
        )
    if not requests:
        if seconds >= MAX_WRK_SECONDS:
            raise Failed(f"no request was answered within {seconds} seconds")
        return wrk(port, paths, 2 * seconds, method, connections)
    return LoadResult(requests / (micros / 1e6), median / 1000, p99 / 1000)


@contextmanager
def server(settings: Settings, port: int, processes: int = 1) -> Iterator[None]:
    """Our server with exactly these settings, started as an operator does; its log is discarded."""
    arguments = ["-m", "instachat_cli", "serve", "--port", str(port), "--workers", str(processes)]
    environment = settings_environment(settings.model_copy(update={"app_creation_limit": "off"}))
    with _running_server(
        "instachat serve", [sys.executable, *arguments, "--until-input-ends"], port, environment
    ):
        yield


@contextmanager
def worker(backend: Backend) -> Iterator[None]:
    """A worker on the engines of a backend, started as an operator does."""
    command = [sys.executable, "-m", "instachat_cli", "worker", "--until-input-ends"]
    with child_process(command, settings_environment(backend.settings)) as process:
        wait_ready(process, backend.workers.count, "the worker", POLL_SECONDS)
        yield


@contextmanager
def constant_server(port: int) -> Iterator[None]:
    """The same HTTP server with an application that returns a constant."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "constant.py").write_text(_CONSTANT_APP)
        arguments = ["--loop", "uvloop", "--http", "httptools", "--ws", "none", "--lifespan", "off"]
        arguments += ["--no-access-log", "--log-level", "error", "--no-server-header"]
        command = [sys.executable, "-m", "uvicorn", *arguments, "--port", str(port), "constant:app"]
        with _running_server("the bare server", command, port, os.environ | {"PYTHONPATH": folder}):
            yield


def build_gateway(folder: Path) -> Path | None:
    """Build the gateway; returns its path, or None if Go is not installed."""
    return _build(GATEWAY, folder)


def build_reader(folder: Path) -> Path | None:
    """Build the reader; returns its path, or None if Go is not installed."""
    return _build(READER, folder)


def _build(source: Path, folder: Path) -> Path | None:
    if shutil.which("go") is None:
        return None
    program = folder / source.name
    built = subprocess.run(
        ["go", "build", "-o", program, "."],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        raise Failed(f"can't build the {source.name}: {built.stderr.strip().splitlines()[-1]}")
    return program


@contextmanager
def gateway(program: Path, redis_url: str, port: int) -> Iterator[None]:
    """The gateway, on a Redis."""
    command = [str(program), f"127.0.0.1:{port}", redis_url]
    with _running_server("the gateway", command, port, os.environ):
        yield


@contextmanager
def reader(
    program: Path, database_url: str, redis_url: str, shard: int, port: int
) -> Iterator[None]:
    """The reader, on a database and a Redis; `shard` is the one of the application that is read."""
    key_prefix = shard_key(shard, "")
    command = [str(program), f"127.0.0.1:{port}", database_url, redis_url, key_prefix]
    with _running_server("the reader", command, port, os.environ):
        yield


@contextmanager
def _running_server(
    name: str, command: Sequence[str], port: int, environment: Mapping[str, str]
) -> Iterator[None]:
    with child_process(command, environment) as process:
        wait_ready(process, lambda: is_responding("127.0.0.1", port), name, POLL_SECONDS)
        yield
