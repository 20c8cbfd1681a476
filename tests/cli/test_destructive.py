"""What destroys asks first; a dry run writes nothing, anywhere."""

import subprocess
from collections.abc import Sequence
from typing import Any

import redis
from sqlalchemy import text

from backend.bootstrap import Backend
from tests.cli.conftest import Cli, Terminal


def everything(core: Backend) -> tuple[Any, Any]:
    """All that is in Redis and in SQL."""
    client = redis.Redis.from_url(core.log.url)
    keys = sorted(client.keys())
    cache = {key: client.dump(key) for key in keys if key != b"instachat:workers"}
    with core.database.connect() as connection:
        tables = connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname='public'"))
        rows = {
            table: connection.scalars(text(f"SELECT t::text FROM {table} t ORDER BY 1")).all()
            for table in list(tables)
        }
    return cache, rows


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    cli: Cli, core: Backend, token: str, chat: int
) -> None:
    """Its exit code is that of the real thing; Redis and SQL are the same to the byte."""
    cli("messages", "create", token, chat, "text", "--wait", "stored")
    other = cli("apps", "create", "no chats").json["token"]
    cli("chats", "create", token, "--wait", "stored")
    before = everything(core)
    results = cli.each(
        [
            ("apps", "delete", other, "--dry-run"),
            ("chats", "delete", token, chat + 1, "--dry-run"),
            ("messages", "delete", token, chat, 1, "--dry-run"),
            ("messages", "delete", token, chat, 1, "--dry-run", "-o", "table"),
            ("messages", "delete", token, chat, 2, "--dry-run"),
            ("chats", "delete", token, chat, "--dry-run"),
            ("migrate", "--dry-run"),
        ]
    )
    assert everything(core) == before
    assert [result.code for result in results] == [0, 0, 0, 0, 3, 6, 0]
    assert results[0].json == {"token": other, "deleted": False}
    assert results[1].json == {"number": chat + 1, "deleted": False}
    assert "would delete message 1" in results[3].out


def test_without_a_terminal_and_without_yes_it_refuses(
    cli: Cli, core: Backend, token: str, chat: int
) -> None:
    """Exit 2, nothing is deleted, and the hint names --yes; a piped `y` is no terminal."""
    cli("messages", "create", token, chat, "text", "--wait", "stored")
    before = everything(core)
    for words in (
        ("apps", "delete", token),
        ("chats", "delete", token, chat),
        ("messages", "delete", token, chat, 1),
    ):
        refused = cli(*words, stdin="y\n")
        assert refused.code == 2
        assert "--yes" in refused.err
    assert everything(core) == before


def test_on_a_terminal_it_asks(cli: Cli, token: str, chat: int) -> None:
    """Only a yes deletes; anything else, and the end of the input, leaves it."""
    cli("messages", "create", token, chat, "text", "--wait", "stored")
    words: Sequence[object] = ("messages", "delete", token, chat, 1)
    for answer, code in (("\n", 1), ("no\n", 1), ("\x04", 1), ("\x03", 130), ("y\n", 0)):
        terminal = Terminal(cli, *words)
        terminal.until(f"Delete message 1 of chat {chat}? [y/N] ")
        terminal.type(answer)
        assert terminal.end() == code, terminal.shown
        there = cli("messages", "show", token, chat, 1).code
        assert there == (3 if code == 0 else 0)


def test_asking_shows_a_name_without_obeying_it(cli: Cli) -> None:
    """An application's name is a stranger's text: its escape sequences don't reach the terminal."""
    token = cli("apps", "create", "evil\x1b[2J\rname").json["token"]
    terminal = Terminal(cli, "apps", "delete", token)
    terminal.until("[y/N] ")
    terminal.type("y\n")
    assert terminal.end() == 0
    assert "\x1b[2J" not in terminal.shown
    assert "evil␛[2J␍name" in terminal.shown


def test_yes_needs_no_terminal(cli: Cli, token: str, chat: int) -> None:
    """As in a cron line: no input at all."""
    process = cli.start(
        "chats", "delete", token, chat, "--yes", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.communicate(timeout=20)[0] == b'{"number": %d, "deleted": true}\n' % chat
    assert process.returncode == 0
