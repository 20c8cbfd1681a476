"""`instachat dead`: listing, showing, retrying and discarding dead letters."""

from collections.abc import Callable

import pytest

from backend.bootstrap import Backend
from backend.domain.events import pack_messages
from backend.domain.model import EntryId, Parent
from backend.storage.postgres.dead_letters import DeadLetter, add_dead_letters
from backend.storage.redis.types import Creation
from tests.cli.conftest import Cli, Terminal


@pytest.fixture
def poisoned(
    cli: Cli, core: Backend, token: str, chat: int, drain_application: Callable[[str], None]
) -> str:
    """The token of an application in whose chat 1 message 2 has a NUL."""
    payload = pack_messages(token, chat, ["good", "secret\0poison"])
    shard = core.counters.shard(token)
    core.log.accept(shard, [Creation("messages", Parent(token, chat), payload)], EntryId(0, 0))
    drain_application(token)
    assert cli("status").json["dead_letters_by_kind"] == {"drain": 1, "publish": 0}
    return token


def test_dead_list_and_show_print_a_dead_letter(cli: Cli, poisoned: str) -> None:
    """Both have its reason; only `dead show` has the text and the event."""
    (line,) = cli("dead", "list").lines
    assert set(line) == {"id", "kind", "reason", "token", "chat", "number", "created_at"}
    assert (line["kind"], line["token"], line["chat"], line["number"]) == ("drain", poisoned, 1, 2)
    assert "NUL" in line["reason"]
    assert "secret" not in str(line)
    shown = cli("dead", "show", line["id"]).json
    assert shown["text"] == "secret\0poison"
    assert '["good","secret\\u0000poison"]' in shown["event"]
    record = cli("dead", "show", line["id"], "-o", "table").out
    assert "secret␀poison" in record
    assert "good" not in record, "a terminal shows the text of this message alone"
    assert "the creation of 2 messages of chat 1, 1 to 2" in " ".join(record.split())
    table = cli("dead", "list", "-o", "table").out
    assert line["id"] in table


def test_dead_retry_prints_the_result_of_each_dead_letter(
    cli: Cli, core: Backend, poisoned: str
) -> None:
    """The exit code is 1 if an event still cannot be stored; otherwise it is stored and counted."""
    (line,) = cli("dead", "list").lines
    still = cli("dead", "retry", line["id"], "-o", "json")
    assert still.code == 1
    assert still.json == [{"id": line["id"], "retried": False, "reason": line["reason"]}]
    assert "1 of 1 dead letter still" in still.error["message"]
    with core.database.begin() as tx:
        # As if the event had been refused for another reason than its text.
        tx.exec_driver_sql(
            "UPDATE dead_letter SET event ="
            " convert_to(replace(convert_from(event, 'UTF8'), '\\u0000', ' and '), 'UTF8')"
        )
    done = cli("dead", "retry", "--all")
    assert (done.code, done.lines[0]["retried"]) == (0, True)
    assert cli("messages", "show", poisoned, 1, 2).json["text"] == "secret and poison"
    assert cli("chats", "show", poisoned, 1).json["messages_count"] == 2
    assert cli("dead", "retry", line["id"]).code == 3
    assert cli("dead", "retry", "--all").code == 0


def test_filters_select_dead_letters(cli: Cli, core: Backend, poisoned: str) -> None:
    """By kind, application, reason and time; together all hold. They apply to `--all`, not to IDs."""
    with core.database.begin() as tx:
        letters = [
            DeadLetter("other-1", "The chat does NOT exist", "another", 1, None, b"{}"),
            DeadLetter("other-2", "not published", poisoned, 1, 1, b"{}"),
        ]
        add_dead_letters(tx, letters[:1])
        add_dead_letters(tx, letters[1:], "publish")
        tx.exec_driver_sql(
            "UPDATE dead_letter SET created_at = now() - interval '2 hours' WHERE key = 'other-1'"
        )
    (own,) = (line["id"] for line in cli("dead", "list").lines if "other" not in line["id"])
    expected: list[tuple[list[str], list[str]]] = [
        ([], [own, "other-1", "other-2"]),
        (["--kind", "publish"], ["other-2"]),
        (["--app", poisoned], [own, "other-2"]),
        (["--reason", "not exist"], ["other-1"]),
        (["--reason", "NUL"], [own]),
        (["--reason", "%"], []),
        (["--since", "1h"], [own, "other-2"]),
        (["--since", "1h", "--app", poisoned, "--kind", "drain"], [own]),
        (["--limit", "2"], [own, "other-1"]),
    ]
    results = cli.run_all([("dead", "list", "-o", "json", *words) for words, _ in expected])
    found = [[line["id"] for line in result.json] for result in results]
    assert found == [ids for _, ids in expected]
    assert cli("dead", "purge", own, "--kind", "drain", "--yes").code == 2
    assert cli("dead", "retry", "--kind", "drain").code == 2
    assert cli("dead", "list", "--kind", "other").code == 2
    purged = cli("dead", "purge", "--all", "--app", poisoned, "--kind", "publish", "--yes").json
    assert purged == {"letters": 1, "deleted": True}
    retried = cli("dead", "retry", "--all", "--reason", "chat does not exist").lines
    assert [line["id"] for line in retried] == ["other-1"]
    cli("dead", "purge", "--all", "--yes")


def test_dead_purge_asks_and_leaves_the_number_rejected(cli: Cli, poisoned: str) -> None:
    """A dry run changes nothing. Without a terminal and without `--yes` the command fails."""
    (line,) = cli("dead", "list").lines
    assert cli("dead", "purge", line["id"]).code == 2
    rehearsed = cli("dead", "purge", "--all", "--dry-run", "-o", "table").out
    assert rehearsed == "would delete 1 dead letter permanently; nothing was deleted\n"
    terminal = Terminal(cli, "dead", "purge", line["id"])
    terminal.wait_for_text("Delete 1 dead letter permanently? [y/N] ")
    terminal.type("n\n")
    assert terminal.end() == 1
    assert cli("dead", "purge", line["id"], "--yes").json == {"letters": 1, "deleted": True}
    assert cli("dead", "list").lines == []
    assert cli("messages", "show", poisoned, 1, 2).code == 3
    assert cli("dead", "purge", line["id"], "--yes").code == 3


def test_dead_retry_and_purge_require_an_id_or_all(cli: Cli) -> None:
    """The exit code is 2 for neither or both, and 3 for an unknown ID."""
    for words in (["retry"], ["purge", "--yes"], ["retry", "--all", "x"], ["show"]):
        assert cli("dead", *words).code == 2, words
    for key in ("1-1-1", "'; --", "☠", b"\xff"):
        assert cli("dead", "show", key).code == cli("dead", "purge", key, "--yes").code == 3, key
