"""Deleting commands ask for confirmation; a dry run writes nothing."""

import subprocess
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest
import redis
from sqlalchemy import text

from backend.storage.postgres.database import Database
from tests.cli.conftest import Cli, Terminal
from tests.support.waiting import PATIENCE_SECONDS


@pytest.fixture
def family(cli: Cli) -> tuple[str, str]:
    """The tokens of two applications: one with a full and an empty chat, one without chats."""
    token, other = (cli("apps", "create", name).json["token"] for name in ("full", "empty"))
    cli("chats", "create", token, "--count", 2, "--wait", "stored")
    cli("messages", "create", token, 1, "text", "--wait", "stored")
    return token, other


def everything(cli: Cli) -> tuple[Any, Any]:
    """The content of SQL and of Redis, without keys that expire."""
    client = redis.Redis.from_url(cli.env["INSTACHAT_REDIS_URL"])
    cache = {key: client.dump(key) for key in client.scan_iter() if client.ttl(key) == -1}
    database = Database(cli.env["INSTACHAT_DATABASE_URL"])
    with closing(database), database.connect() as connection:
        names = connection.scalars(
            text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        )
        rows = {
            name: connection.scalars(text(f"SELECT t::text FROM {name} t ORDER BY 1")).all()
            for name in list(names)
        }
    return cache, rows


def test_a_dry_run_has_the_exit_code_of_the_command_and_writes_nothing(
    cli: Cli, family: tuple[str, str]
) -> None:
    """It says what would be deleted. Redis and SQL stay the same, byte for byte."""
    token, other = family
    before = everything(cli)
    results = cli.run_all(
        [
            ("apps", "delete", other, "--dry-run"),
            ("chats", "delete", token, 2, "--dry-run"),
            ("messages", "delete", token, 1, 1, "--dry-run"),
            ("messages", "delete", token, 1, 1, "--dry-run", "-o", "table"),
            ("messages", "delete", token, 1, 2, "--dry-run"),
            ("chats", "delete", token, 1, "--dry-run"),
            ("migrate", "--dry-run"),
        ]
    )
    assert everything(cli) == before
    assert [result.code for result in results] == [0, 0, 0, 0, 3, 6, 0]
    assert results[0].json == {"token": other, "deleted": False}
    assert results[1].json == {"number": 2, "deleted": False}
    assert "would delete message 1" in results[3].out


def test_deleting_without_a_terminal_requires_yes(cli: Cli, family: tuple[str, str]) -> None:
    """Otherwise it exits with 2 and deletes nothing; a `y` in a pipe does not count."""
    token, other = family
    before = everything(cli)
    for words in (
        ("apps", "delete", other),
        ("chats", "delete", token, 2),
        ("messages", "delete", token, 1, 1),
    ):
        refused = cli(*words, stdin="y\n")
        assert refused.code == 2
        assert "--yes" in refused.err
    assert everything(cli) == before


def test_deleting_on_a_terminal_asks(cli: Cli, token: str, chat: int) -> None:
    """Only a yes deletes. Any other answer, or the end of the input, changes nothing."""
    cli("messages", "create", token, chat, "text", "--wait", "stored")
    words: Sequence[object] = ("messages", "delete", token, chat, 1)
    for answer, code in (("\n", 1), ("no\n", 1), ("\x04", 1), ("\x03", 130), ("y\n", 0)):
        terminal = Terminal(cli, *words)
        terminal.wait_for_text(f"Delete message 1 of chat {chat}? [y/N] ")
        terminal.type(answer)
        assert terminal.end() == code, terminal.shown
        there = cli("messages", "show", token, chat, 1).code
        assert there == (3 if code == 0 else 0)


def test_the_question_escapes_control_characters_of_a_name(cli: Cli) -> None:
    token = cli("apps", "create", "evil\x1b[2J\rname").json["token"]
    terminal = Terminal(cli, "apps", "delete", token)
    terminal.wait_for_text("[y/N] ")
    terminal.type("y\n")
    assert terminal.end() == 0
    assert "\x1b[2J" not in terminal.shown
    assert "evil␛[2J␍name" in terminal.shown


def test_deleting_with_yes_works_without_input(cli: Cli, token: str, chat: int) -> None:
    """Cron runs commands this way."""
    process = cli.start(
        "chats", "delete", token, chat, "--yes", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert (
        process.communicate(timeout=PATIENCE_SECONDS)[0]
        == b'{"number": %d, "deleted": true}\n' % chat
    )
    assert process.returncode == 0
