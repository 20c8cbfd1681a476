"""`instachat serve` and `instachat worker` as the tests start them: processes on given engines."""

import sys
import urllib.request
from pathlib import Path

from backend.settings import Settings
from tests.engines import Server, free_port, scratch_folder

ROOT = Path(__file__).parents[1]


def _command(settings: Settings, *words: str) -> list[str]:
    assert settings.database_url
    assert settings.redis_url
    variables = {
        "INSTACHAT_DATABASE_URL": settings.database_url,
        "INSTACHAT_REDIS_URL": settings.redis_url,
        "INSTACHAT_APP_CREATION_LIMIT": "off",
        "PYTHONPATH": str(ROOT),
    }
    given = (f"{name}={value}" for name, value in variables.items())
    return ["env", *given, sys.executable, "-P", "-m", "instachat_cli", *words]


class ApiServer(Server):
    """`instachat serve` on a free port of the loopback."""

    def __init__(self, settings: Settings, *, workers: int = 1) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        words = ("serve", "--host", "127.0.0.1", "--port", str(port), "--workers", str(workers))
        super().__init__(_command(settings, *words), scratch_folder("serve"), None)

    def answers(self) -> bool:
        try:
            return bool(self.get("/healthz"))
        except OSError:
            return False

    def get(self, path: str, **headers: str) -> bytes:
        """The body of an answer of 200."""
        with urllib.request.urlopen(
            urllib.request.Request(self.url + path, headers=headers), timeout=10
        ) as answer:
            return bytes(answer.read())

    def post(self, path: str, body: bytes = b"") -> bytes:
        """The body of what creating answers."""
        request = urllib.request.Request(
            self.url + path, body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bytes(answer.read())


class WorkerProcess(Server):
    """`instachat worker`, ready when Redis knows of it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__(_command(settings, "worker"), scratch_folder("worker"), None)

    def answers(self) -> bool:
        return b"worker running" in (self.folder / "log").read_bytes()
