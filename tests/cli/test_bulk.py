"""Bulk creation: streamed in chunks, in constant memory, always reporting what was accepted."""

import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import pytest

from backend.bootstrap import Backend
from backend.domain.model import Parent
from tests.cli.conftest import MEBIBYTE, Cli
from tests.support.fork_server import checked
from tests.support.waiting import PATIENCE_SECONDS


def issued(core: Backend, token: str, chat: int | None = None) -> int:
    """The highest number given under a parent."""
    return core.counters.read_issued([Parent(token, chat)])[0]


def test_each_line_of_standard_input_becomes_a_message(cli: Cli, token: str, chat: int) -> None:
    """They keep their order. Each chunk of at most 1,000 is printed; only the ends of lines, LF or CRLF, are
    stripped."""
    texts = [f" {n}\t" for n in range(2_500)] + ["a carriage\rreturn", "سلام 🙂\r"]
    lines = "\n".join(texts).replace("9\t\n", "9\t\r\n")
    made = cli("messages", "create", token, chat, "-", "--wait", "stored", stdin=lines)
    assert made.code == 0, made
    assert made.lines[0]["first"] == 1
    for before, after in zip(made.lines, made.lines[1:], strict=False):
        assert after["first"] == before["last"] + 1
    assert all(0 < chunk["last"] - chunk["first"] + 1 <= 1_000 for chunk in made.lines)
    assert made.lines[-1]["last"] == 2_502
    stored = cli("messages", "list", token, chat).lines
    assert [message["text"] for message in stored] == texts


def test_chats_are_created_in_chunks_of_a_thousand(cli: Cli, core: Backend, token: str) -> None:
    """`--count` prints a range for each chunk; with `-o json` they are one array."""
    made = cli("chats", "create", token, "--count", 2_001, "-o", "json")
    assert made.json == [
        {"first": 1, "last": 1_000},
        {"first": 1_001, "last": 2_000},
        {"first": 2_001, "last": 2_001},
    ]
    assert issued(core, token) == 2_001


def test_an_empty_standard_input_creates_nothing(cli: Cli, token: str, chat: int) -> None:
    """This is noted, and is not an error."""
    plain, array = (cli("messages", "create", token, chat, "-", *o) for o in ([], ["-o", "json"]))
    assert (plain.code, plain.out, array.json) == (0, "", [])
    assert "empty" in plain.err


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b"", "empty"),
        (b"x" * 10_001, "10,001"),
        ("é".encode() * 10_001, "10,001"),
        (b"x" * 50_000_000, "more than 10,000"),
        (b"a\x00b", "NUL"),
        (b"caf\xe9", "UTF-8 at byte 4"),
        (b"\xed\xa0\x80", "UTF-8"),
    ],
    ids=["empty", "long", "long-bytes", "endless", "nul", "latin-1", "surrogate"],
)
def test_a_bulk_creation_ends_at_the_first_invalid_line(
    cli: Cli, core: Backend, token: str, chat: int, bad: bytes, said: str
) -> None:
    """The exit code is 2. The error names the line, and the messages before it, which are accepted."""
    lines = [b"good"] * 1_203 + [bad] + [b"never"] * 10
    failed = cli(
        "messages", "create", token, chat, "-", "-o", "json", stdin=b"\n".join(lines) + b"\n"
    )
    assert failed.code == 2
    assert failed.json[-1]["last"] == 1_203
    assert failed.error["error"] == "invalid"
    assert "line 1204:" in failed.error["message"]
    assert said in failed.error["message"]
    assert "1,203 messages, numbers 1 to 1203" in failed.error["message"]
    assert issued(core, token, chat) == 1_203


def test_an_invalid_first_line_accepts_nothing(
    cli: Cli, core: Backend, token: str, chat: int
) -> None:
    """Standard output stays empty."""
    failed = cli("messages", "create", token, chat, "-", "-o", "json", stdin="\ntext\n")
    assert (failed.code, failed.out) == (2, "")
    assert "line 1:" in failed.error["message"]
    assert "nothing" in failed.error["message"]
    assert issued(core, token, chat) == 0


def test_lines_before_a_pause_are_accepted_during_the_pause(
    cli: Cli, token: str, chat: int
) -> None:
    """Their numbers are printed as well, so a slow producer sees them."""
    process = cli.start(
        "messages", "create", token, chat, "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    for number, part in enumerate([b"tick\nta", b"ck\n"], 1):
        process.stdin.write(part)
        process.stdin.flush()
        assert process.stdout.readline() == b'{"first": %d, "last": %d}\n' % (number, number)
    process.stdin.write(b"last")
    process.stdin.close()
    assert process.stdout.readline() == b'{"first": 3, "last": 3}\n'
    assert process.wait(PATIENCE_SECONDS) == 0


def test_memory_does_not_grow_with_the_lines(cli: Cli, token: str, chat: int) -> None:
    """25 MB in 60,000 lines take less than 20 MiB more than 3,000 lines do; so does listing them."""
    create = ("messages", "create", token, chat, "-", "--wait", "stored")
    few = cli.peak_memory(*create, stdin=_lines(3_000))
    many = cli.peak_memory(*create, stdin=_lines(60_000))
    assert many - few < 20 * MEBIBYTE
    listed = cli.peak_memory("messages", "list", token, chat, "-o", "json")
    assert listed - few < 20 * MEBIBYTE


def test_ctrl_c_reports_exactly_the_accepted_numbers(cli: Cli, core: Backend, token: str) -> None:
    """The exit code is 130, and the signal may come at any moment."""
    for moment in (0.0, 0.03, 0.11):
        before = issued(core, token)
        process = cli.start(
            "chats", "create", token, "--count", 100_000_000, "-o", "json",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
        )  # fmt: skip
        assert process.stdout
        head = process.stdout.read(2)
        time.sleep(moment)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        result = checked(process.returncode, head + out, err)
        assert result.code == 130, result
        chunks = result.json
        assert result.error["error"] == "interrupted"
        last = chunks[-1]["last"]
        assert last == issued(core, token)
        count = f"{last - before:,}"
        assert f"accepted: {count} chats, numbers {before + 1} to {last}" in result.error["message"]


def test_ctrl_c_while_waiting_for_input_reports_the_accepted_numbers(
    cli: Cli, core: Backend, token: str, chat: int
) -> None:
    """An incomplete line is not accepted."""
    process = cli.start(
        "messages", "create", token, chat, "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"one\ntwo\nthr")
    process.stdin.flush()
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    assert b"interrupted; accepted: 2 messages, numbers 1 to 2" in err
    assert b"Traceback" not in err
    assert issued(core, token, chat) == 2


def test_a_bulk_creation_ends_if_its_output_is_closed(cli: Cli, core: Backend, token: str) -> None:
    """Standard error reports what was accepted."""
    process = cli.start(
        "chats",
        "create",
        token,
        "--count",
        100_000_000,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr
    said = process.stderr.read().decode()
    assert process.wait(PATIENCE_SECONDS) == 1
    assert f"numbers 1 to {issued(core, token)}" in said


def test_concurrent_bulk_creations_get_different_numbers(cli: Cli, token: str, chat: int) -> None:
    """The ranges that two commands print are disjoint, and together have no gap."""
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(
                cli.run_process, "messages", "create", token, chat, "-", stdin="x\n" * 5_000
            )
            for _ in range(2)
        ]
        chunks = [chunk for run in runs for chunk in run.result().lines]
    numbers = sorted(n for chunk in chunks for n in range(chunk["first"], chunk["last"] + 1))
    assert numbers == list(range(1, 10_001))


def _lines(count: int) -> Iterator[bytes]:
    part = b"".join(b"%d %s\n" % (n, b"x" * 400) for n in range(1_000))
    return repeat(part, count // 1_000)
