"""The verbs of applications, chats and messages: their output and their effect."""

import re

from tests.cli.conftest import Cli

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def test_an_application_lives_from_create_to_delete(cli: Cli) -> None:
    """create, show and list print the same; a rename changes only the name."""
    made = cli("apps", "create", "Büro ☎ مكتب").json
    assert list(made) == ["token", "name", "chats_count", "created_at", "updated_at"]
    assert made["name"] == "Büro ☎ مكتب"
    assert made["chats_count"] == 0
    assert TIME.fullmatch(made["created_at"])
    token = made["token"]
    shown, listed = cli.run_all([("apps", "show", token), ("apps", "list")])
    assert shown.json == made
    assert made in listed.lines
    changed = cli("apps", "rename", token, "x" * 255).json
    assert changed["name"] == "x" * 255
    assert changed["updated_at"] > made["updated_at"]
    assert {**changed, "name": made["name"], "updated_at": made["updated_at"]} == made
    assert cli("apps", "delete", token, "--yes").json == {"token": token, "deleted": True}
    assert cli("apps", "show", token).code == 3


def test_a_chat_lives_from_create_to_delete(cli: Cli, token: str) -> None:
    """The number is printed immediately; show has live counts; a deleted number is never reused."""
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


def test_a_message_lives_from_create_to_delete(cli: Cli, token: str, chat: int) -> None:
    """The text is stored exactly; edits and deletions take effect, and the counts follow."""
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
    assert list(shown.json) == ["number", "text", "created_at", "updated_at"]
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


def test_lists_are_in_order_of_numbers_and_can_be_paged(cli: Cli, token: str, chat: int) -> None:
    """All rows by default; --limit and --after restrict them; a page after the end is empty."""
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


def test_what_is_accepted_and_not_stored_is_shown_as_such(cli: Cli, token: str, chat: int) -> None:
    """Showing it is not an error: its number and status, and a note if no worker runs."""
    cli("messages", "create", token, chat, "soon")
    cli("chats", "create", token)
    message, other = cli.run_all(
        [("messages", "show", token, chat, 1), ("chats", "show", token, chat + 1)]
    )
    assert message.json == {"number": 1, "status": "accepted"}
    assert other.json == {"number": chat + 1, "status": "accepted"}
    assert "no worker is running" in message.err


def test_editing_and_deleting_store_first_what_is_accepted(cli: Cli, token: str, chat: int) -> None:
    """Without a worker, the command itself stores an accepted item before it changes it."""
    cli("messages", "create", token, chat, "-", stdin="one\ntwo\n")
    assert cli("messages", "edit", token, chat, 2, "three").json["text"] == "three"
    cli("messages", "create", token, chat, "four")
    assert cli("messages", "delete", token, chat, 3, "--yes").code == 0
    left = cli("messages", "list", token, chat).lines
    assert [m["text"] for m in left] == ["one", "three"]


def test_search_gives_messages_with_the_places(cli: Cli, token: str, chat: int) -> None:
    """A match has a `highlight` in code points of the text; --limit and --after page the matches."""
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
    assert list(everything.lines[0]) == ["number", "text", "created_at", "updated_at", "highlight"]
    assert first.lines == everything.lines[:1]
    assert rest.json == everything.lines[1:]
    assert [m["number"] for m in percent.lines] == [4]
    assert arabic.lines[0]["text"] == texts[4]
    assert nothing.json == []
    assert nothing.code == 0
