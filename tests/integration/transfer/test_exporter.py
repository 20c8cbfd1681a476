"""An export holds all that was accepted before it, as of one moment, and imports to the same bytes."""

from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from backend.bootstrap import Backend
from backend.domain.errors import Failed, NotFound, RateLimited, Unavailable
from backend.ingest import barrier
from backend.ingest.requests import AcceptRequest
from backend.storage.postgres import exports, shards
from tests.conftest import Engines
from tests.support.faults.shortcuts import send
from tests.support.repeating import repeating
from tests.support.transfer import (
    TEXTS,
    decode_lines,
    export,
    fill_installation,
    import_lines,
    new_installation,
)


@pytest.mark.parametrize("which", ["engines", "oldest_engines"])
def test_an_import_of_an_export_exports_the_same_bytes(
    which: str, request: pytest.FixtureRequest
) -> None:
    """Edited, deleted and rejected messages in all scripts survive an export and an import unchanged."""
    engines: Engines = request.getfixturevalue(which)
    with new_installation(engines) as backend:
        token = fill_installation(backend)
        data = export(backend)
        seen = read_application(backend, token)
    with new_installation(engines) as backend:
        work, faults = import_lines(backend, data)
        assert not faults
        assert (work.counts.stored, work.counts.skipped) == (data.count(b"\n"), 0)
        assert export(backend) == data
        assert read_application(backend, token) == seen
        assert [m.message.number for m in backend.catalog.messages.search(token, 1, "مرحبا")] == [5]


def read_application(backend: Backend, token: str) -> object:
    """An application as its users see it, with its live counts."""
    chats = list(backend.catalog.chats.list(token))
    texts = {
        c.number: [m.text for m in backend.catalog.messages.list(token, c.number)] for c in chats
    }
    return backend.catalog.applications.get(token).chats_count, chats, texts


def test_an_export_has_a_line_for_each_number_with_the_fields_of_the_contract(
    backend: Backend,
) -> None:
    """Tombstones have a line without content; no line has an internal ID or a version."""
    token = fill_installation(backend)
    lines = decode_lines(export(backend))
    kinds = {
        kind: [x for x in lines if x["type"] == kind] for kind in ("application", "chat", "message")
    }
    times = {"created_at", "updated_at"}
    for line in lines:
        place = {"application": set(), "chat": {"number"}, "message": {"chat", "number"}}[
            line["type"]
        ]
        content = {
            "application": {"name", "chats_count"},
            "chat": {"messages_count"},
            "message": {"text"},
        }
        rest = {"removed"} if line.get("removed") else content[line["type"]]
        assert line.keys() == {"type", "token"} | place | rest | times
    assert [line["token"] for line in kinds["application"]] == sorted(
        x["token"] for x in kinds["application"]
    )
    assert [c["number"] for c in kinds["chat"]] == list(range(1, 13))
    assert [c["number"] for c in kinds["chat"] if c.get("removed")] == [4, 12]
    for number, rows, removed in [
        (1, len(TEXTS), [3, len(TEXTS)]),
        (11, 300, [1, 300]),
        (5, 2, [2]),
    ]:
        messages = [m for m in kinds["message"] if m["chat"] == number]
        assert [m["number"] for m in messages] == list(range(1, rows + 1))
        assert [m["number"] for m in messages if m.get("removed")] == removed
        assert kinds["chat"][number - 1]["messages_count"] == rows - len(removed)
    assert next(x for x in kinds["application"] if x["token"] == token)["chats_count"] == 10


def test_an_export_escapes_control_characters_and_line_separators(backend: Backend) -> None:
    """A terminal executes none of its characters, and every reader finds the same ends of lines."""
    fill_installation(backend)
    data = export(backend)
    assert data.decode().splitlines() == data.decode().removesuffix("\n").split("\n")
    assert not set(data.decode()) & set(map(chr, [*range(10), *range(11, 32), *range(127, 160)]))


def test_an_export_of_one_application_has_its_lines_only(backend: Backend) -> None:
    """The export of an unknown or a deleted application raises NotFound."""
    token = fill_installation(backend)
    lines = decode_lines(export(backend))
    assert decode_lines(export(backend, token)) == [
        line for line in lines if line["token"] == token
    ]
    deleted = next(x["token"] for x in lines if x["type"] == "application" and x.get("removed"))
    for unknown in (deleted, "x" * 24, "x"):
        with pytest.raises(NotFound):
            export(backend, unknown)


def test_an_empty_installation_exports_no_lines(backend: Backend) -> None:
    """The empty file can be imported."""
    assert export(backend) == b""
    work, faults = import_lines(backend, b"")
    assert (work.counts.stored, faults) == (0, [])


def test_an_export_includes_messages_that_are_only_accepted(backend: Backend, chat: str) -> None:
    """It first stores everything that was accepted before it, also where no worker runs."""
    send(backend, chat, "only accepted")
    assert decode_lines(export(backend))[-1]["text"] == "only accepted"


def test_an_export_fails_if_accepted_messages_cannot_be_stored_in_time(
    backend: Backend, chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export without them would be incomplete."""
    send(backend, chat, "only accepted")
    monkeypatch.setattr(barrier, "BARRIER_TIMEOUT_SECONDS", 0.2)
    shard = backend.counters.shard(chat)
    with backend.database.begin() as tx:
        assert shards.lock_shard(tx, shard)
        with pytest.raises(Unavailable, match="not stored within"):
            export(backend)


def test_an_export_fails_if_rows_arrive_in_an_unexpected_order(
    backend: Backend, chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such an export would lack lines."""
    backend.acceptor.accept(AcceptRequest.chats(chat, 2))
    send(backend, chat, "a")
    send(backend, chat, "b", chat=3)
    descending = exports.EXPORTED_MESSAGES.text.replace(
        "ORDER BY a.token, c.number", "ORDER BY c.number DESC"
    )
    monkeypatch.setattr(exports, "EXPORTED_MESSAGES", text(descending))
    with pytest.raises(Failed, match="not whole"):
        export(backend)


def test_an_export_under_load_shows_one_moment(backend: Backend) -> None:
    """Numbers are consecutive, parents exist, counts agree, and earlier answered messages are included."""
    tokens = [backend.catalog.applications.create(f"{n}").token for n in range(3)]
    answered: list[tuple[str, int, int]] = []

    def write(token: str) -> None:
        number = backend.acceptor.accept(AcceptRequest.chats(token)).first
        for n in range(1, 4):
            answered.append((token, number, send(backend, token, f"{n}", chat=number)))
        backend.catalog.messages.delete(token, number, 1)

    with repeating(backend.drainer.drain_all, *(partial(write, token) for token in tokens)):
        count = 0
        while count < 8 or len(answered) <= 100:
            count += 1
            before = len(answered)
            lines = decode_lines(export(backend))
            check_consistent(lines)
            exported = {
                (x["token"], x["chat"], x["number"]) for x in lines if x["type"] == "message"
            }
            assert set(answered[:before]) <= exported


def check_consistent(lines: list[dict[str, Any]]) -> None:
    """Assert that each line follows its parent's, with the next number, and that counts agree with lines."""
    chats: dict[str, list[dict[str, Any]]] = {}
    messages: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for line in lines:
        if line["type"] == "application":
            chats[line["token"]] = []
        elif line["type"] == "chat":
            chats[line["token"]].append(line)
            assert line["number"] == len(chats[line["token"]])
            messages[line["token"], line["number"]] = []
        else:
            siblings = messages[line["token"], line["chat"]]
            siblings.append(line)
            assert line["number"] == len(siblings)
    for line in lines:
        if line["type"] == "chat":
            children = messages[line["token"], line["number"]]
            assert line["messages_count"] == sum("removed" not in message for message in children)
        elif line["type"] == "application":
            assert line["chats_count"] == len(chats[line["token"]])


def test_an_import_sets_the_rate_limit_and_the_retention_of_the_export(engines: Engines) -> None:
    """Both hold at once. An application without them has the line of earlier exports."""
    with new_installation(engines) as backend:
        limited, plain = (backend.catalog.applications.create(name).token for name in ("a", "b"))
        before = export(backend)
        backend.rate_limits.set(limited, 1)
        backend.retention.set(limited, 90 * 86_400)
        data = export(backend)
    lines = {line["token"]: line for line in decode_lines(data)}
    assert (lines[limited]["limit"], lines[limited]["retention"]) == ("1/s", "90d")
    assert lines[plain].keys() == decode_lines(before)[0].keys()
    with new_installation(engines) as backend:
        assert import_lines(backend, data)[1] == []
        assert export(backend) == data
        work, faults = import_lines(backend, before)
        assert (faults, work.counts.skipped) == ([], 2)
        assert backend.retention.get(limited) == 90 * 86_400
        backend.acceptor.accept(AcceptRequest.chats(limited, 60))
        with pytest.raises(RateLimited):
            backend.acceptor.accept(AcceptRequest.chats(limited))
        backend.acceptor.accept(AcceptRequest.chats(plain))
