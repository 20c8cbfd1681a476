"""The audit finds each fault of a server, and reports none for a correct one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.adapter.adapter import default_adapter
from loadtest.adapter.operations import Operation
from loadtest.audit.audit import audit
from loadtest.corpus import fixtures
from loadtest.corpus.fixtures import Fixtures, ScenarioLayout
from loadtest.corpus.texts import Marks, digest
from loadtest.recording import RecordedOutcome, Recorder, append_records
from loadtest.report.result import Audit
from loadtest.web import ApiClient
from tests.support.waiting import PATIENCE_SECONDS

SEED = 5
SENT = 300
EDIT_EVERY, DELETE_EVERY = 5, 6


def send_messages(client: ApiClient, folder: Path) -> Fixtures:
    """Send messages to some chats, edit and delete some of them, and record the ledger."""
    recorder = Recorder()
    created = fixtures.create(client, ScenarioLayout(applications=3, chats=45), SEED, recorder)
    for n in range(SENT):
        application, chat = created.chats[n % 7]
        place = {"token": created.tokens[application], "chat": chat}
        text, edited = (
            f"{word} {Marks(SEED).mark(sender, n)}"
            for word, sender in (("سلام", "u0"), ("new", "u1"))
        )
        answer = client.request(Operation.SEND, {**place, "text": text})
        if answer.status != 202:
            recorder.record_outcome(
                RecordedOutcome.CREATION_UNKNOWN, application, chat, 0, digest(text)
            )
            continue
        number = answer.body["number"]
        place["number"] = number
        recorder.record_outcome(RecordedOutcome.CREATED, application, chat, number, digest(text))
        if n % EDIT_EVERY == 0:
            status = client.request(Operation.EDIT, {**place, "text": edited}).status
            if status == 200:
                recorder.record_outcome(
                    RecordedOutcome.EDITED, application, chat, number, digest(edited)
                )
        if n % DELETE_EVERY == 0 and client.request(Operation.DELETE, place).status == 204:
            recorder.record_outcome(RecordedOutcome.DELETED, application, chat, number)
    append_records(folder, "test", recorder.take())
    return created


def audit_server(host: str, folder: Path, patience: float = 2) -> Audit:
    """Send messages to a server, then audit it; `patience` is the audit's, in seconds."""
    client = ApiClient(host, default_adapter())
    return audit(client, folder, send_messages(client, folder), SEED, patience)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("lose", "lost"),
        ("double", "doubled"),
        ("repeat", "doubled"),
        ("skip", "gaps"),
        ("garble", "wrong_text"),
        ("hide", "unsearchable"),
        ("undead", "undead"),
        ("forget", "wrong_text"),
        ("invent", "unasked"),
        ("lose-chat", "chats_lost"),
        ("double-chat", "chats_doubled"),
        ("repeat-chat", "chats_doubled"),
        ("skip-chat", "chats_gaps"),
    ],
)
def test_each_fault_is_found(
    fault: str, kind: str, start_server: Callable[..., str], tmp_path: Path
) -> None:
    """It is reported by its kind, with an example in words, and as no other kind."""
    found = audit_server(start_server(fault), tmp_path)
    assert found.faults.keys() == {kind}
    assert 1 <= found.faults[kind] <= SENT / 15
    assert found.examples or kind.startswith("chats_")


@pytest.mark.parametrize("fault", [None, "lag"])
def test_a_correct_server_has_no_faults(
    fault: str | None, start_server: Callable[..., str], tmp_path: Path
) -> None:
    """A delay between answer, storing and finding is not a fault; neither are edits and deletions."""
    found = audit_server(start_server(*filter(None, [fault])), tmp_path, PATIENCE_SECONDS)
    assert found.faults == {}
    assert found.answered == found.stored == found.searchable == SENT - SENT // DELETE_EVERY
    assert found.deleted == SENT // DELETE_EVERY
    assert (found.chats.answered, found.chats.stored) == (45, 45)


@pytest.mark.parametrize(("fault", "there"), [("break", True), ("err", True), ("refuse", False)])
def test_a_lost_answer_allows_both_outcomes(
    fault: str, there: bool, start_server: Callable[..., str], tmp_path: Path
) -> None:
    """An unanswered message is counted as unknown, whether it is stored or not."""
    found = audit_server(start_server(fault), tmp_path)
    assert found.faults == {}
    assert found.unknown == SENT // 20
    assert found.unknown_stored == (found.unknown if there else 0)


def test_a_lost_answer_that_is_stored_twice_is_doubled(
    start_server: Callable[..., str], tmp_path: Path
) -> None:
    """An unknown message may be stored once or not at all, but not twice."""
    found = audit_server(start_server("break", "double"), tmp_path)
    assert found.faults == {"doubled": SENT // 20}
