"""Servers with another API, by the adapter of docs/other-servers.md: what the audit finds, and a run."""

import re
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from loadtest.adapter.adapter import ServerAdapter
from loadtest.adapter.operations import Operation
from loadtest.audit.audit import audit
from loadtest.corpus import fixtures
from loadtest.corpus.adapter_check import check_adapter
from loadtest.corpus.fixtures import Fixtures, ScenarioLayout
from loadtest.corpus.texts import Marks, digest
from loadtest.errors import UnexpectedAnswer
from loadtest.recording import RecordedOutcome, Recorder, append_records
from loadtest.report.result import Audit, loads
from loadtest.web import ApiClient
from tests.load.conftest import ROOT, run_bench
from tests.support.rails_target import FAULTS, rails_server
from tests.support.waiting import PATIENCE_SECONDS

PAGE = (ROOT / "docs" / "other-servers.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
SEED, SENT, SENDERS = 5, 120, 8
NAMED = {
    "get-then-set": {"doubled", "chats_doubled"},
    "pop-and-lose": {"lost"},
    "unscoped-search": {"leaked"},
}


def adapter(*without: Operation) -> ServerAdapter:
    """The example of the page, without some operations."""
    return ServerAdapter({k: v for k, v in tomllib.loads(EXAMPLE).items() if k not in without})


def send_messages(client: ApiClient, folder: Path) -> Fixtures:
    """Send messages from several threads to a few chats, and record the answers."""
    recorder, marks = Recorder(), Marks(SEED, client.adapter.finds_words)
    created = fixtures.create(client, ScenarioLayout(applications=2, chats=4), SEED, recorder)

    def send(n: int) -> None:
        application, chat = created.chats[n % len(created.chats)]
        text = f"Hello, everyone! {marks.mark('u1', n)}"
        place = {"token": created.tokens[application], "chat": chat}
        answer = client.request_done(Operation.SEND, **place, text=text)
        number = client.adapter.endpoint(Operation.SEND).number(answer)
        recorder.record_outcome(RecordedOutcome.CREATED, application, chat, number, digest(text))

    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(send, range(SENT)))
    append_records(folder, "test", recorder.take())
    return created


def audit_server(
    folder: Path, *faults: str, patience: float = 1.0, api: ServerAdapter | None = None
) -> Audit:
    """Send messages to a server with these faults, then audit it."""
    with rails_server(*faults) as host:
        client = ApiClient(host, api or adapter())
        return audit(client, folder, send_messages(client, folder), SEED, patience)


def test_a_correct_server_has_no_finding(tmp_path: Path) -> None:
    """Although it stores in any order, after its answers, and lists the newest first, in pages."""
    found = audit_server(tmp_path, patience=PATIENCE_SECONDS)
    assert found.faults == {}
    assert found.answered == found.stored == found.searchable == SENT
    assert (found.chats.answered, found.chats.stored) == (4, 4)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_classic_fault_is_named(fault: str, tmp_path: Path) -> None:
    """As no other kind than the page says, with an example in words."""
    found = audit_server(tmp_path, fault)
    assert found.faults.keys() <= NAMED[fault]
    (kind,) = NAMED[fault] - {"chats_doubled"}
    assert found.faults[kind] > 0
    said = {"doubled": "was answered to", "lost": "lost", "leaked": "of other chats found"}
    assert said[kind] in " ".join(found.examples)


def test_what_a_server_can_not_do_is_not_audited(tmp_path: Path) -> None:
    """Its counts are unknown rather than zero or a fault."""
    api = adapter(Operation.SEARCH, Operation.LIST_CHATS, Operation.READ)
    found = audit_server(tmp_path, "unscoped-search", patience=PATIENCE_SECONDS, api=api)
    assert found.faults == {}
    assert (found.stored, found.searchable) == (SENT, None)
    assert (found.chats.answered, found.chats.stored) == (4, None)


@pytest.mark.parametrize(
    ("operation", "key", "where"),
    [
        ("create_application", "token", "token"),
        ("create_chat", "number", "number"),
        ("send_message", "number", "data.number"),
        ("list_chats", "items", "data"),
        ("list_messages", "text", "text"),
        ("search", "number", "_source.number"),
    ],
)
def test_an_answer_without_the_value_names_the_key(operation: str, key: str, where: str) -> None:
    """An adapter is tried before a load, so that a wrong one does not make every request fail."""
    data: dict[str, Any] = tomllib.loads(EXAMPLE)
    with rails_server() as host:
        check_adapter(ApiClient(host, ServerAdapter(data)))
        data[operation][key] = where
        said = rf"{operation}\.{key} = '{where}': the answer has no such value: "
        with pytest.raises(UnexpectedAnswer, match=said):
            check_adapter(ApiClient(host, ServerAdapter(data)))


def test_a_run_against_another_server_names_its_faults(tmp_path: Path) -> None:
    """The command of the page, with all faults at once: exit 4, and what was left out is reported."""
    file = tmp_path / "chat-rails.toml"
    file.write_text(EXAMPLE)
    (command,) = re.findall(r"```sh\n\S+ bench (run mixed .*)\n```", PAGE)
    with rails_server(*FAULTS) as host:
        of_page = {"http://127.0.0.1:3000": host, "chat-rails.toml": file}
        command, _, _ = command.partition(
            " --report"
        )  # reports are tested elsewhere, and cost seconds
        words = [of_page.get(word, word) for word in command.split()]
        refused = run_bench(*("followers" if word == "mixed" else word for word in words))
        run = run_bench(
            *(*words, "--rate", 80, "--duration", "4s", "--chats", 3),
            *("--patience", "1s", "--max-errors", "100%"),
        )
    assert refused.code == 2
    assert "followers needs `follow`, which the adapter of chat-rails does not have" in refused.err
    assert run.code == 4
    for fault in ("doubled", "lost", "leaked"):
        assert re.search(rf"[0-9]+ {fault}\b", run.err), run.err
    found = loads(run.out)
    for said in ("was answered to", " lost", " of other chats found"):
        assert said in " ".join(found.audit.examples)
    assert found.other
    assert found.other.requests["POST /applications/{token}/chats/{chat}/messages"].startswith(
        "POST"
    )
    assert {row.name.split()[0] for row in found.requests} == {"GET", "POST", "PATCH"}
    assert any("delete_message" in said for said in found.other.left_out)
    assert found.lag_ms.stored.samples > 0
