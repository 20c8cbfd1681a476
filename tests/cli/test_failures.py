"""Every failure has its exit code and a plain message, and never a traceback."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import make_url

from backend.bootstrap import Backend
from tests.cli.conftest import Cli
from tests.support.engines import RedisServer, free_port, valkey_binary
from tests.support.pgbouncer import need_sessions
from tests.support.waiting import promised

UNKNOWN = "A" * 32
USAGE = [
    ["nonsense"],
    ["apps", "nonsense"],
    ["apps", "create"],
    ["apps", "create", "a", "b"],
    ["apps", "list", "--nonsense"],
    ["apps", "list", "--limit", "0"],
    ["apps", "list", "--limit", "-1"],
    ["apps", "list", "--limit", "1.5"],
    ["apps", "list", "--limit", "many"],
    ["apps", "list", "-o", "yaml"],
    ["apps", "list", "-o"],
    ["chats", "show", UNKNOWN, "one"],
    ["chats", "show", UNKNOWN, "1.0"],
    ["chats", "show", UNKNOWN, "1_0"],
    ["chats", "show", UNKNOWN, "٣"],
    ["chats", "show", UNKNOWN, ""],
    ["chats", "list", UNKNOWN, "--after", "-1"],
    ["chats", "create", UNKNOWN, "--count", "0"],
    ["chats", "create", UNKNOWN, "--count", "9" * 400],
    ["chats", "create", UNKNOWN, "--count", "x"],
    ["chats", "create", UNKNOWN, "--timeout", "nan"],
    ["chats", "create", UNKNOWN, "--timeout", "-1"],
    ["chats", "create", UNKNOWN, "--wait", "forever"],
    ["messages", "create", UNKNOWN, "1"],
    ["messages", "show", UNKNOWN, "1", "2", "3"],
    ["--nonsense"],
    ["search", UNKNOWN, "1"],
    ["doctor", "now"],
]


def test_wrong_usage_exits_with_2(cli: Cli) -> None:
    """A command, option or number is wrong, or an argument is missing. JSON errors are one object."""
    as_json = [["-o", "json"] if "-o" not in words else [] for words in USAGE]
    results = cli.run_all(
        [[*words[:2], *json, *words[2:]] for words, json in zip(USAGE, as_json, strict=True)]
    )
    for words, json, result in zip(USAGE, as_json, results, strict=True):
        assert result.code == 2, (words, result)
        assert result.out == ""
        if json:
            assert result.error["error"] == "invalid", result
            assert set(result.error) == {"error", "message", "hint"}
        else:
            assert result.err.startswith("error: ")
            assert "\nhint: see `instachat " in result.err


def test_invalid_texts_and_names_exit_with_2_and_change_nothing(
    cli: Cli, core: Backend, token: str, chat: int
) -> None:
    """They are empty, too long, or not UTF-8. No number is used up."""
    bad: list[str | bytes] = ["", "x" * 10_001, b"caf\xe9", b"\xed\xa0\x80"]
    results = cli.run_all(
        [
            *(("messages", "create", token, chat, text, "-o", "json") for text in bad),
            *(("messages", "edit", token, chat, 1, text) for text in bad),
            *(("apps", "rename", token, name) for name in ("", "x" * 256, b"\xff")),
            ("apps", "create", "x" * 256),
            ("apps", "create", b"\xff", "-o", "json"),
            ("search", token, chat, ""),
            ("search", token, chat, "x" * 257),
            ("search", token, chat, "\u0640"),
            ("search", token, chat, b"\xff"),
        ]
    )
    assert [result.code for result in results] == [2] * len(results)
    assert results[0].error["error"] == "invalid"
    assert "empty" in results[0].error["message"]
    assert "10,001" in results[1].error["message"]
    assert core.catalog.applications.get(token).name == "test"
    assert cli("messages", "create", token, chat, "é" * 10_000).json == {"number": 1}


def test_unknown_tokens_and_numbers_exit_with_3(cli: Cli, token: str, chat: int) -> None:
    """This includes zero, and numbers beyond every limit."""
    commands: list[list[object]] = []
    for odd in (UNKNOWN, "x", "", b"\xff", "../..", "A" * 500):
        commands.append(["apps", "show", odd])
    commands += [
        ["apps", "rename", UNKNOWN, "new"],
        ["apps", "delete", UNKNOWN, "--yes"],
        ["apps", "delete", UNKNOWN, "--dry-run"],
        ["chats", "create", UNKNOWN],
        ["chats", "create", UNKNOWN, "--count", 2000],
        ["chats", "list", UNKNOWN],
        ["chats", "show", token, 99],
        ["chats", "show", token, 0],
        ["chats", "show", token, 10**400],
        ["chats", "delete", token, 99, "--yes"],
        ["messages", "create", token, 99, "text"],
        ["messages", "create", UNKNOWN, 1, "text"],
        ["messages", "list", token, 99],
        ["messages", "show", token, chat, 1],
        ["messages", "show", token, chat, 2**63],
        ["messages", "edit", token, chat, 1, "text"],
        ["messages", "delete", token, chat, 1, "--yes"],
        ["search", token, 99, "x"],
    ]
    for words, result in zip(commands, cli.run_all(commands), strict=True):
        assert result.code == 3, (words, result)
        assert result.out == ""
        assert "error: " in result.err
    failed = cli("messages", "create", token, 99, "-", "-o", "json", stdin="text\n")
    assert failed.code == 3
    assert failed.error["error"] == "not_found"


def test_a_negative_number_is_wrong_usage(cli: Cli, token: str) -> None:
    """It looks like an option: the exit code is 2, with a hint, or 3 after `--`."""
    option, number = cli.run_all([("chats", "show", token, -1), ("chats", "show", token, "--", -1)])
    assert option.code == 2
    assert "--" in option.err
    assert number.code == 3


def test_deleting_a_parent_with_children_exits_with_6(cli: Cli, token: str, chat: int) -> None:
    """Nothing is deleted, and a dry run reports the same."""
    cli("messages", "create", token, chat, "child", "--wait", "stored")
    results = cli.run_all(
        [
            ("apps", "delete", token, "--yes", "-o", "json"),
            ("apps", "delete", token, "--dry-run"),
            ("chats", "delete", token, chat, "--yes", "-o", "json"),
            ("chats", "delete", token, chat, "--dry-run"),
        ]
    )
    assert [result.code for result in results] == [6, 6, 6, 6]
    assert results[0].error["error"] == results[2].error["error"] == "conflict"
    assert cli("chats", "show", token, chat).json["messages_count"] == 1


@pytest.mark.parametrize("away", ["database_url", "redis_url"])
def test_an_unreachable_engine_exits_with_5_within_5_seconds(
    cli: Cli, token: str, away: str
) -> None:
    """The message names the engine without its password, and a command that checks it."""
    assert token  # of an application: without one, Redis has nothing to tell
    scheme = "postgresql" if away == "database_url" else "redis"
    url = f"{scheme}://user:secret@127.0.0.1:{free_port()}/0"
    for words in (["apps", "list"], ["apps", "create", "x"], ["status"], ["doctor"]):
        with promised(5):
            failed = cli(*words, "-o", "json", env={f"INSTACHAT_{away.upper()}": url})
        assert failed.code == 5, failed
        assert failed.error["error"] == "unavailable"
        assert "secret" not in failed.out + failed.err
    named = cli("apps", "create", "x", env={f"INSTACHAT_{away.upper()}": url}).err
    assert ("PostgreSQL" if away == "database_url" else "Redis") in named
    assert "hint: check it with " in named
    assert f"INSTACHAT_{away.upper()}" in named


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("DATABASE", "postgresql://u:s3c@r3t@127.0.0.1/x"),
        ("DATABASE", "postgresql://u:s3c?x@r3t@127.0.0.1/x"),
        ("DATABASE", "mysql://u:s3cr3t@127.0.0.1/x"),
        ("DATABASE", "host=127.0.0.1 password=s3cr3t"),
        ("DATABASE", "postgresql://u:s3c%00r3t@127.0.0.1/x"),
        ("DATABASE", "postgresql://u:s3cr3t/x"),
        ("REDIS", "redis://:s3c#r3t@127.0.0.1/0"),
        ("REDIS", "redis://u:98765/r3t@127.0.0.1/0"),
        ("HUEY", "redis://:s3c#r3t@127.0.0.1/0"),
    ],
)
def test_an_unusable_url_exits_with_2_and_no_part_of_its_password(
    cli: Cli, name: str, url: str
) -> None:
    """Also where a character of the password makes a part of it look like a host or a port."""
    for command in (("apps", "create", "x"), ("apps", "list")):
        failed = cli(*command, "-o", "json", env={f"INSTACHAT_{name}_URL": url})
        assert (failed.code, failed.error["error"]) == (2, "invalid")
        assert "can't be used" in failed.error["message"]
        for part in ("s3c", "r3t", "98765"):
            assert part not in failed.err


def test_a_role_that_may_only_read_and_a_database_without_unicode_are_expected_failures(
    cli: Cli, core: Backend
) -> None:
    """The errors name the table and the encoding; neither is called a fault of the program."""
    need_sessions()  # a pooler knows no other role
    role = f"reader_{uuid4().hex}"
    url = make_url(cli.env["INSTACHAT_DATABASE_URL"])
    with core.database.begin() as tx:
        tx.exec_driver_sql(
            f"CREATE ROLE {role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
        )
    try:
        failed = cli(
            *("apps", "create", "x"),
            env={
                "INSTACHAT_DATABASE_URL": url.set(username=role).render_as_string(
                    hide_password=False
                )
            },
        )
        assert failed.code == 5, failed
        assert "permission denied for table" in failed.err
        assert "`instachat doctor`" in failed.err
    finally:
        with core.database.begin() as tx:
            tx.exec_driver_sql(f"DROP OWNED BY {role}; DROP ROLE {role}")
    name = f"ascii_{uuid4().hex}"
    with core.database.connect() as connection:
        connection.exec_driver_sql(
            f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"
        )
    try:
        env = {
            "INSTACHAT_DATABASE_URL": url.set(database=name).render_as_string(hide_password=False)
        }
        failed = cli("migrate", env=env)
        assert (failed.code, "SQL_ASCII" in failed.err) == (1, True)
        assert "UTF8" in failed.err
        found = cli("doctor", env=env)
        assert found.code == 4
        assert "SQL_ASCII" in found.out
    finally:
        with core.database.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name}")


def test_a_server_on_a_taken_port_does_not_say_that_it_listens(cli: Cli) -> None:
    """Neither `serve` nor `up`."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        for command in ("serve", "up"):
            failed = cli(command, "--port", server.getsockname()[1])
            assert failed.code == 1, failed
            assert "can't listen on" in failed.err
            assert "listening on" not in failed.err


def test_a_server_is_not_started_on_a_node_of_a_cluster(cli: Cli) -> None:
    """The hint names the URL that it needs. The port is taken: without the check it would not start, too."""
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    node = RedisServer(valkey_binary(), *options)
    node.start()
    try:
        failed = cli("serve", "--port", node.port, env={"INSTACHAT_REDIS_URL": node.url})
    finally:
        node.remove()
    assert failed.code == 1, failed
    assert "redis+cluster://" in failed.err


@pytest.mark.parametrize("silent", ["database_url", "redis_url"])
def test_an_engine_that_never_answers_exits_with_5_within_5_seconds(cli: Cli, silent: str) -> None:
    """It accepts the connection, but counts as unreachable."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        scheme = "postgresql" if silent == "database_url" else "redis"
        url = f"{scheme}://127.0.0.1:{server.getsockname()[1]}/0"
        with promised(5):
            failed = cli("apps", "create", "x", env={f"INSTACHAT_{silent.upper()}": url})
        assert failed.code == 5, failed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("INSTACHAT_DURABILITY", "sometimes"),
        ("INSTACHAT_DURABLE_REPLICAS", "-1"),
        ("INSTACHAT_DATABASE_URL", "nonsense"),
        ("INSTACHAT_REDIS_URL", "nonsense"),
        ("INSTACHAT_REDIS_URL", "http://localhost"),
        ("INSTACHAT_HUEY_URL", "nonsense"),
    ],
)
def test_an_invalid_setting_is_an_error_without_a_traceback(
    cli: Cli, name: str, value: str
) -> None:
    """This holds for every command."""
    failed = cli("apps", "create", "x", env={name: value})
    assert failed.code in (1, 2, 5), failed
    assert "unexpected" not in failed.err, failed.err
    assert failed.err.startswith("error: ")


def test_closed_pipes_and_full_disks_show_no_traceback(cli: Cli, token: str) -> None:
    """A closed pipe ends the command quietly, a full disk is an error, and closed streams are ignored."""
    for words, expected in (
        ("apps list | head -c 1 >/dev/null; exit ${PIPESTATUS[0]}", (0,)),
        ("apps list -o json | true; exit ${PIPESTATUS[0]}", (0,)),
        ("apps list >/dev/full", (1,)),
        ("--help >/dev/full", (1,)),
        ("apps list >&-", (0,)),
        ("apps list 2>&-", (0,)),
        ("apps list <&-", (0,)),
        (f"messages create {token} 1 - <&-", (0,)),
        (f"messages create {token} 1 - < /", (1,)),
    ):
        done = subprocess.run(
            check=False,
            args=["bash", "-c", f'"$0" -m instachat_cli {words}', sys.executable],
            env=cli.env,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode in expected, (words, done)
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr


def test_json_is_utf8_in_every_locale(cli: Cli, token: str) -> None:
    for locale in ({"LC_ALL": "C"}, {"PYTHONIOENCODING": "latin-1"}):
        renamed = cli.run_process("apps", "rename", token, "مكتب 🙂", env=locale)
        assert renamed.json["name"] == "مكتب 🙂"


def test_an_unexpected_error_is_reported_in_one_line(cli: Cli, tmp_path: Path) -> None:
    """The exit code is 1. The traceback is shown only on request."""
    (tmp_path / "sqlalchemy.py").write_text("raise RuntimeError('broken')")
    path = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{cli.env['PYTHONPATH']}"}
    failed = cli.run_process("apps", "list", "-o", "json", env=path)
    assert failed.code == 1
    assert failed.error["error"] == "failed"
    assert "unexpected RuntimeError" in failed.error["message"]
