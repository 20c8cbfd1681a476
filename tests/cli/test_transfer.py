"""`export` and `import` as commands: files and pipes, exit codes, interruptions, memory."""

import json
import os
import random
import re
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count as numbers_from
from itertools import islice
from pathlib import Path

import pytest
from sqlalchemy import text

from backend.bootstrap import Backend, open_backend
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from backend.transfer.format import CHUNK_LINES
from instachat_cli.console.output import dumps
from tests.cli.conftest import MEBIBYTE, Cli, Terminal
from tests.conftest import Engines
from tests.support.fork_server import ForkServer, checked
from tests.support.transfer_lines import application_line, chat_line, message_line
from tests.support.waiting import PATIENCE_SECONDS, wait_until

T = "t" * 24
AT = "2026-01-31T23:59:59.000000Z"
TEXTS = ["Good morning", "صباح الخير", "👩‍👩‍👧‍👦\x1b[2J\u2028\x7f", 'quote " and \\']


@pytest.fixture
def elsewhere(engines: Engines) -> Settings:
    """Another installation, empty."""
    return engines.installation()


@pytest.fixture
def there(fork_server: ForkServer, elsewhere: Settings) -> Cli:
    """The program on the other installation."""
    return Cli(fork_server, database_url=elsewhere.database_url, redis_url=elsewhere.redis_url)


@pytest.fixture
def other(elsewhere: Settings) -> Iterator[Backend]:
    """The other installation's core."""
    with open_backend(elsewhere) as core:
        yield core


@pytest.fixture
def filled(core: Backend, token: str, chat: int) -> str:
    """The token of an application with a chat of messages, one deleted, one edited, and a deleted chat."""
    core.acceptor.accept(AcceptRequest.chats(token))
    core.acceptor.accept(AcceptRequest.messages(token, chat, TEXTS))
    core.catalog.messages.delete(token, chat, 1)
    core.catalog.messages.edit(token, chat, 4, {"text": "edited"})
    core.catalog.chats.delete(token, 2)
    return token


def lines(messages: int, chats: int = 1, size: int = 20) -> list[str]:
    """The export lines of an application with `messages` messages, in chats of equal length."""
    found = [application_line(T, "n", chats, AT, AT)]
    for chat in range(1, chats + 1):
        found.append(chat_line(T, chat, messages // chats, AT, AT))
        for number in range(1, messages // chats + 1):
            found.append(message_line(T, chat, number, f"{number:0{size}}", AT, AT))
    return found


def stored(core: Backend) -> int:
    """The number of stored messages."""
    with core.database.connect() as connection:
        return int(connection.scalar(text("SELECT count(*) FROM message")) or 0)


def test_an_import_into_another_installation_exports_the_same_bytes(
    cli: Cli, there: Cli, filled: str, tmp_path: Path
) -> None:
    """This holds through a file and through pipes."""
    file = tmp_path / "backup.jsonl"
    written = cli("export", file, "--app", filled)
    data = file.read_text()
    assert written.json == {"lines": 7, "file": str(file)}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600, "it holds tokens"
    assert cli("export", "--app", filled).out == data
    assert [dumps(json.loads(line)) for line in data.splitlines()] == data.splitlines()

    would = there("import", file, "--dry-run")
    assert there("export").out == ""
    first, second = there("import", file), there("import", "-", stdin=data)
    assert would.json == first.json == {"applications": 1, "chats": 2, "messages": 4, "skipped": 0}
    assert second.json == {"applications": 0, "chats": 0, "messages": 0, "skipped": 7}
    assert there("export").out == there("export", "-").out == data
    assert there("messages", "list", filled, 1).out == cli("messages", "list", filled, 1).out
    assert there("messages", "create", filled, 1, "next").json == {"number": 5}


def test_with_tables_the_outcome_is_a_sentence(there: Cli, tmp_path: Path) -> None:
    """It says what was or would be imported. An empty file is noted, and is not an error."""
    file = tmp_path / "few.jsonl"
    file.write_text("".join(lines(2)))
    would, did, again = (
        there("import", file, *more, "-o", "table").out for more in (["--dry-run"], [], [])
    )
    assert would == "would import: 1 application, 1 chat, 2 messages; nothing was written\n"
    assert did == "imported: 1 application, 1 chat, 2 messages\n"
    assert again == "imported: nothing; 4 lines already existed\n"
    assert there("export", file, "-o", "table").out == f"exported: 4 lines to {file}\n"
    empty = there("import", "-")
    assert (empty.code, "the input was empty" in empty.err) == (0, True)


@pytest.mark.parametrize(
    ("line", "code", "kind", "said"),
    [
        ("{", 2, "invalid", "line 4: not JSON"),
        (message_line(T, 2, 1, "x", AT, AT), 2, "invalid", "line 4: chat 2 is not known"),
        (
            chat_line(T, 1, None, AT, AT),
            6,
            "conflict",
            "line 4: chat 1 differs from an earlier line",
        ),
    ],
    ids=["bad", "parentless", "conflict"],
)
def test_an_import_ends_at_the_first_fault(
    there: Cli, line: str, code: int, kind: str, said: str
) -> None:
    """The error names the line, what was imported before, and the command that reports the other lines."""
    data = "".join([*lines(1), line.rstrip("\n") + "\n", "never"])
    failed = there("import", "-", "-o", "json", stdin=data)
    assert (failed.code, failed.out, failed.error["error"]) == (code, "", kind)
    assert said in failed.error["message"]
    assert "imported before: 1 application, 1 chat, 1 message" in failed.error["message"]
    assert "--dry-run" in failed.error["hint"]
    again = there("import", "-", "-o", "json", stdin=data)
    assert "imported before: nothing; 3 lines already existed" in again.error["message"]


def test_a_dry_run_reports_every_fault(there: Cli) -> None:
    """With `-o json` each is an object. The exit code is 2 if any line is invalid, otherwise 6."""
    conflict = message_line(T, 1, 1, "other", AT, AT)
    data = "".join([*lines(2), conflict, "{\n", "[]\n", conflict])
    failed = there("import", "-", "--dry-run", "-o", "json", stdin=data)
    objects = [json.loads(line) for line in failed.err.splitlines()]
    assert [(found["error"], found.get("line")) for found in objects] == [
        ("conflict", 5), ("invalid", 6), ("invalid", 7), ("conflict", 8), ("invalid", None),
    ]  # fmt: skip
    assert all(found.keys() >= {"error", "message", "hint"} for found in objects)
    assert (failed.code, failed.out) == (2, "")
    plain = there("import", "-", "--dry-run", stdin="".join([*lines(2), conflict]))
    assert plain.code == 6
    assert plain.err.splitlines()[0] == "line 5: message 1 of chat 1 differs from an earlier line"
    assert "invalid lines: 0, conflicts with existing data: 1; nothing was written" in plain.err


def test_a_file_or_engine_that_cannot_be_used_is_reported(cli: Cli, tmp_path: Path) -> None:
    """The cases are a missing file, a folder, an unknown application and an unreachable database."""
    nowhere = {"INSTACHAT_DATABASE_URL": "postgresql://127.0.0.1:1/x"}
    for words, env, code, said in [
        (("import", tmp_path / "none"), {}, 2, "can't be read: No such file"),
        (("import", tmp_path), {}, 2, "can't be read: Is a directory"),
        (("export", tmp_path), {}, 1, "can't be written: Is a directory"),
        (("export", tmp_path / "no" / "file"), {}, 1, "can't be written: No such file"),
        (("export", "--app", "x" * 24), {}, 3, "no application has this token"),
        (("export",), nowhere, 5, "PostgreSQL"),
        (("import", "-"), nowhere, 5, "PostgreSQL"),
    ]:
        failed = cli(*words, env=env)
        assert (failed.code, failed.out) == (code, ""), failed
        assert said in failed.err


def test_an_export_replaces_its_file_only_once_it_is_complete(
    cli: Cli, filled: str, tmp_path: Path
) -> None:
    """A failed export leaves the old file and no other. A link stays a link, a device a device."""
    file, link = tmp_path / "backup.jsonl", tmp_path / "link"
    file.write_text("before")
    file.chmod(0o640)
    assert cli("export", file, "--app", "x" * 24).code == 3
    assert (file.read_text(), list(tmp_path.iterdir())) == ("before", [file])
    link.symlink_to(file)
    assert cli("export", link, "--app", filled).code == 0
    assert file.read_text() == cli("export", "--app", filled).out
    assert (link.is_symlink(), stat.S_IMODE(file.stat().st_mode)) == (True, 0o640)
    assert sorted(tmp_path.iterdir()) == [file, link]
    assert cli("export", "/dev/null", "--app", filled).json["lines"] == 7
    assert Path("/dev/null").is_char_device()


def test_an_export_whose_reader_leaves_ends_without_an_error(cli: Cli, filled: str) -> None:
    """`head` is such a reader."""
    assert filled
    process = cli.start("export", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    process.stdout.close()
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, err) == (0, b"")


def test_ctrl_c_reports_what_was_imported(there: Cli, other: Backend) -> None:
    """The exit code is 130. Importing the same lines again skips the imported ones."""
    data = lines(CHUNK_LINES - 2)
    process = there.start(
        "import", "-", "-o", "json", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )  # fmt: skip
    assert process.stdin
    process.stdin.write("".join(data).encode())
    process.stdin.flush()
    wait_until(lambda: stored(other) == CHUNK_LINES - 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    result = checked(process.returncode, out, err)
    assert (result.code, result.out) == (130, "")
    assert "imported at least: 1 application, 1 chat" in result.error["message"]
    assert there("import", "-", stdin="".join(data)).json["skipped"] == CHUNK_LINES


def endless(token: str) -> Iterator[str]:
    """The lines of an export that never ends."""
    yield application_line(token, "n", 1, AT, AT)
    yield chat_line(token, 1, 0, AT, AT)
    for number in numbers_from(1):
        yield message_line(token, 1, number, f"{number:020}", AT, AT)


def feed(pipe: Path, token: str) -> None:
    """Write these lines until the reader leaves."""
    lines = endless(token)
    with suppress(BrokenPipeError), pipe.open("w") as file:
        while chunk := "".join(islice(lines, 1_000)):
            file.write(chunk)


def test_ctrl_c_at_any_moment_of_an_import_says_what_was_imported(
    there: Cli, other: Backend, tmp_path: Path
) -> None:
    """Whatever it was doing: reading, comparing, writing rows, raising counters, waiting for Redis."""
    dice = random.Random()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for moment in range(6):
        token = f"{moment:024}"
        with ThreadPoolExecutor(1) as feeder:
            feeding = feeder.submit(feed, pipe, token)
            terminal = Terminal(there, "import", pipe)
            terminal.wait_for_text("lines")
            time.sleep(dice.uniform(0, 0.3))
            terminal.type("\x03")
            assert terminal.end() == 130, terminal.shown
            feeding.result(PATIENCE_SECONDS)
        said = re.search(r"interrupted; imported at least: (.*?)\.\s+The same", terminal.shown)
        assert said, terminal.shown
        imported = re.search("([0-9,]+) messages?", said[1])
        at_least = int(imported[1].replace(",", "")) if imported else 0
        with other.database.connect() as connection:
            found = connection.exec_driver_sql(
                "SELECT count(*) FROM message JOIN chat c ON c.id = chat_id"
                " JOIN application a ON a.id = application_id WHERE token = %s",
                (token,),
            ).scalar_one()
        assert at_least <= found <= at_least + CHUNK_LINES


def test_an_import_that_is_killed_repeatedly_completes_like_an_undisturbed_one(
    there: Cli, other: Backend, tmp_path: Path
) -> None:
    """kill -9 comes at random chunks. New numbers follow the imported ones."""
    dice = random.Random(1)
    file = tmp_path / "many.jsonl"
    data = lines(4 * CHUNK_LINES, chats=40)
    file.write_text("".join(data))
    kills = 0
    for least in (0, 0, 1, CHUNK_LINES, 2 * CHUNK_LINES):
        process = there.start("import", file, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        _wait_for(process, lambda least=least: stored(other) >= least)  # type: ignore[misc]
        with_luck = dice.uniform(0, 0.3)
        try:
            process.wait(with_luck)
        except subprocess.TimeoutExpired:
            kills += 1
        process.kill()
        process.communicate()
    assert kills
    assert there("import", file).code == 0
    assert there("export").out == "".join(data)
    assert there("messages", "create", T, 40, "next").json == {"number": CHUNK_LINES // 10 + 1}


def _wait_for(process: "subprocess.Popen[bytes]", condition: Callable[[], bool]) -> None:
    wait_until(lambda: process.poll() is not None or condition())


def test_memory_does_not_grow_with_the_lines(there: Cli, tmp_path: Path) -> None:
    """For a dry run, an import and an export, 30 MB more in six times as many lines take less than 15 MiB."""
    file = tmp_path / "lines.jsonl"
    peaks: list[list[int]] = []
    for count in (5_000, 30_000):
        file.write_text("".join(lines(count, size=1_000)))
        commands = (["import", file, "--dry-run"], ["import", file], ["export", "/dev/null"])
        peaks.append([there.peak_memory(*words) for words in commands])
    assert all(many - few < 15 * MEBIBYTE for few, many in zip(*peaks, strict=True)), peaks


def test_an_import_on_a_terminal_shows_its_progress(there: Cli, tmp_path: Path) -> None:
    """It shows lines, the rate and the remaining time, and at the end the outcome."""
    file = tmp_path / "many.jsonl"
    file.write_text("".join(lines(3 * CHUNK_LINES)))
    terminal = Terminal(there, "import", file)
    terminal.wait_for_text(" lines ")
    terminal.wait_for_text("/s ")
    terminal.wait_for_text("imported: 1 application, 1 chat, 15,000 messages")
    assert terminal.end() == 0
