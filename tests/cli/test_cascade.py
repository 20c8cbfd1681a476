"""`--cascade`: deleting a parent with its data, interrupting that, and continuing it."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2
import pytest

from backend.bootstrap import Backend
from backend.domain.model import Parent
from backend.ingest.requests import AcceptRequest
from tests.cli.conftest import Cli, Terminal
from tests.support.waiting import PATIENCE_SECONDS, wait_until


@pytest.fixture
def family(core: Backend, token: str) -> str:
    """The token of an application of three chats with three messages each, all stored."""
    core.acceptor.accept(AcceptRequest.chats(token, 3))
    for chat in (1, 2, 3):
        core.acceptor.accept(AcceptRequest.messages(token, chat, ["one", "two", "three"]))
    core.drainer.drain(core.counters.shard(token))
    return token


@contextmanager
def held(core: Backend, token: str, chat: int) -> Iterator[None]:
    """A lock on a chat's row, so that a cascade can't finish."""
    with closing(psycopg2.connect(core.database.url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT FROM chat c JOIN application a ON a.id = c.application_id"
            " WHERE a.token = %s AND c.number = %s FOR UPDATE OF c",
            [token, chat],
        )
        yield


def test_a_cascade_asks_and_deletes_the_parent_with_its_data(
    cli: Cli, core: Backend, family: str
) -> None:
    """Without `--cascade` the error names it. A dry run says what would be deleted."""
    refused = cli("chats", "delete", family, 1, "--yes")
    assert refused.code == 6
    assert "`--cascade`" in refused.err
    rehearsed = cli("chats", "delete", family, 1, "--cascade", "--dry-run", "-o", "table")
    assert rehearsed.out == "would delete chat 1 and its 3 messages; nothing was deleted\n"
    assert cli("chats", "delete", family, 1, "--cascade").code == 2
    terminal = Terminal(cli, "chats", "delete", family, 1, "--cascade")
    terminal.wait_for_text("Delete chat 1 and its 3 messages? [y/N] ")
    terminal.type("y\n")
    assert terminal.end() == 0
    assert cli("chats", "show", family, 1).code == 3
    assert cli("apps", "show", family).json["chats_count"] == 2
    done = cli("apps", "delete", family, "--cascade", "--yes", "-o", "json")
    assert done.json == {"token": family, "deleted": True}
    assert core.cascade_deleter.count_remaining(Parent(family)) is None
    again = cli("apps", "delete", family, "--cascade", "--yes", "-o", "json")
    assert (again.code, again.error["error"]) == (3, "not_found")


def test_an_interrupted_cascade_is_completed_by_the_same_command(
    cli: Cli, core: Backend, family: str
) -> None:
    """Ctrl-C exits with 130 immediately, and reports that the application is deleted."""
    with held(core, family, 2):
        process = cli.start("apps", "delete", family, "--cascade", "--yes", stderr=subprocess.PIPE)
        wait_until(lambda: core.cascade_deleter.count_remaining(Parent(family)) == 3)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 130
        assert b"interrupted; the application is deleted" in said
        assert b"Traceback" not in said
        assert cli("apps", "show", family).code == 3
    rehearsed = cli("apps", "delete", family, "--cascade", "--dry-run", "-o", "table")
    assert (
        rehearsed.out == "would delete the remaining data of the application; nothing was deleted\n"
    )
    assert cli("apps", "delete", family, "--cascade", "--yes").json["deleted"] is True
    assert core.cascade_deleter.count_remaining(Parent(family)) is None


def test_a_worker_completes_a_cascade_that_was_killed(
    cli: Cli, core: Backend, family: str, request: pytest.FixtureRequest
) -> None:
    """After kill -9 in the middle, its sweep deletes the remaining data."""
    with held(core, family, 2):
        process = cli.start("apps", "delete", family, "--cascade", "--yes")
        wait_until(lambda: core.cascade_deleter.count_remaining(Parent(family)) == 3)
        process.kill()
        process.wait()
    request.getfixturevalue("worker")
    wait_until(lambda: core.cascade_deleter.count_remaining(Parent(family)) is None)
