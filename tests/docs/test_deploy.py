"""The files of deploy/ work: the cron line in cron's minimal environment, units, alerts, the dashboard."""

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from backend.bootstrap import Backend
from backend.ingest.requests import AcceptRequest
from backend.worker.queue import SHUTDOWN_TIMEOUT_SECONDS
from tests.cli.test_help import COMMANDS

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


def read_unit(path: Path) -> RawConfigParser:
    unit = RawConfigParser(strict=True)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(path)
    return unit


UNITS = sorted((ROOT / "deploy").glob("*.service")) + sorted((ROOT / "deploy").glob("*.timer"))


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_the_units_are_well_formed(path: Path) -> None:
    """A service runs a command of the program on the settings. systemd checks all if it is installed."""
    unit = read_unit(path)
    if path.suffix == ".timer":
        assert unit["Timer"]["OnCalendar"] == "hourly"
        assert unit["Timer"]["Persistent"] == "true"  # at once after a missed run
        assert unit["Install"]["WantedBy"] == "timers.target"
    else:
        service = unit["Service"]
        program, command, *options = service["ExecStart"].split()
        assert (program, service["EnvironmentFile"], service["User"]) == (
            *(PROGRAM, SETTINGS),
            "instachat",
        )
        known = {name for each in COMMANDS[command,].params for name in each.opts}
        assert {option for option in options if option.startswith("-")} <= known
    if analyze := shutil.which("systemd-analyze"):
        done = subprocess.run(
            [analyze, "verify", path], capture_output=True, text=True, check=False
        )
        complaints = [line for line in done.stderr.splitlines() if PROGRAM not in line]
        assert not complaints


@pytest.mark.parametrize("name", ["serve", "worker"])
def test_a_service_that_runs_is_started_again_and_has_the_time_to_stop(name: str) -> None:
    """Longer than the program itself takes: a worker waits for its jobs for 30 seconds."""
    unit = read_unit(ROOT / "deploy" / f"instachat-{name}.service")
    assert unit["Service"]["Restart"] == "always"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert int(unit["Service"]["TimeoutStopSec"].rstrip("s")) > SHUTDOWN_TIMEOUT_SECONDS
    assert unit["Install"]["WantedBy"] == "multi-user.target"


RULES_FILE = ROOT / "deploy" / "prometheus-rules.yml"
RULES = [
    rule for group in yaml.safe_load(RULES_FILE.read_text())["groups"] for rule in group["rules"]
]


def test_every_alert_is_complete() -> None:
    """Names are unique; each has an expression, a severity, and what it says.

    promtool checks them if it is installed. `tests/http/test_metrics.py` tests that the metrics exist.
    """
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names)) >= 12
    for rule in RULES:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"[0-9]+m", rule.get("for", "1m"))
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "runbook"}
        for opening, closing in ("()", "[]", "{}"):
            assert rule["expr"].count(opening) == rule["expr"].count(closing)
    if promtool := shutil.which("promtool"):
        subprocess.run([promtool, "check", "rules", RULES_FILE], check=True, capture_output=True)


def test_every_alert_has_a_section_and_a_row() -> None:
    """docs/incidents.md has no other section, and docs/monitoring.md names the same severity."""
    incidents = (ROOT / "docs" / "incidents.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (\w+)$", incidents, re.MULTILINE)
    assert sections == [rule["alert"] for rule in RULES]
    monitoring = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    for rule in RULES:
        name, anchor = rule["alert"], f"incidents.md#{rule['alert'].lower()}"
        assert rule["annotations"]["runbook"] == f"docs/{anchor}"
        assert f"| [{name}]({anchor}) | {rule['labels']['severity']} |" in monitoring


def test_the_dashboard_has_queries_in_every_panel() -> None:
    """Each panel has a title and a unit; nothing overlaps; each query is of the chosen Prometheus and job."""
    board: Any = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert panel["title"]
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["targets"]
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
            named = re.findall(r"instachat_\w+(\{[^}]*)?", target["expr"].replace("{token}", ""))
            assert named
            assert all('job="$job"' in labels for labels in named), target["expr"]
