"""`--wait`: with a worker, without one, and when it takes too long."""

from sqlalchemy import text

from backend.bootstrap import Backend
from tests.cli.conftest import Cli
from tests.support.fork_server import ForkedProcess
from tests.support.waiting import wait_until


def test_creating_without_a_worker_notes_that_nothing_is_stored(
    cli: Cli, core: Backend, token: str, chat: int
) -> None:
    """This holds for one number, a chunk, a chunk before an invalid line, and with JSON."""
    for words, stdin in (
        (["chats", "create", token], ""),
        (["chats", "create", token, "-o", "json"], ""),
        (["messages", "create", token, chat, "-"], "one\ntwo\n"),
        (["messages", "create", token, chat, "-"], "one\n\n"),
    ):
        assert "no worker is running" in cli(*words, stdin=stdin).err
    assert core.log.waiting(core.database.installation.shards) > 0


def test_wait_without_a_worker_stores_the_message_itself(cli: Cli, token: str, chat: int) -> None:
    """Nothing is noted, and a search finds the message."""
    made = cli("messages", "create", token, chat, "text", "--wait", "searchable")
    assert (made.code, made.json, made.err) == (0, {"number": 1}, "")
    assert cli("search", token, chat, "ex").lines[0]["number"] == 1


def test_creating_with_a_worker_prints_no_note(
    cli: Cli, token: str, chat: int, worker: ForkedProcess
) -> None:
    """The worker stores the message; without `--wait` it does so moments later."""
    assert worker.poll() is None
    made = cli("messages", "create", token, chat, "text")
    assert (made.code, made.err) == (0, "")
    wait_until(lambda: cli("messages", "show", token, chat, 1).json.get("text") == "text")
    assert cli("messages", "create", token, chat, "more", "--wait", "stored").json == {"number": 2}


def test_a_wait_that_times_out_prints_the_number_and_exits_with_4(
    cli: Cli, core: Backend, token: str, chat: int
) -> None:
    """The message stays accepted, and is stored later under this number."""
    shard = core.counters.shard(token)
    with core.database.begin() as holding:
        holding.execute(text("SELECT FROM shard WHERE number = :n FOR UPDATE"), {"n": shard})
        late = cli(
            *("messages", "create", token, chat, "late", "--wait", "stored"),
            *("--timeout", "0.3", "-o", "json"),
        )
    assert (late.code, late.json) == (4, {"number": 1})
    assert late.error["error"] == "check_failed"
    assert "1 message, number 1" in late.error["message"]
    assert cli("messages", "edit", token, chat, 1, "stored").json["text"] == "stored"


def test_wait_for_a_rejected_message_exits_with_3(
    cli: Cli, core: Backend, token: str, chat: int
) -> None:
    """The number is printed, then the error that it does not exist."""
    with core.database.begin() as tx:  # another message takes the number that comes next
        tx.execute(
            text(
                "INSERT INTO message (chat_id, number, version, created_at, updated_at, text, folded,"
                " state) SELECT c.id, 1, 1, '2000-01-01', '2000-01-01', '', '', 'dead' FROM chat c"
                " JOIN application a ON a.id = c.application_id WHERE a.token = :token"
            ),
            {"token": token},
        )
    rejected = cli("messages", "create", token, chat, "text", "--wait", "stored", "-o", "json")
    assert (rejected.code, rejected.json) == (3, {"number": 1})
    assert rejected.error["error"] == "not_found"
