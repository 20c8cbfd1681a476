"""The child processes of benchmarks: the settings they receive, and their end."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from backend.domain.errors import Failed
from backend.settings import Settings
from instachat_cli.bench.harness.processes import (
    child_process,
    settings_environment,
    wait_ready,
)


def test_secrets_reach_the_child_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API key itself, not the asterisks of its text; no other setting is passed on."""
    monkeypatch.setenv("INSTACHAT_HUEY_URL", "redis://elsewhere")
    settings = Settings(
        elasticsearch_url="http://127.0.0.1:9200", elasticsearch_api_key="the-key", port=3001
    )
    environment = settings_environment(settings.model_copy(update={"huey_url": None}))
    given = {k: v for k, v in environment.items() if k.startswith("INSTACHAT_")}
    assert given == {
        "INSTACHAT_ELASTICSEARCH_URL": "http://127.0.0.1:9200",
        "INSTACHAT_ELASTICSEARCH_API_KEY": "the-key",
        "INSTACHAT_PORT": "3001",
    }
    assert environment.keys() - given.keys()


def test_a_child_ends_with_its_context_even_if_it_ignores_sigterm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is killed after the time limit."""
    monkeypatch.setattr("instachat_cli.bench.harness.processes.STOP_TIMEOUT_SECONDS", 0.2)
    ready = tmp_path / "ready"
    code = (
        "import pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "time.sleep(600)"
    )
    with child_process([sys.executable, "-c", code], {}) as process:
        wait_ready(process, ready.exists, "the child", 0.01)
        assert psutil.pid_exists(process.pid)
    assert process.returncode == -9


def test_a_child_that_ends_early_is_not_waited_for() -> None:
    """Failed names it, instead of a wait until the time limit."""
    command = [sys.executable, "-c", ""]
    with (
        child_process(command, {}, stdout=subprocess.DEVNULL) as process,
        pytest.raises(Failed, match="the child did not start"),
    ):
        wait_ready(process, lambda: False, "the child", 0.01)
