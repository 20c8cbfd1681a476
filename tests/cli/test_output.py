"""Output of data: the three formats, on a terminal and in a pipe, with every kind of text."""

import json
import re

import pytest

from tests.cli.conftest import Cli, Terminal

NASTY = "\x1b]0;owned\x07\x1b[31mred\x9b2J\x7f\r\u2028end"


@pytest.fixture
def texts(cli: Cli, token: str, chat: int) -> list[str]:
    """A chat with messages of every kind."""
    texts = [
        "Good morning",
        "صباح الخير، كيف حالك اليوم؟ " * 8,
        "👩‍👩‍👧‍👦 family 🇯🇵 flag 👍🏽",
        "你好世界" * 40,
        NASTY,
        "long " * 100 + "needle" + " tail" * 100,
    ]
    cli("messages", "create", token, chat, "-", "--wait", "stored", stdin="\n".join(texts))
    return texts


def test_every_format_prints_the_same_data(
    cli: Cli, token: str, chat: int, texts: list[str]
) -> None:
    """A list is JSON lines or one array; a single item is one object in both formats."""
    default, lines, array, one, one_line = cli.run_all(
        [
            ("messages", "list", token, chat),
            ("messages", "list", token, chat, "-o", "jsonl"),
            ("messages", "list", token, chat, "--output", "json"),
            ("messages", "show", token, chat, 1),
            ("messages", "show", token, chat, 1, "-ojsonl"),
        ]
    )
    assert default.out == lines.out
    assert default.lines == array.json
    assert [message["text"] for message in array.json] == texts
    assert one.json == one_line.json == array.json[0]
    assert "صباح" in default.out  # UTF-8, not escapes


def test_json_escapes_control_characters_and_line_separators(
    cli: Cli, token: str, chat: int, texts: list[str]
) -> None:
    """Every reader finds the same lines, and a terminal executes nothing; no text is changed."""
    assert texts
    out = cli("messages", "list", token, chat).out
    assert [json.loads(line)["text"] for line in out.splitlines()] == texts
    assert not set(out) & set(map(chr, [*range(10), *range(11, 32), *range(127, 160)]))


def test_a_table_in_a_pipe_has_no_escape_sequences(
    cli: Cli, token: str, chat: int, texts: list[str]
) -> None:
    """It has 80 columns, a header, one line per message, and matches in brackets."""
    assert texts
    listed, found = cli.run_all(
        [
            ("messages", "list", token, chat, "-o", "table"),
            ("search", token, chat, "needle", "-o", "table"),
        ]
    )
    assert "\x1b" not in listed.out + found.out
    assert len(listed.out.splitlines()) == 1 + len(texts)
    assert listed.out.startswith("NUMBER  CREATED (UTC)       ")
    assert listed.out.splitlines()[0].rstrip().endswith("  TEXT")
    assert "[needle]" in found.out
    assert max(map(len, found.out.splitlines())) <= 80


def test_a_table_on_a_terminal_fits_into_80_columns(
    cli: Cli, token: str, chat: int, texts: list[str]
) -> None:
    """Control characters have no effect. A match is highlighted, and is within the visible part."""
    from rich.cells import cell_len
    from rich.text import Text

    assert texts
    for words in (
        ("messages", "list", token, chat),
        ("search", token, chat, "needle"),
        ("messages", "show", token, chat, 6),
        ("chats", "list", token),
        ("chats", "show", token, chat),
        ("apps", "list", "--limit", 3),
        ("apps", "show", token),
        ("config", "show"),
        ("doctor",),
        ("status",),
    ):
        terminal = Terminal(cli, *words)
        assert terminal.end() == 0, terminal.shown
        plain = Text.from_ansi(terminal.shown.replace("\r\n", "\n")).plain
        assert max(map(cell_len, plain.splitlines())) <= 80, plain
        assert "owned\x07" not in terminal.shown
        assert "\x9b" not in terminal.shown
        assert "{" not in plain
        assert words[0] in ("messages", "search") or "…" not in plain  # nothing else is cut
        if words[0] == "search":
            assert "\x1b[1;7mneedle\x1b[0m" in terminal.shown
        if words[:2] == ("messages", "show"):
            assert "".join(plain.split()).count("long") == 100


def test_a_table_has_one_line_for_each_message_in_any_script(
    cli: Cli, token: str, chat: int, texts: list[str]
) -> None:
    """Wide, combining, right-to-left and control characters do not break the table."""
    terminal = Terminal(cli, "messages", "list", token, chat)
    assert terminal.end() == 0
    lines = [line for line in terminal.shown.splitlines() if line.strip()]
    assert len(lines) == 1 + len(texts)
    assert "␛]0;owned␇" in terminal.shown


def test_the_columns_of_a_long_table_have_one_width(cli: Cli, token: str) -> None:
    """A list longer than a page has one header."""
    cli("chats", "create", token, "--count", 1_200, "--wait", "stored")
    lines = cli("chats", "list", token, "-o", "table").out.splitlines()
    assert len(lines) == 1_201
    assert len({line.rindex("-") for line in lines[1:]}) == 1


def test_a_terminal_shows_the_first_50_of_a_list(cli: Cli, token: str) -> None:
    """A note says so, and how to list more; with --limit, and elsewhere, as many as there are."""
    cli("chats", "create", token, "--count", 60, "--wait", "stored")
    first, more = (
        Terminal(cli, "chats", "list", token),
        Terminal(cli, "chats", "list", token, "--limit", 60),
    )
    assert (first.end(), more.end()) == (0, 0)
    assert len(re.findall(r"^ +[0-9]+ ", first.shown, re.MULTILINE)) == 50
    assert "these are the first 50; `--limit N` lists more" in first.shown
    assert len(re.findall(r"^ +[0-9]+ ", more.shown, re.MULTILINE)) == 60
    assert "these are" not in more.shown
    assert len(cli("chats", "list", token).lines) == 60


def test_verbose_says_what_happens_inside(cli: Cli, token: str) -> None:
    """On standard error only: the engines, how long it took, and no password."""
    plain = cli("apps", "show", token)
    url = cli.env["INSTACHAT_DATABASE_URL"].replace("postgres@", "postgres:s3cret@")
    shown = cli("apps", "show", token, "--verbose", env={"INSTACHAT_DATABASE_URL": url})
    assert shown.out == plain.out
    assert plain.err == ""
    lines = shown.err.splitlines()
    assert all(line.startswith("detail: ") for line in lines)
    for said in ("PostgreSQL: postgres", "Redis: redis://", "durability strict", "done in"):
        assert said in shown.err
    assert "s3cret" not in shown.err


def test_a_table_says_that_a_list_is_empty(cli: Cli, token: str) -> None:
    """JSON lines are empty, and JSON is an empty array."""
    terminal = Terminal(cli, "chats", "list", token)
    assert terminal.end() == 0
    assert "no chats" in terminal.shown
    nothing, array = cli.run_all([("chats", "list", token), ("chats", "list", token, "-o", "json")])
    assert (nothing.out, array.json) == ("", [])


def test_creating_on_a_terminal_prints_sentences(cli: Cli, token: str, chat: int) -> None:
    """A bulk creation shows its progress, and erases it at the end."""
    one = Terminal(cli, "messages", "create", token, chat, "text")
    assert one.end() == 0
    assert "accepted: message 1\r\n" in one.shown
    many = Terminal(cli, "chats", "create", token, "--count", 30_000)
    assert many.end() == 0
    assert "accepted: chats 2 to 1001" in many.shown
    assert "/s" in many.shown
    assert "Traceback" not in many.shown
