"""The files of deploy/ work: the cron line in cron's minimal environment, and the systemd units."""

import os
import pwd
import re
import shutil
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest

from backend.bootstrap import Backend
from backend.ingest.requests import AcceptRequest

ROOT = Path(__file__).resolve().parents[2]
CRON = (ROOT / "deploy" / "instachat.cron").read_text()
UNIT = "instachat-sync-counters"
SETTINGS = "/etc/instachat.env"
PROGRAM = "/opt/instachat/.venv/bin/instachat"
LOG = "/var/log/instachat/sync-counters.log"


def test_the_readme_shows_the_delivered_cron_line() -> None:
    """Its paths are also those of the systemd units."""
    line = CRON.splitlines()[-1]
    assert f"```crontab\n{line}\n```" in (ROOT / "README.md").read_text(encoding="utf-8")
    service = (ROOT / "deploy" / f"{UNIT}.service").read_text()
    assert f"EnvironmentFile={SETTINGS}\n" in service
    assert f"ExecStart={PROGRAM} sync-counters\n" in service


def test_the_cron_line_runs_in_crons_bare_environment(backend: Backend, tmp_path: Path) -> None:
    """Five time fields, a user and a command without `%`, which reads all settings from the file."""
    found = re.fullmatch(r"(?:\S+ ){5}instachat (.+)", CRON.splitlines()[-1])
    assert found
    assert "%" not in found[1]
    settings, log, program = tmp_path / "a%20b.env", tmp_path / "sync.log", tmp_path / "instachat"
    settings.write_text(
        f"INSTACHAT_DATABASE_URL='{backend.settings.database_url}&application_name=a%20b'\n"
        f"INSTACHAT_REDIS_URL='{backend.settings.redis_url}'\n"
    )
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m instachat_cli "$@"\n')
    program.chmod(0o755)
    command = found[1]
    for there, here in ((SETTINGS, settings), (LOG, log), (PROGRAM, program)):
        assert there in command
        command = command.replace(there, str(here))
    token = backend.catalog.applications.create("x").token
    backend.acceptor.accept(AcceptRequest.chats(token, 3))
    backend.drainer.drain_all()
    user = pwd.getpwuid(os.geteuid())
    bare = {
        "HOME": user.pw_dir,
        "LOGNAME": user.pw_name,
        "PATH": "/usr/bin:/bin",
        "SHELL": "/bin/sh",
    }
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=ROOT, env=bare, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), log.read_text()
    assert f'{{"token": "{token}", "chat": null, "old": 0, "new": 3}}' in log.read_text()


@pytest.mark.parametrize("kind", ["service", "timer"])
def test_the_units_are_well_formed(kind: str) -> None:
    """The timer runs hourly, and at once after a missed run. systemd checks both if it is installed."""
    unit = RawConfigParser(strict=True)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(ROOT / "deploy" / f"{UNIT}.{kind}")
    if kind == "timer":
        assert unit["Timer"]["OnCalendar"] == "hourly"
        assert unit["Timer"]["Persistent"] == "true"
        assert unit["Install"]["WantedBy"] == "timers.target"
    else:
        assert unit["Service"]["Type"] == "oneshot"
    if analyze := shutil.which("systemd-analyze"):
        done = subprocess.run(
            [analyze, "verify", ROOT / "deploy" / f"{UNIT}.{kind}"],
            capture_output=True,
            text=True,
            check=False,
        )
        complaints = [line for line in done.stderr.splitlines() if PROGRAM not in line]
        assert not complaints
