"""`instachat reconcile` for an operator: its output and its exit codes."""

import json

from sqlalchemy import text

from backend.bootstrap import Backend
from backend.domain.model import Parent
from backend.ingest.requests import AcceptRequest
from tests.cli.conftest import Cli
from tests.support.engines import free_port
from tests.support.redis_values import plant_counter
from tests.support.transfer_lines import application_line, chat_line, message_line

FIELDS = {"kind", "token", "chat", "number", "detail", "repairable"}


def drift(backend: Backend) -> str:
    """An application with one chat, whose counter is too low and whose second message is missing."""
    token = backend.catalog.applications.create("drift").token
    backend.acceptor.accept(AcceptRequest.chats(token))
    backend.acceptor.accept(AcceptRequest.messages(token, 1, ["a", "b", "c"]))
    backend.drainer.drain_all()
    with backend.database.begin() as tx:
        tx.execute(
            text(
                "DELETE FROM message WHERE number = 2 AND chat_id = (SELECT c.id FROM chat c"
                " JOIN application a ON a.id = application_id WHERE token = :token)"
            ),
            {"token": token},
        )
    plant_counter(backend.log, backend.counters.shard(token), Parent(token, 1), issued=1)
    return token


def test_reconcile_reports_plans_and_repairs_differences(cli: Cli, core: Backend) -> None:
    """It exits with 4 while differences remain, and with 0 after the repair. Notes go to standard error."""
    token = drift(core)
    found = cli("reconcile", "--app", token)
    assert found.code == 4
    lines = [json.loads(line) for line in found.out.splitlines()]
    assert {line["kind"] for line in lines} == {"counter_behind", "gap_unexplained"}
    assert all(set(line) == FIELDS and line["repairable"] for line in lines)
    assert "2 differences" in found.err
    planned = cli("reconcile", "--repair", "--dry-run", "--app", token, "-o", "json")
    assert planned.code == 4
    assert planned.error["error"] == "check_failed"
    assert all("--repair would" in body["detail"] for body in json.loads(planned.out))
    repaired = cli("reconcile", "--repair", "--app", token)
    assert repaired.code == 0
    assert "2 repaired" in repaired.err
    clean = cli("reconcile", "--app", token, "-o", "json")
    assert (clean.code, json.loads(clean.out)) == (0, [])
    assert "1 lost" in clean.err


def test_a_gap_of_many_numbers_is_one_line_with_its_first_and_last(cli: Cli) -> None:
    """The import that makes it says so before, also as a dry run; one that leaves nothing out is silent."""
    token, at = "t" * 24, "2026-01-31T23:59:59.000000Z"
    lines = [application_line(token, "n", 1, at, at), chat_line(token, 1, 1, at, at)]
    lines.append(message_line(token, 1, 1_000_000, "far", at, at))
    for options, code in ((["--dry-run"], 0), ([], 0)):
        imported = cli("import", "-", *options, stdin="".join(lines))
        assert imported.code == code
        assert "line 3 leaves out 999,999 numbers, 1 to 999,999, of chat 1" in imported.err
    assert "leaves out" not in cli("import", "-", stdin="".join(lines)).err
    (found,) = cli("reconcile", "--app", token, "-o", "json").json
    assert found.keys() == FIELDS | {"first", "last"}
    assert (found["number"], found["first"], found["last"]) == (1, 1, 999_999)
    assert cli("reconcile", "--app", token, "--repair").code == 0
    assert cli("reconcile", "--app", token, "-o", "json").json == []
    assert cli("chats", "show", token, 1).json["messages_count"] == 1


def test_reconcile_without_an_engine_exits_with_5(cli: Cli, core: Backend) -> None:
    """For an unknown application it exits with 3."""
    drift(core)  # without a message, an installation would note that it is to have an index
    nowhere = f"127.0.0.1:{free_port()}"
    for variable, url in [
        ("INSTACHAT_REDIS_URL", f"redis://{nowhere}"),
        ("INSTACHAT_DATABASE_URL", f"postgresql://x@{nowhere}/x"),
        ("INSTACHAT_ELASTICSEARCH_URL", f"http://{nowhere}"),
    ]:
        for words in (["reconcile"], ["reconcile", "--repair"]):
            result = cli(*words, env={variable: url})
            assert result.code == 5, (variable, result)
            assert nowhere in result.err
    assert cli("reconcile", "--app", "A" * 32).code == 3
