"""The verbs of applications, chats and messages: their output and their effect."""

import json
import re
from datetime import datetime, timedelta, timezone

from backend.api import schemas
from tests.cli.conftest import Cli, Terminal

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def test_an_application_is_created_shown_listed_renamed_and_deleted(cli: Cli) -> None:
    """`create`, `show` and `list` print the same object; `show` also how long texts are kept, and the limit.

    A rename changes only the name and `updated_at`.
    """
    made = cli("apps", "create", "Büro ☎ مكتب").json
    assert list(made) == ["token", "name", "chats_count", "created_at", "updated_at"]
    assert made["name"] == "Büro ☎ مكتب"
    assert made["chats_count"] == 0
    assert TIME.fullmatch(made["created_at"])
    token = made["token"]
    shown, listed = cli.run_all([("apps", "show", token), ("apps", "list")])
    assert shown.json == made | {"retention": None, "limit": None}
    assert made in listed.lines
    changed = cli("apps", "rename", token, "x" * 255).json
    assert changed["name"] == "x" * 255
    assert changed["updated_at"] > made["updated_at"]
    assert {**changed, "name": made["name"], "updated_at": made["updated_at"]} == made
    assert cli("apps", "delete", token, "--yes").json == {"token": token, "deleted": True}
    assert cli("apps", "show", token).code == 3


def test_a_chat_is_created_shown_listed_and_deleted(cli: Cli, token: str) -> None:
    """Its number is printed immediately, its counts are live, and its number is never issued again."""
    assert cli("chats", "create", token, "--wait", "stored").json == {"number": 1}
    shown, listed = cli.run_all([("chats", "show", token, 1), ("chats", "list", token)])
    assert list(shown.json) == ["number", "messages_count", "created_at", "updated_at"]
    assert shown.json["messages_count"] == 0
    assert listed.lines == [shown.json]
    assert cli("apps", "show", token).json["chats_count"] == 1
    assert cli("chats", "delete", token, 1, "--yes").json == {"number": 1, "deleted": True}
    gone, after = cli.run_all([("chats", "show", token, 1), ("apps", "show", token)])
    assert gone.code == 3
    assert after.json["chats_count"] == 0
    assert cli("chats", "create", token).json == {"number": 2}


def test_a_message_is_created_shown_listed_edited_and_deleted(
    cli: Cli, token: str, chat: int
) -> None:
    """Its text is stored unchanged. Edits and deletions take effect at once, and the counts follow."""
    text = ' two  spaces,\n"quotes", \\ % _ \u202e🙂 '
    made = cli("messages", "create", token, chat, text, "--wait", "stored")
    assert made.json == {"number": 1}
    shown, listed, counted = cli.run_all(
        [
            ("messages", "show", token, chat, 1),
            ("messages", "list", token, chat),
            ("chats", "show", token, chat),
        ]
    )
    assert list(shown.json) == list(schemas.Message.model_fields)
    assert shown.json["text"] == text
    assert listed.lines == [shown.json]
    assert counted.json["messages_count"] == 1
    edited = cli("messages", "edit", token, chat, 1, "مساء الخير").json
    assert edited["text"] == "مساء الخير"
    assert edited["created_at"] == shown.json["created_at"]
    deleted = cli("messages", "delete", token, chat, 1, "--yes")
    assert deleted.json == {"number": 1, "deleted": True}
    gone, counted = cli.run_all(
        [("messages", "show", token, chat, 1), ("chats", "show", token, chat)]
    )
    assert gone.code == 3
    assert counted.json["messages_count"] == 0
    assert cli("messages", "create", token, chat, "next").json == {"number": 2}


def test_lists_are_ordered_by_number_and_can_be_paged(cli: Cli, token: str, chat: int) -> None:
    """By default they have all rows. `--limit` and `--after` restrict them; a page after the end is empty."""
    cli("messages", "create", token, chat, "-", "--wait", "stored", stdin="a\nb\nc\nd\ne\n")
    whole, page, beyond, far, apps = cli.run_all(
        [
            ("messages", "list", token, chat),
            ("messages", "list", token, chat, "--after", 1, "--limit", 2),
            ("messages", "list", token, chat, "--after", 5, "-o", "json"),
            ("messages", "list", token, chat, "--after", 10**30),
            ("apps", "list", "--limit", 1),
        ]
    )
    assert [(m["number"], m["text"]) for m in whole.lines] == list(enumerate("abcde", 1))
    assert page.lines == whole.lines[1:3]
    assert beyond.json == []
    assert (far.code, far.out) == (0, "")
    assert len(apps.lines) == 1


def test_applications_are_found_by_name_in_the_order_of_their_creation(cli: Cli) -> None:
    """Imports as well. `--name` is a part in any case, `--after` a token, `--limit` counts what is found."""
    new = cli("apps", "create", "New desk", "-q").out.strip()
    years = {"b" * 22: "Büro DESK", "a" * 22: "Straße", "c" * 22: "desk of old"}
    lines = [
        {"type": "application", "token": token, "name": name}
        | dict.fromkeys(("created_at", "updated_at"), f"{2024 - at}-01-31T10:00:00Z")
        for at, (token, name) in enumerate(years.items())
    ]
    assert cli("import", "-", stdin="\n".join(map(json.dumps, lines))).code == 0
    b, a, c = years
    found = cli.run_all(
        [
            ("apps", "list", "-q"),
            ("apps", "list", "-q", "--name", "DESK"),
            ("apps", "list", "-q", "--name", "desk", "--after", c, "--limit", 1),
            ("apps", "list", "-q", "--name", "STRASSE"),
            ("apps", "list", "-q", "--name", "büro", "--after", b),
        ]
    )
    assert [each.out.split() for each in found] == [[c, a, b, new], [c, b, new], [b], [a], []]
    assert cli("apps", "list", "--after", "nobody").code == 3
    assert cli("apps", "list", "--name", "").code == 2


def test_messages_are_listed_from_either_end_and_around_a_number(
    cli: Cli, token: str, chat: int
) -> None:
    """In the order of their numbers, deleted ones left out; each option alone and together with others."""
    texts = "\n".join(map(str, range(1, 10)))
    cli("messages", "create", token, chat, "-", "--wait", "stored", stdin=texts)
    cli("messages", "delete", token, chat, 4, "--yes")
    expected: dict[str, list[int]] = {
        "--last 3": [7, 8, 9],
        "--last 100": [1, 2, 3, 5, 6, 7, 8, 9],
        "--last 2 --before 6": [3, 5],
        "--last 2 --after 8": [9],
        "--before 6": [1, 2, 3, 5],
        "--before 6 --limit 2": [1, 2],
        "--after 2 --before 6": [3, 5],
        "--after 5 --before 5": [],
        f"--before {10**30} --after 8": [9],
        "--around 5 --limit 5": [2, 3, 5, 6, 7],
        "--around 4 --limit 3": [3, 5],
        "--around 9": [1, 2, 3, 5, 6, 7, 8, 9],
    }
    listed = cli.run_all([("messages", "list", token, chat, *each.split()) for each in expected])
    assert [[int(m["text"]) for m in each.lines] for each in listed] == list(expected.values())
    assert [[m["number"] for m in each.lines] for each in listed] == list(expected.values())


def test_messages_are_listed_since_a_time_or_an_age(cli: Cli, token: str, chat: int) -> None:
    """`--last` is taken of them; a time in any zone, an age such as 2h."""
    cli("messages", "create", token, chat, "-", "--wait", "stored", stdin="1\n2\n")
    cli("messages", "create", token, chat, "-", "--wait", "stored", stdin="3\n4\n")
    created = [m["created_at"] for m in cli("messages", "list", token, chat).lines]
    assert created[1] < created[2]
    elsewhere = datetime.fromisoformat(created[2]).astimezone(timezone(timedelta(hours=5)))
    expected: dict[tuple[str, ...], list[int]] = {
        ("--since", created[2]): [3, 4],
        ("--since", elsewhere.isoformat()): [3, 4],
        ("--until", created[2]): [1, 2],
        ("--since", created[0], "--until", created[2], "--last", "1"): [2],
        ("--since", created[0], "--after", "1", "--limit", "2"): [2, 3],
        ("--since", "2h"): [1, 2, 3, 4],
        ("--until", "2h"): [],
        ("--since", "7d", "--until", "2h"): [],
        ("--since", "0s"): [],
    }
    listed = cli.run_all([("messages", "list", token, chat, *each) for each in expected])
    assert [[m["number"] for m in each.lines] for each in listed] == list(expected.values())


def test_options_that_make_no_sense_together_are_refused(cli: Cli) -> None:
    """Exit 2, and the message names both; nothing is read."""
    refused = {
        "--around 5 --after 1": "--around cannot be combined with --after",
        "--around 5 --before 9": "--around cannot be combined with --before",
        "--around 5 --last 9": "--around cannot be combined with --last",
        "--around 5 --since 2h": "--around cannot be combined with --since",
        "--around 5 --until 2h": "--around cannot be combined with --until",
        "--since 2h --until 3h": "`since` is the later one",
        "--since yesterday": "neither a time such as 2026-01-31T23:59:59Z nor an age",
        "--until 2026-01-31": "neither a time such as 2026-01-31T23:59:59Z nor an age",
        "--since 999999999d": "too long ago",
        "--last 5 --limit 9": "--last cannot be combined with --limit",
        "--after 7 --before 6": "no number is after 7 and before 6",
        "--last 0": "--last is 0",
        "--before 0": "--before is 0",
        "--around x": "not a whole number",
    }
    results = cli.run_all(
        [("messages", "list", "t" * 24, 1, *each.split(), "-o", "json") for each in refused]
    )
    for result, reason in zip(results, refused.values(), strict=True):
        assert result.code == 2
        assert reason in result.error["message"]


def test_a_terminal_shows_the_newest_messages(cli: Cli, token: str, chat: int) -> None:
    """Fifty of them, and a note says so; with an option, or if there are no more, there is no note."""
    texts = "\n".join(f"text-{n}" for n in range(1, 61))
    cli("messages", "create", token, chat, "-", "--wait", "stored", stdin=texts)

    def shown(*options: object) -> tuple[str, list[int]]:
        terminal = Terminal(cli, "messages", "list", token, chat, *options)
        assert terminal.end() == 0
        return terminal.shown, [int(n) for n in re.findall(r"text-(\d+)", terminal.shown)]

    screen, numbers = shown()
    assert numbers == list(range(11, 61))
    assert "the newest 50 of 60 messages" in " ".join(screen.split())
    for options, expected in (
        (("--after", 0), range(1, 61)),
        (("--limit", 55), range(1, 56)),
        (("--last", 52), range(9, 61)),
    ):
        screen, numbers = shown(*options)
        assert numbers == list(expected)
        assert "newest" not in screen
    for number in range(1, 11):
        cli("messages", "delete", token, chat, number, "--yes")
    screen, numbers = shown()
    assert numbers == list(range(11, 61))
    assert "newest" not in screen


def test_show_prints_the_status_of_what_is_only_accepted(cli: Cli, token: str, chat: int) -> None:
    """This is not an error. If no worker runs, a note says so."""
    cli("messages", "create", token, chat, "soon")
    cli("chats", "create", token)
    message, other = cli.run_all(
        [("messages", "show", token, chat, 1), ("chats", "show", token, chat + 1)]
    )
    assert message.json == {"number": 1, "status": "accepted"}
    assert other.json == {"number": chat + 1, "status": "accepted"}
    assert "no worker is running" in message.err


def test_edit_and_delete_first_store_what_is_only_accepted(cli: Cli, token: str, chat: int) -> None:
    """The command itself stores the message if no worker runs."""
    cli("messages", "create", token, chat, "-", stdin="one\ntwo\n")
    assert cli("messages", "edit", token, chat, 2, "three").json["text"] == "three"
    cli("messages", "create", token, chat, "four")
    assert cli("messages", "delete", token, chat, 3, "--yes").code == 0
    left = cli("messages", "list", token, chat).lines
    assert [m["text"] for m in left] == ["one", "three"]


def test_search_over_all_chats_prints_the_newest_first(cli: Cli, token: str, chat: int) -> None:
    """With the chat of each; also with INSTACHAT_TOKEN, -q and --limit. `--after` is for one chat."""
    second = cli("chats", "create", token).json["number"]
    for where, text in ((chat, "good morning"), (second, "morning, all"), (chat, "evening")):
        cli("messages", "create", token, where, text, "--wait", "stored")
    found, one, wrong, refused = cli.run_all(
        [
            ("search", token, "all", "MORNING"),
            ("search", token, "all", "morning", "--limit", 1, "-q"),
            ("search", token, "every", "morning"),
            ("search", token, "all", "morning", "--after", 1),
        ]
    )
    assert [(each["chat"], each["text"]) for each in found.lines] == [
        (second, "morning, all"),
        (chat, "good morning"),
    ]
    assert found.lines[0]["highlight"] == [[0, 7]]
    assert one.out == "1\n"
    assert (wrong.code, refused.code) == (2, 2)
    assert cli("search", "all", "morning", env={"INSTACHAT_TOKEN": token}).lines == found.lines


def test_search_prints_matches_with_their_positions(cli: Cli, token: str, chat: int) -> None:
    """`highlight` counts in code points of the text. `--limit` and `--after` page the matches."""
    texts = ["Good Morning", "🙂 morning, MORNING", "evening", "50% off_now", "صَباحُ الخير"]
    cli("messages", "create", token, chat, "-", "--wait", "searchable", stdin="\n".join(texts))
    everything, first, rest, percent, arabic, nothing = cli.run_all(
        [
            ("search", token, chat, "morning"),
            ("search", token, chat, "morning", "--limit", 1),
            ("search", token, chat, "morning", "--after", 1, "-o", "json"),
            ("search", token, chat, "%"),
            ("search", token, chat, "صباح"),
            ("search", token, chat, "*", "-o", "json"),
        ]
    )
    assert [(m["number"], m["highlight"]) for m in everything.lines] == [
        (1, [[5, 12]]),
        (2, [[2, 9], [11, 18]]),
    ]
    assert list(everything.lines[0]) == list(schemas.Found.model_fields)
    assert first.lines == everything.lines[:1]
    assert rest.json == everything.lines[1:]
    assert [m["number"] for m in percent.lines] == [4]
    assert arabic.lines[0]["text"] == texts[4]
    assert nothing.json == []
    assert nothing.code == 0


def test_a_token_that_is_left_out_is_that_of_the_environment(
    cli: Cli, token: str, chat: int
) -> None:
    """Also between options; a token that is given wins, and without either the usage is wrong."""
    other = cli("apps", "create", "other", "-q").out.strip()
    assert cli("chats", "show", chat).code == 2
    cli.env["INSTACHAT_TOKEN"] = token
    by_variable, by_argument, between = cli.run_all(
        [("chats", "list"), ("chats", "list", token), ("chats", "list", "--limit", 5, "-o", "json")]
    )
    assert by_variable.lines == by_argument.lines == between.json
    assert cli("messages", "create", chat, "hello", "-q", "--wait", "stored").out == "1\n"
    shown, missing, searched, foreign = cli.run_all(
        [
            ("messages", "show", chat, 1),
            ("messages", "show", chat),
            ("search", chat, "ell"),
            ("apps", "show", other),
        ]
    )
    assert shown.json["text"] == "hello"
    assert (missing.code, "'N'" in missing.err) == (2, True)
    assert [found["number"] for found in searched.lines] == [1]
    assert foreign.json["token"] == other
    assert cli("--help").code == cli("chats", "show", "--help").code == 0


def test_quiet_prints_the_bare_token_or_number(cli: Cli, token: str, chat: int) -> None:
    """Of what is created, shown or found; of many one a line. With a format it is a wrong usage."""
    made = cli(
        "messages", "create", token, chat, "-", "--quiet", "--wait", "stored", stdin="a\nb\nc\n"
    )
    assert made.out == "1\n2\n3\n"
    listed, found, shown, application, chats, edited, both = cli.run_all(
        [
            ("messages", "list", token, chat, "--after", 1, "-q"),
            ("search", token, chat, "b", "-q"),
            ("messages", "show", token, chat, 3, "-q"),
            ("apps", "show", token, "-q"),
            ("chats", "create", token, "-q", "--count", 2),
            ("messages", "edit", token, chat, 1, "A", "-q"),
            ("apps", "list", "-q", "-o", "json"),
        ]
    )
    assert (listed.out, found.out, shown.out) == ("2\n3\n", "2\n", "3\n")
    assert (application.out, chats.out, edited.out) == (f"{token}\n", "2\n3\n", "1\n")
    assert (both.code, both.out) == (2, "")
    assert token in cli("apps", "list", "-q").out.splitlines()
