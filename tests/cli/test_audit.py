"""`instachat audit list`: what operators have changed, and that no command's change is forgotten."""

import getpass
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from backend.bootstrap import Backend
from instachat_cli.console.invocation import describe_target, is_audited
from tests.cli.conftest import Cli, Terminal
from tests.cli.test_help import COMMANDS
from tests.support.waiting import wait_until

# Every command that changes something, and the option without or with which it does. A new command is audited
# until it says otherwise, and belongs here.
AUDITED = {
    *("apps create", "apps delete", "apps rename", "apps limit", "chats delete"),
    *("apps retention", "apps rotate"),
    *("messages delete", "messages edit", "purge", "erase", "import"),
    *("queue pause", "queue resume", "dead purge", "dead retry"),
    *("migrate", "reindex", "reshard", "adopt-redis"),
}
AUDITED_WITH: Mapping[str, dict[str, object]] = {
    "reconcile": {"repair": True},
    "doctor": {"fix": True},
}
NOT_AUDITED_WITH: Mapping[str, dict[str, object]] = {"reindex": {"check": True}}


def audited(values: dict[str, object]) -> set[str]:
    """The commands whose runs with these arguments are audited."""
    return {
        " ".join(path)
        for path, command in COMMANDS.items()
        if not hasattr(command, "commands") and is_audited(command.callback, values)
    }


def rows(cli: Cli, *words: object) -> list[dict[str, Any]]:
    """The audit trail, the newest first."""
    return cli("audit", "list", *words).lines


def test_each_command_that_changes_something_is_audited() -> None:
    """All others say that they are not; a dry run never is."""
    assert audited({}) == AUDITED
    for command, values in AUDITED_WITH.items():
        assert audited(values) == {*AUDITED, command}
    for command, values in NOT_AUDITED_WITH.items():
        assert audited(values) == AUDITED - {command}
    assert audited({"dry_run": True, "repair": True}) == set()


def test_each_change_leaves_a_row(cli: Cli, token: str, chat: int, tmp_path: Path) -> None:
    """When, who, what and with which result; failures, too; no text, no name, of a token the beginning."""
    cli("messages", "create", token, chat, "-", "--wait", "stored", stdin="secret\n" * 3)
    exported = tmp_path / "out.jsonl"
    made = cli("apps", "create", "Secret desk", "-q").out.strip()
    for words in (
        ("apps", "rename", token, "Secret desk"),
        ("messages", "edit", token, chat, 1, "a secret"),
        ("messages", "delete", token, chat, 2, "--dry-run"),
        ("messages", "delete", token, chat, "--from", 2, "--yes"),
        ("purge", "--older-than", "90d", "--app", token, "--yes"),
        ("queue", "resume"),
        ("export", exported),
        ("import", exported),
        ("reconcile", "--repair"),
    ):
        assert cli(*words).code == 0, words
    assert cli("dead", "retry", "1-2-3-4").code == 3
    assert cli("apps", "delete", token, "--yes").code == 6
    named = f"{token[:8]}…"
    found = rows(cli)
    assert [
        (row["command"], row["target"], row["result"], row["counts"]) for row in reversed(found)
    ] == [
        ("apps create", f"… → {made[:8]}…", "done", {}),
        ("apps rename", f"{named} …", "done", {}),
        ("messages edit", f"{named} 1 1 …", "done", {}),
        ("messages delete", f"{named} 1 --from 2", "done", {"messages": 2}),
        ("purge", f"--older-than 90d --app {named}", "done", {}),
        ("queue resume", "", "done", {}),
        (
            "import",
            str(exported),
            "done",
            {"applications": 0, "chats": 0, "messages": 0, "skipped": 6},
        ),
        ("reconcile", "--repair", "done", {"differences": 0, "repaired": 0}),
        ("dead retry", "1-2-3-4", "not_found", {}),
        ("apps delete", named, "conflict", {}),
    ]
    for row in found:
        assert row["actor"] == f"{getpass.getuser()}@{socket.gethostname()}"
        assert row["started_at"] <= row["finished_at"]
    shown = cli("audit", "list", "-o", "table").out
    assert "secret" not in shown.lower().replace(str(exported).lower(), "")
    assert token not in shown
    assert [row["command"] for row in rows(cli, "--limit", 2)] == ["apps delete", "dead retry"]
    assert rows(cli, "--since", found[0]["started_at"]) == found[:1]
    assert cli("audit", "list", "--since", "0s", "-o", "json").json == []


def test_a_change_that_does_not_end_leaves_a_row(cli: Cli, core: Backend, token: str) -> None:
    """One that is not confirmed, one that is interrupted, and one whose process is killed."""
    refused = Terminal(cli, "apps", "delete", token)
    refused.wait_for_text("[y/N]")
    refused.type("n\n")
    assert refused.end() == 1
    interrupted = Terminal(cli, "import", "-")
    wait_until(lambda: len(list(core.audit_trail.list())) == 2)
    interrupted.type("\x03")
    assert interrupted.end() == 130
    killed = cli.start("import", "-", stdin=subprocess.PIPE)
    wait_until(lambda: len(list(core.audit_trail.list())) == 3)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    found = rows(cli)
    assert [row["result"] for row in found] == ["unfinished", "interrupted", "not_confirmed"]
    assert [row["finished_at"] is None for row in found] == [True, False, False]


@pytest.mark.parametrize(
    ("path", "values", "target"),
    [
        ("dead purge", {"ids": [f"3-1-17-{n}" for n in range(9)]}, "and 4 more"),
        (
            "dead retry",
            {"ids": (), "all_": True, "reason": "secret", "limit": 7},
            "--all --reason … --limit 7",
        ),
        ("messages edit", {"token": "x", "chat": 1, "number": 2, "text": "t"}, "x… 1 2 …"),
        ("reshard", {"count": 128, "app": None, "dry_run": False, "output": None}, "128"),
        ("purge", {"older_than": 5400, "yes": True}, "--older-than 90m"),
    ],
)
def test_a_target_reads_like_the_command_line(
    path: str, values: dict[str, object], target: str
) -> None:
    """Long lists are cut, and what is as it would be without a word is left out."""
    shown = describe_target(COMMANDS[tuple(path.split())].params, values)
    assert shown.endswith(target)
    assert not shown.startswith(" ")
