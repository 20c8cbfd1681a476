"""`instachat messages delete` of many messages, and `instachat purge`."""

import pytest

from backend.bootstrap import Backend
from tests.cli.conftest import Cli
from tests.support.waiting import wait_until

COUNT = 1_203  # so many that a deletion takes three transactions


@pytest.fixture
def messages(cli: Cli, core: Backend, token: str, chat: int) -> int:
    """A chat with COUNT messages, the first 600 of them a hundred days old; and another chat with one."""
    lines = "".join(f"text {n}\n" for n in range(1, COUNT + 1))
    cli("messages", "create", token, chat, "-", "--wait", "stored", stdin=lines)
    cli("chats", "create", token)
    cli("messages", "create", token, 2, "kept", "--wait", "stored")
    with core.database.begin() as tx:  # as after an import
        old = "UPDATE {} SET {} = now() - interval '100 days' WHERE {}"
        tx.exec_driver_sql(old.format("message", "created_at", "number <= 600 AND text <> 'kept'"))
        tx.exec_driver_sql(old.format("message_block", "earliest", "block = 0"))
        tx.exec_driver_sql(old.format("chat", "created_at", "number = 1"))
    return chat


def numbers(cli: Cli, token: str, chat: int) -> list[int]:
    """The numbers of a chat's messages."""
    return [int(line) for line in cli("messages", "list", token, chat, "-q").out.split()]


def test_a_range_of_numbers_is_deleted(cli: Cli, token: str, messages: int) -> None:
    """A dry run deletes nothing. Counts follow at once, once, and a second run finds nothing."""
    delete = ("messages", "delete", token, messages)
    rehearsed = cli(*delete, "--from", 100, "--to", 1_200, "--dry-run", "-o", "table")
    assert rehearsed.out == (
        "would delete 1,101 messages of chat 1 from number 100 up to number 1200; nothing was deleted\n"
    )
    assert cli("chats", "show", token, messages).json["messages_count"] == COUNT
    done = cli(*delete, "--from", 100, "--to", 1_200, "--yes")
    assert (done.code, done.json) == (0, {"messages": 1_101, "deleted": True})
    assert numbers(cli, token, messages) == [*range(1, 100), 1_201, 1_202, 1_203]
    again, shown, other = cli.run_all(
        [
            (*delete, "--from", 100, "--to", 1_200, "--yes"),
            ("chats", "show", token, messages),
            ("chats", "show", token, 2),
        ]
    )
    assert again.json == {"messages": 0, "deleted": True}
    assert shown.json["messages_count"] == 102
    assert other.json["messages_count"] == 1
    assert cli("reconcile").code == 0


def test_messages_from_before_a_time_are_deleted(cli: Cli, token: str, messages: int) -> None:
    """By an age or a time, in one chat; by `purge` in all."""
    assert (
        cli("messages", "delete", token, messages, "--before", "200d", "--yes").json["messages"]
        == 0
    )
    done = cli("messages", "delete", token, messages, "--before", "90d", "--to", 10, "--yes")
    assert done.json == {"messages": 10, "deleted": True}
    rehearsed = cli("purge", "--older-than", "90d", "--dry-run").json
    assert rehearsed == {"messages": 590, "deleted": False}
    other = cli("apps", "create", "other", "-q").out.strip()
    assert cli("purge", "--older-than", "90d", "--app", other, "--yes").json["messages"] == 0
    purged = cli("purge", "--older-than", "90d", "--app", token, "--yes").json
    assert purged == {"messages": 590, "deleted": True}
    assert numbers(cli, token, messages) == list(range(601, COUNT + 1))
    assert numbers(cli, token, 2) == [1]
    assert cli("search", token, messages, "text 599").lines == []
    assert cli("reconcile").code == 0


def test_wrong_usage_deletes_nothing(cli: Cli, token: str, chat: int) -> None:
    """Neither a number nor a range, or both; no confirmation; an unknown application or chat."""
    cli("messages", "create", token, chat, "kept", "--wait", "stored")
    delete = ("messages", "delete", token)
    results = cli.run_all(
        [
            (*delete, chat, "--yes"),
            (*delete, chat, 1, "--from", 1, "--yes"),
            (*delete, chat, "--from", 5, "--to", 3, "--yes"),
            (*delete, chat, "--from", 0, "--yes"),
            (*delete, chat, "--from", 1),
            (*delete, 77, "--from", 1, "--yes"),
            ("purge", "--yes"),
            ("purge", "--older-than", "soon", "--yes"),
            ("purge", "--older-than", "1d"),
            ("purge", "--older-than", "1d", "--app", "A" * 32, "--yes"),
        ]
    )
    assert [result.code for result in results] == [2, 2, 2, 2, 2, 3, 2, 2, 2, 3]
    assert numbers(cli, token, chat) == [1]


def test_the_token_of_the_environment_is_told_from_a_chat(cli: Cli, token: str, chat: int) -> None:
    """Although the message's number may be left out, too."""
    cli("messages", "create", token, chat, "-", "--wait", "stored", stdin="a\nb\nc\n")
    cli.env["INSTACHAT_TOKEN"] = token
    assert cli("messages", "delete", chat, 2, "--yes").json == {"number": 2, "deleted": True}
    assert cli("messages", "delete", token, chat, 1, "--yes").json["number"] == 1
    assert cli("messages", "delete", chat, "--from", 3, "--yes").json["messages"] == 1
    assert numbers(cli, token, chat) == []


@pytest.mark.usefixtures("worker")
def test_a_worker_applies_an_applications_retention(cli: Cli, token: str, messages: int) -> None:
    """It is shown, confirmed, applied at once, and set to another age or off."""
    retention = ("apps", "retention", token)
    refused, unknown, rehearsed, other = cli.run_all(
        [
            (*retention, "90d"),
            (*retention, "soon", "--yes"),
            (*retention, "90d", "--dry-run", "-o", "table"),
            ("apps", "retention", "x" * 32, "90d", "--yes"),
        ]
    )
    assert [refused.code, unknown.code, other.code] == [2, 2, 3]
    assert "would delete the messages" in rehearsed.out
    assert "90d after their creation (600 messages at once)" in rehearsed.out
    assert "5x" in cli(*retention, "5x").err, "what is wrong is said before what is missing"
    assert cli("apps", "show", token).json["retention"] is None
    done = cli(*retention, "90d", "--yes").json
    assert done == {"token": token, "retention": "90d", "due": 600}
    wait_until(lambda: numbers(cli, token, messages) == list(range(601, COUNT + 1)))
    assert cli("apps", "show", token).json["retention"] == "90d"
    assert cli("chats", "show", token, messages).json["messages_count"] == COUNT - 600
    assert cli(*retention, "off").json["retention"] is None
    assert cli("apps", "show", token).json["retention"] is None
    assert [row["target"] for row in cli("audit", "list", "--limit", 2).lines] == [
        f"{token[:8]}… off",
        f"{token[:8]}… 90d",
    ]
