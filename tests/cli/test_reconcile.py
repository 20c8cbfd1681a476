"""`instachat reconcile` for an operator: its output and its exit codes."""

import json

from sqlalchemy import text

from backend.bootstrap import Backend
from backend.domain.model import Parent
from backend.ingest.requests import AcceptRequest
from tests.cli.conftest import Cli
from tests.support.engines import free_port
from tests.support.redis_values import plant_counter

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
