"""Export and import: an import reproduces the bytes, is idempotent, and no number is issued twice."""

import io
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from backend.bootstrap import Backend, open_backend
from backend.domain import serialization
from backend.domain.errors import Conflict, Failed, Invalid, NotFound, Unavailable
from backend.domain.events import pack_messages
from backend.domain.model import Application, Chat, EntryId, Message, Parent
from backend.domain.serialization import rfc3339
from backend.ingest import barrier, direct_write
from backend.ingest.barrier import Barrier
from backend.ingest.drain import Drainer
from backend.ingest.epochs import Epochs
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from backend.storage.postgres import exports, imports, locks, shards
from backend.storage.postgres.statements import field_names
from backend.storage.redis.log import Log
from backend.storage.redis.types import Creation, StaleEpoch
from backend.transfer import diff, importer
from backend.transfer import format as line_format
from backend.transfer.diff import LineFault
from backend.transfer.format import ApplicationLine, ChatLine, LineChunk, MessageLine
from backend.transfer.importer import Import, Importer
from tests.conftest import Engines
from tests.support.engines import RedisServer, valkey_binary
from tests.support.transfer_lines import application_line, chat_line, message_line

TEXTS = [
    "plain",
    'quote " backslash \\ slash / \\N \\. \\u0041',
    "tab\t line\n return\r bell\x07 unit\x1f delete\x7f c1\x85\x9b",
    "line separator\u2028 paragraph separator\u2029",
    "مَرحبًا بِالعالَم",
    "你好，世界",
    "👩‍👩‍👧‍👦 🇯🇵 👍🏽 \U0001f642",
    "שלום नमस्ते สวัสดี e\u0301 \ufeff \uffff \U0010ffff",
    " ",
    "x" * 10_000,
    "🙂" * 10_000,
]
T = "t" * 24
AT = "2026-01-31T23:59:59.000000Z"
TIME = datetime.fromisoformat(AT)


def send(backend: Backend, token: str, *texts: str, chat: int = 1) -> int:
    """Accept messages; returns the first number."""
    return backend.acceptor.accept(AcceptRequest.messages(token, chat, texts)).first


def export(backend: Backend, token: str | None = None) -> bytes:
    """All lines of an export."""
    with backend.exporter.snapshot(token) as snapshot:
        return "".join(snapshot.lines()).encode()


def load(
    backend: Backend, data: bytes | Sequence[dict[str, Any]]
) -> tuple[Import, list[LineFault]]:
    """Import lines, up to the first fault."""
    work = backend.importer.begin()
    for chunk in line_format.read_chunks(io.BytesIO(as_bytes(data)).read):
        if faults := work.process(chunk):
            return work, faults
    return work, []


def dry_run(backend: Backend, data: bytes | Sequence[dict[str, Any]]) -> list[LineFault]:
    """The faults that a dry run finds."""
    work = backend.importer.dry_run()
    chunks = line_format.read_chunks(io.BytesIO(as_bytes(data)).read)
    return [fault for chunk in chunks for fault in work.process(chunk)]


def as_bytes(data: bytes | Sequence[dict[str, Any]]) -> bytes:
    return (
        data if isinstance(data, bytes) else b"".join(json.dumps(d).encode() + b"\n" for d in data)
    )


def bodies(data: bytes) -> list[dict[str, Any]]:
    """The lines, decoded."""
    return [json.loads(line) for line in data.decode().split("\n")[:-1]]


def application(**fields: Any) -> dict[str, Any]:
    line = {"type": "application", "token": T, "name": "n", "created_at": AT, "updated_at": AT}
    return without_none(line | fields)


def chat(number: int | None = 1, **fields: Any) -> dict[str, Any]:
    line = {"type": "chat", "token": T, "number": number, "created_at": AT, "updated_at": AT}
    return without_none(line | fields)


def message(number: int = 1, **fields: Any) -> dict[str, Any]:
    line = {"type": "message", "token": T, "chat": 1, "number": number, "text": f"text {number}"}
    return without_none(line | {"created_at": AT, "updated_at": AT} | fields)


def without_none(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if value is not None}


def query(backend: Backend, statement: str) -> list[tuple[Any, ...]]:
    """Rows, read from SQL directly."""
    with backend.database.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def contents(backend: Backend) -> tuple[object, object]:
    """The whole content of SQL and of Redis."""
    tables = ["installation", "shard", "application", "chat", "message", "outbox", "dead_letter"]
    rows = {table: query(backend, f"SELECT t::text FROM {table} t ORDER BY 1") for table in tables}
    client = backend.log.redis
    assert isinstance(client, redis.Redis)
    return rows, {key: client.dump(key) for key in client.scan_iter()}


def full(backend: Backend) -> str:
    """Fill an installation with a case of each kind; returns the token of the main application."""
    catalog, acceptor = backend.catalog, backend.acceptor
    tokens = [
        catalog.applications.create(name).token for name in ["Ünï‽ \u2028", "empty", "deleted"]
    ]
    token = tokens[0]
    catalog.applications.rename(token, 'renamed "twice"')
    acceptor.accept(AcceptRequest.chats(token, 12))
    send(backend, token, *TEXTS)
    send(backend, token, *map(str, range(300)), chat=11)
    send(backend, token, "only one", chat=3)
    send(backend, token, "of a chat that goes", chat=12)
    catalog.messages.delete(token, 12, 1)
    acceptor.accept(AcceptRequest.chats(tokens[2]))
    catalog.chats.delete(tokens[2], 1)
    for number in (4, 12):
        catalog.chats.delete(token, number)
    catalog.messages.edit(token, 1, 2, "edited")
    for chat_number, number in [(1, 3), (1, len(TEXTS)), (11, 1), (11, 300), (3, 1)]:
        catalog.messages.delete(token, chat_number, number)
    catalog.applications.delete(tokens[2])
    poison = pack_messages(token, 5, ["fine", "bad \0 text"])
    creation = Creation("messages", Parent(token, 5), poison)
    backend.log.accept(backend.counters.shard(token), [creation], EntryId(0, 0))
    backend.drainer.drain_all()
    return token


@pytest.fixture(scope="module")
def sample(engines: Engines) -> Iterator[tuple[str, bytes]]:
    """What `full` fills an installation with, exported; and the token of its main application."""
    with own(engines) as backend:
        token = full(backend)
        yield token, export(backend)


@contextmanager
def own(engines: Engines) -> Iterator[Backend]:
    """An installation whose Redis no other test empties."""
    server = RedisServer(valkey_binary())
    try:
        server.start()
        with open_backend(
            Settings(database_url=engines.fresh_database(), redis_url=server.url)
        ) as backend:
            yield backend
    finally:
        server.remove()


@contextmanager
def empty(engines: Engines) -> Iterator[Backend]:
    """A second installation, on the emptied Redis."""
    with open_backend(engines.settings()) as backend:
        yield backend


# -- round trips --------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["engines", "oldest_engines"])
def test_a_round_trip_gives_the_same_bytes(which: str, request: pytest.FixtureRequest) -> None:
    """Edited, deleted, rejected, in all scripts: what is exported, imported and exported is the same."""
    engines: Engines = request.getfixturevalue(which)
    with empty(engines) as backend:
        token = full(backend)
        data = export(backend)
        seen = live(backend, token)
    with empty(engines) as backend:
        work, faults = load(backend, data)
        assert not faults
        assert (work.counts.stored, work.counts.skipped) == (data.count(b"\n"), 0)
        assert export(backend) == data
        assert live(backend, token) == seen
        assert [m.message.number for m in backend.catalog.messages.search(token, 1, "مرحبا")] == [5]


def live(backend: Backend, token: str) -> object:
    """An application as its users see it, with its live counts."""
    chats = list(backend.catalog.chats.list(token))
    texts = {
        c.number: [m.text for m in backend.catalog.messages.list(token, c.number)] for c in chats
    }
    return backend.catalog.applications.get(token).chats_count, chats, texts


def test_an_export_holds_everything_but_what_must_stay_inside(backend: Backend) -> None:
    """A line a number, with the contract's fields; a tombstone has its number only; no id, no version."""
    token = full(backend)
    lines = bodies(export(backend))
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
        mine = [m for m in kinds["message"] if m["chat"] == number]
        assert [m["number"] for m in mine] == list(range(1, rows + 1))
        assert [m["number"] for m in mine if m.get("removed")] == removed
        assert kinds["chat"][number - 1]["messages_count"] == rows - len(removed)
    assert next(x for x in kinds["application"] if x["token"] == token)["chats_count"] == 10


def test_each_line_is_one_line_for_everybody(backend: Backend) -> None:
    """No character that a terminal executes, or that some reader takes for the end of a line."""
    full(backend)
    data = export(backend)
    assert data.decode().splitlines() == data.decode().removesuffix("\n").split("\n")
    assert not set(data.decode()) & set(map(chr, [*range(10), *range(11, 32), *range(127, 160)]))


def test_an_application_alone(backend: Backend) -> None:
    """`token` narrows to one application's lines; an unknown or a deleted one is not found."""
    token = full(backend)
    lines = bodies(export(backend))
    assert bodies(export(backend, token)) == [line for line in lines if line["token"] == token]
    deleted = next(x["token"] for x in lines if x["type"] == "application" and x.get("removed"))
    for unknown in (deleted, "x" * 24, "x"):
        with pytest.raises(NotFound):
            export(backend, unknown)


def test_nothing_is_exported_as_nothing(backend: Backend) -> None:
    """An empty installation exports no line, and importing none works."""
    assert export(backend) == b""
    work, faults = load(backend, b"")
    assert (work.counts.stored, faults) == (0, [])


def test_what_is_accepted_is_exported(backend: Backend, application_with_chat: str) -> None:
    """Without a worker, too: an export first stores everything that was accepted before it."""
    send(backend, application_with_chat, "only accepted")
    assert bodies(export(backend))[-1]["text"] == "only accepted"


def test_an_export_that_would_not_hold_all_fails(
    backend: Backend, application_with_chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If what was accepted cannot be stored in time, nothing is exported."""
    send(backend, application_with_chat, "only accepted")
    monkeypatch.setattr(barrier, "BARRIER_TIMEOUT_SECONDS", 0.2)
    shard = backend.counters.shard(application_with_chat)
    with backend.database.begin() as tx:
        assert shards.lock_shard(tx, shard)
        with pytest.raises(Unavailable, match="not stored within"):
            export(backend)


def test_rows_in_another_order_are_no_export(
    backend: Backend, application_with_chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If PostgreSQL ever returned rows in another order, lines would be missing: the export fails."""
    backend.acceptor.accept(AcceptRequest.chats(application_with_chat, 2))
    send(backend, application_with_chat, "a")
    send(backend, application_with_chat, "b", chat=3)
    backwards = exports.EXPORTED_MESSAGES.text.replace(
        "ORDER BY a.token, c.number", "ORDER BY c.number DESC"
    )
    monkeypatch.setattr(exports, "EXPORTED_MESSAGES", text(backwards))
    with pytest.raises(Failed, match="not whole"):
        export(backend)


@pytest.fixture
def application_with_chat(backend: Backend, application: str) -> str:
    """The token of an application with a stored chat."""
    backend.acceptor.accept(AcceptRequest.chats(application))
    backend.drainer.drain_all()
    return application


# -- idempotence --------------------------------------------------------------------------------------


def test_twice_is_once(engines: Engines, backend: Backend) -> None:
    """The second import skips everything and changes nothing, in SQL and in Redis."""
    full(backend)
    data = export(backend)
    before = contents(backend)
    assert load(backend, data)[1] == []
    assert contents(backend) == before, "imported where it came from"
    with empty(engines) as other:
        load(other, data)
        before = contents(other)
        work, faults = load(other, data)
        assert contents(other) == before
        assert (work.counts.stored, work.counts.skipped, faults) == (0, data.count(b"\n"), [])


def test_a_line_may_come_twice(backend: Backend) -> None:
    """Equal lines of one file count once, as in two files put together."""
    lines = [application(), chat(), message()]
    work, faults = load(backend, lines + lines)
    assert (work.counts.stored, work.counts.skipped, faults) == (3, 3, [])
    assert dry_run(backend, lines + lines) == []


def test_fields_in_any_order_and_any_zone_are_equal(backend: Backend) -> None:
    """The content is compared; counts are ignored."""
    load(backend, [application(), chat(), message()])
    twisted = dict(reversed(message(created_at="2026-02-01T01:59:59+02:00").items()))
    lines = [application(chats_count=99), chat(messages_count="many", removed=False), twisted]
    work, faults = load(backend, lines)
    assert (work.counts.stored, faults) == (0, [])


def test_what_is_accepted_is_there_to_compare_with(backend: Backend, application: str) -> None:
    """Without a worker, too: lines may belong to a chat that is only accepted, or differ from a message."""
    backend.acceptor.accept(AcceptRequest.chats(application))
    send(backend, application, "accepted")
    faults = load(backend, [message(7, token=application), message(1, token=application)])[1]
    assert [f[:2] for f in said(faults)] == [(2, Conflict)]
    backend.drainer.drain_all()
    assert query(backend, "SELECT number FROM message ORDER BY 1") == [(1,), (7,)]


def test_two_imports_at_once_are_one(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each finds what the other has written, and skips it."""
    monkeypatch.setattr(line_format, "CHUNK_LINES", 50)
    lines = [application(), *(chat(n) for n in range(1, 4))]
    lines += [message(n, chat=c) for c in range(1, 4) for n in range(1, 201)]
    with empty(engines) as backend, ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(load, backend, lines) for _ in range(3)]
        assert [run.result()[1] for run in runs] == [[], [], []]
        assert sum(run.result()[0].counts.stored for run in runs) == len(lines)
        assert query(backend, "SELECT count(*), sum(number) FROM message") == [(600, 60_300)]


# -- conflicts ----------------------------------------------------------------------------------------

LATER = "2026-01-31T23:59:59.000001Z"
GONE: dict[str, Any] = {"removed": True, "name": None, "text": None}
HERE = [
    *(application(), application(token="v" * 24, **GONE)),
    *(chat(), chat(2, **GONE), message(), message(2, **GONE)),
]


@pytest.fixture(scope="module")
def untouched(engines: Engines) -> Iterator[Backend]:
    """An installation with those lines, for tests that change nothing; with a Redis of its own."""
    with own(engines) as backend:
        assert load(backend, HERE)[1] == []
        export(backend)  # from here on each shard has an epoch
        yield backend


@pytest.mark.parametrize(
    ("line", "differs"),
    [
        (application(name="other"), "name"),
        (application(created_at=LATER), "created_at"),
        (application(updated_at=LATER), "updated_at"),
        (application(**GONE), "removed, name"),
        (chat(created_at=LATER), "created_at"),
        (chat(updated_at=LATER), "updated_at"),
        (chat(**GONE), "removed"),
        (chat(2), "removed"),
        (message(text="Text 1"), "text"),
        (message(created_at=LATER), "created_at"),
        (message(updated_at=LATER), "updated_at"),
        (message(**GONE), "removed, text"),
        (message(2), "removed, text"),
        (message(2, **GONE, updated_at=LATER), "updated_at"),
    ],
)
def test_what_differs_is_a_conflict(untouched: Backend, line: dict[str, Any], differs: str) -> None:
    """The error names its line and its fields; nothing is overwritten, and no later line stored."""
    before = contents(untouched)
    lines = [HERE[1], line, message(3)]
    work, faults = load(untouched, lines)
    assert [(f.line, type(f.error)) for f in faults] == [(2, Conflict)]
    assert faults[0].error.message.endswith(f"differs from what is there in {differs}")
    assert (work.counts.stored, work.counts.skipped) == (0, 1)
    assert contents(untouched) == before
    assert said(dry_run(untouched, lines)) == said(faults)


LINES: dict[type, Callable[..., dict[str, Any]]] = {
    ApplicationLine: application,
    ChatLine: chat,
    MessageLine: message,
}
NAMES = {
    "token",
    "parent",
    "number",
}  # these say which application, chat or message a line describes
# Another value for each other field. The removal of an application or a message is a missing content.
OTHER_VALUES = {
    "name": "other",
    "text": "other",
    "removed": True,
    "created_at": "2026-01-31T23:59:58.000000Z",
    "updated_at": LATER,
}
FIELDS = [
    pytest.param(make, field, id=f"{line_type.__name__}.{field}")
    for line_type, make in LINES.items()
    for field in field_names(line_type)
    if field not in NAMES
]


@pytest.mark.parametrize(("make", "field"), FIELDS)
def test_each_field_is_compared(
    untouched: Backend, make: Callable[..., dict[str, Any]], field: str
) -> None:
    """A line that differs from what is stored in one field only, whichever, is a conflict."""
    faults = dry_run(untouched, [make(**{field: OTHER_VALUES[field]})])
    assert [type(fault.error) for fault in faults] == [Conflict]
    assert faults[0].error.message.endswith(f"differs from what is there in {field}")


def test_each_field_is_stored_and_exported(backend: Backend) -> None:
    """Lines of which each field has another value than usual come back with all of them."""
    unchanged = NAMES | {"removed"}
    lines = [
        make(
            **{name: OTHER_VALUES[name] for name in field_names(line_type) if name not in unchanged}
        )
        for line_type, make in LINES.items()
    ]
    assert load(backend, lines)[1] == []
    for line, exported in zip(lines, bodies(export(backend)), strict=True):
        assert line.items() <= exported.items()


@pytest.mark.parametrize(
    ("exported", "body", "more"),
    [
        (
            application_line(T, "n", 1, AT, AT),
            serialization.application(Application(T, "n", 1, TIME, TIME, 1)),
            {"type"},
        ),
        (
            chat_line(T, 1, 1, AT, AT),
            serialization.chat(Chat(1, 1, TIME, TIME)),
            {"type", "token"},
        ),
        (
            message_line(T, 1, 1, "x", AT, AT),
            serialization.message(Message(1, "x", TIME, TIME, 1)),
            {"type", "token", "chat"},
        ),
    ],
    ids=["application", "chat", "message"],
)
def test_a_line_has_every_field_of_the_body(
    exported: str, body: dict[str, Any], more: set[str]
) -> None:
    """And its kind, and its parent's name."""
    assert json.loads(exported).keys() == body.keys() | more


def said(faults: list[LineFault]) -> list[tuple[int, type, str]]:
    """Faults as they can be compared."""
    return [(fault.line, type(fault.error), fault.error.message) for fault in faults]


def test_a_file_that_contradicts_itself_is_a_conflict(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two lines of one name that differ: the second one is a conflict, at any distance, also in a dry run."""
    lines = [
        application(),
        chat(),
        message(7),
        *map(message, range(100, 105)),
        message(7, text="x"),
    ]
    for size in (5_000, 2):
        monkeypatch.setattr(line_format, "CHUNK_LINES", size)
        assert [f[:2] for f in said(dry_run(backend, lines))] == [(9, Conflict)]
    assert [f[:2] for f in said(load(backend, lines)[1])] == [(9, Conflict)]
    assert query(backend, "SELECT count(*) FROM message") == [(6,)]


# -- bad lines ----------------------------------------------------------------------------------------


def raw(line: dict[str, Any], **texts: str) -> bytes:
    """A line with some of its values replaced by raw JSON."""
    parts = [f'"{k}": {texts.get(k) or json.dumps(v)}' for k, v in (line | texts).items()]
    return ("{" + ", ".join(parts) + "}").encode()


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"", "the line is empty"),
        (b"  ", "the line is empty"),
        (b"{", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"type": "application"} {}', "not JSON: extra data at 25"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"\xff", "not valid UTF-8 at byte 1"),
        (b'{"text": "caf\xe9"}', "not valid UTF-8 at byte 14"),
        (b"[" * 100_000, "too deep"),
        (raw(message(), number="9" * 5_000), "a number too long"),
        (raw(message(), number="NaN"), "not JSON"),
        (b'"' + b"x" * 1_000_000 + b'"', "longer than"),
        (b"{}", '"type"'),
        (raw(message(), type='"user"'), '"type"'),
        (raw(message(), type="[1]"), '"type"'),
        (raw(message(), type="null"), '"type"'),
        (raw(message(), removed='"yes"'), '"removed" is neither true nor false'),
        (raw(message(), removed="1"), '"removed" is neither true nor false'),
        (raw(message(), version="1"), '"version" unknown'),
        (raw(message(), messages_count="1"), '"messages_count" unknown'),
        (raw(message(), removed="true"), '"text" unknown'),
        (raw(application(), removed="true"), '"name" unknown'),
        (raw(application(), **{"x" * 100: "1"}), "x…"),
        (as_bytes([message(text=None)]), '"text" missing'),
        (as_bytes([message(chat=None)]), '"chat" missing'),
        (
            as_bytes([message(created_at=None, updated_at=None)]),
            '"created_at", "updated_at" missing',
        ),
        (as_bytes([chat(number=None)]), '"number" missing'),
        (as_bytes([application(token=None)]), '"token" missing'),
        (raw(message(), token="1"), '"token" is not a string'),
        (raw(message(), token='"short"'), '"token" is none'),
        (raw(message(), token=f'"{T}!"'), '"token" is none'),
        (raw(message(), token=f'"{T}\\n"'), '"token" is none'),
        (raw(message(), number="0"), '"number" is not a whole number'),
        (raw(message(), number="-1"), '"number" is not a whole number'),
        (raw(message(), number="1.0"), '"number" is not a whole number'),
        (raw(message(), number="true"), '"number" is not a whole number'),
        (raw(message(), number='"1"'), '"number" is not a whole number'),
        (raw(message(), number=str(2**53)), '"number" is not a whole number'),
        (raw(message(), chat="null"), '"chat" is not a whole number'),
        (raw(message(), text="1"), '"text" is not a string'),
        (raw(message(), text='""'), "the text of a message is empty"),
        (raw(message(), text=f'"{"x" * 10_001}"'), "10,001 characters"),
        (raw(message(), text='"a\\u0000b"'), "NUL"),
        (raw(message(), text='"\\ud800"'), "lone surrogate"),
        (raw(application(), name=f'"{"x" * 256}"'), "256 characters"),
        (raw(application(), name='""'), "the name of an application is empty"),
        (raw(message(), created_at="1"), '"created_at" is not a string'),
        (raw(message(), updated_at='"yesterday"'), '"updated_at" is not a time of RFC 3339'),
        (raw(message(), updated_at='"2026-01-31"'), '"updated_at" is not a time of RFC 3339'),
        (raw(message(), updated_at='"2026-01-31T23:59:59"'), "with its zone"),
        (raw(message(), updated_at='"2026-01-31T23:59:59.1234567Z"'), "RFC 3339"),
        (raw(message(), updated_at='"20260131T235959Z"'), "RFC 3339"),
        (raw(message(), updated_at='"2026-02-30T23:59:59Z"'), "does not exist"),
        (raw(message(), updated_at='"9999-12-31T23:59:59-01:00"'), "does not exist"),
        (raw(message(), updated_at='"1969-12-31T23:59:59Z"'), "before 1970"),
        (as_bytes([chat(token="u" * 24)]), "the application is not known"),
        (as_bytes([message(chat=7)]), "chat 7 is not known"),
        (as_bytes([message(token="u" * 24)]), "the application is not known"),
        (as_bytes([message(chat=2)]), "chat 2 is removed, so nothing belongs to it"),
        (as_bytes([chat(token="v" * 24)]), "the application is removed, so nothing belongs to it"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("rehearsed", [False, True], ids=["import", "dry run"])
def test_a_bad_line_ends_an_import(
    untouched: Backend, line: bytes, what: str, rehearsed: bool
) -> None:
    """The error has its number; everything before it is stored, nothing from it on."""
    before = contents(untouched)
    data = as_bytes(HERE) + line.removesuffix(b"\n") + b"\n{\n"
    if rehearsed:
        first, second = said(dry_run(untouched, data))
        assert second[:2] == (8, Invalid)
    else:
        first = said(load(untouched, data)[1])[0]
    assert first[:2] == (7, Invalid)
    assert what in first[2]
    assert contents(untouched) == before


@pytest.mark.parametrize(
    "line",
    [
        raw(message(3), text='"\\ud83d\\ude42"') + b"\r\n",
        raw(message(3), text=f'"{chr(92)}ud83d{chr(92)}ude42"' * 1),
        as_bytes([message(3, text="🙂" * 10_000)]),
        as_bytes(
            [
                message(
                    3, created_at="2026-01-31t23:59:59z", updated_at="2026-01-31 23:59:59.5+05:30"
                )
            ]
        ),
        as_bytes([message(2**53 - 1)]),
    ],
)
def test_a_strange_line_may_be_good(backend: Backend, line: bytes) -> None:
    """Any escapes, CRLF, the longest line, the highest number, other zones."""
    _, faults = load(backend, as_bytes([application(), chat()]) + line)
    assert said(faults) == []
    (stored,) = bodies(export(backend))[2:]
    assert stored["text"] in ("🙂", "🙂" * 10_000, "text 3", f"text {2**53 - 1}")
    assert stored["created_at"] == AT
    assert stored["updated_at"] in (AT, "2026-01-31T18:29:59.500000Z")


def test_lines_are_split_at_line_feeds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """In any pieces; an endless line needs no memory, and the next lines keep their numbers."""
    monkeypatch.setattr(line_format, "CHUNK_LINES", 2)
    data = b"a\r\n\xe2\x80\xa8b\n\n" + b"x" * 1_000_000 + b"\nc\nd"
    for size in (1_000, 70_000, 10_000_000):
        chunks = list(line_format.read_chunks(partial(_read_at_most, io.BytesIO(data), size)))
        lines = [line for chunk in chunks for line in chunk.lines]
        assert lines[:3] == [b"a\r", b"\xe2\x80\xa8b", b""]
        assert line_format.MAX_LINE_BYTES < len(lines[3]) <= 1_000_000
        assert lines[4:] == [b"c", b"d"]
        assert [chunk.first for chunk in chunks] == [1, 3, 5]
        assert chunks[-1].read == len(data)


def _read_at_most(source: io.BytesIO, most: int, size: int) -> bytes:
    return source.read(min(most, size))


def test_a_dry_run_names_every_fault_and_writes_nothing(backend: Backend) -> None:
    """Invalid lines and conflicts, each with its number; no fault is reported for a parent's."""
    load(backend, HERE)
    before = contents(backend)
    lines = [
        *(HERE[0], HERE[2], HERE[4], HERE[5]),  # there already
        chat(3, updated_at="x"),  # bad
        message(chat=3),  # … no fault: its parent's line has one
        message(9, chat=3),
        message(1, text="other"),  # conflict
        message(3),  # new
        chat(4, **GONE),  # new
        message(chat=4),  # bad
        chat(2),  # conflict: it is removed in SQL
        message(chat=2),  # … and so its message
        message(1, chat=9),  # bad
        application(token="u" * 24, name=""),  # bad
        chat(token="u" * 24),
        message(token="u" * 24),
    ]
    data = as_bytes(lines) + b"not JSON\n" + b"\xff\n" + as_bytes([message(4)])
    kinds = {line: kind for line, kind, _ in said(dry_run(backend, data))}
    assert kinds == {
        **dict.fromkeys([5, 11, 14, 15, 18, 19], Invalid),
        **dict.fromkeys([8, 12, 13], Conflict),
    }
    assert contents(backend) == before


def test_a_dry_run_of_something_new_writes_nothing(
    backend: Backend, sample: tuple[str, bytes]
) -> None:
    """It does not even begin an epoch in an empty Redis, and it counts what an import then stores."""
    _, data = sample
    before = contents(backend)
    work = backend.importer.dry_run()
    for chunk in line_format.read_chunks(io.BytesIO(data).read):
        assert not work.process(chunk)
    assert contents(backend) == before
    assert load(backend, data)[0].counts == work.counts


# -- unique numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("wiped", [False, True], ids=["kept", "wiped"])
def test_numbers_go_on_behind_the_highest(
    backend: Backend, sample: tuple[str, bytes], wiped: bool
) -> None:
    """Above deleted numbers, too; also if Redis is wiped after the import."""
    token, data = sample
    load(backend, data)
    if wiped:
        backend.log.redis.flushall()
    assert send(backend, token, "x") == len(TEXTS) + 1
    assert send(backend, token, "x", chat=11) == 301
    assert send(backend, token, "x", chat=3) == 2
    assert send(backend, token, "x", chat=2) == 1
    assert backend.acceptor.accept(AcceptRequest.chats(token)).first == 13
    for number in (4, 12):
        with pytest.raises(NotFound):
            send(backend, token, "x", chat=number)
    deleted = [x["token"] for x in bodies(data) if x["type"] == "application" and "removed" in x]
    with pytest.raises(NotFound):
        backend.acceptor.accept(AcceptRequest.chats(*deleted))
    backend.drainer.drain_all()
    assert query(backend, "SELECT count(*) FROM dead_letter") == [(0,)]


def test_parents_wait_for_their_counts_in_sql(backend: Backend) -> None:
    """Parents whose count has changed are dirty, as after accept."""
    load(backend, [application(), *map(chat, (1, 2)), message(), message(2, **GONE)])
    key = backend.log.key(backend.counters.shard(T), "dirty")
    assert set(backend.log.redis.zrange(key, 0, -1)) == {T.encode(), f"{T}:1".encode()}
    assert query(backend, "SELECT messages_removed FROM chat ORDER BY number") == [(1,), (0,)]
    assert getattr(backend.catalog.chats.get(T, 1), "messages_count", None) == 1


def test_an_index_hears_of_what_was_imported(backend: Backend) -> None:
    """Where changes are published, the outbox names each row with its version, tombstones included."""
    load(backend, [application(), chat()])
    with backend.database.begin() as tx:
        tx.execute(text("UPDATE installation SET publishing = true"))
    load(backend, [message(updated_at=LATER), message(2, **GONE)])
    named = query(
        backend, "SELECT c, n, v FROM outbox, unnest(chats, numbers, versions) w(c, n, v)"
    )
    rows = query(backend, "SELECT chat_id, number, version FROM message ORDER BY number")
    assert named == rows
    assert [version for _, _, version in rows] == [1769903999000001, 1769903999000000]


@pytest.fixture
def forgotten(backend: Backend) -> Callable[[str], None]:
    """Call it with a WHERE clause: deletes such chats from SQL, as if an older copy had been restored."""

    def forget(which: str) -> None:
        with backend.database.begin() as tx:
            tx.execute(
                text(f"DELETE FROM message WHERE chat_id IN (SELECT id FROM chat WHERE {which})")
            )
            tx.execute(text(f"DELETE FROM chat WHERE {which}"))

    return forget


def test_a_counter_left_behind_gives_nothing_for_a_tombstone(
    backend: Backend, forgotten: Callable[[str], None]
) -> None:
    """A chat or an application that is imported as a tombstone is closed, whatever Redis holds of it."""
    load(backend, [application()])
    backend.acceptor.accept(AcceptRequest.chats(T, 2))
    send(backend, T, "a", chat=2)
    backend.drainer.drain_all()
    forgotten("number = 2")
    assert load(backend, [chat(2, **GONE)])[1] == []
    with pytest.raises(NotFound):
        send(backend, T, "b", chat=2)
    forgotten("true")
    with backend.database.begin() as tx:
        tx.execute(text("DELETE FROM application"))
    assert load(backend, [application(**GONE)])[1] == []
    with pytest.raises(NotFound):
        backend.acceptor.accept(AcceptRequest.chats(T))


def test_a_counter_left_closed_opens_for_what_is_there(
    backend: Backend, forgotten: Callable[[str], None]
) -> None:
    """A chat whose counter an older SQL left closed in Redis accepts messages once it is imported."""
    load(backend, [application()])
    backend.acceptor.accept(AcceptRequest.chats(T))
    backend.drainer.drain_all()
    backend.catalog.chats.delete(T, 1)
    forgotten("true")
    assert load(backend, [chat(), message(4)])[1] == []
    assert send(backend, T, "x") == 5


@contextmanager
def between(
    monkeypatch: pytest.MonkeyPatch, step: str, act: Callable[[], object]
) -> Iterator[None]:
    """Do something once, after a step of an import: `compared`, `raised` or `written`."""
    owner, name = {
        "compared": (importer, "compare"),
        "raised": (Log, "raise_all"),
        "written": (imports, "copy_imported_messages"),
    }[step]
    before = getattr(owner, name)
    left = [act]

    def with_act(*arguments: object, **named: object) -> object:
        result = before(*arguments, **named)
        if left:
            left.pop()()
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, with_act)
        yield
    assert not left, "it never came to that"


def state_of_chat(backend: Backend) -> tuple[list[tuple[Any, ...]], int]:
    """The messages of chat 1, and the next number that is issued; nothing may be a dead letter."""
    following = send(backend, T, "next")
    backend.drainer.drain_all()
    assert query(backend, "SELECT count(*) FROM dead_letter") == [(0,)]
    return query(backend, "SELECT number, text FROM message ORDER BY number")[:-1], following


@pytest.fixture
def one(backend: Backend) -> Backend:
    """A backend with an imported application, its chat 1 and that chat's message 1."""
    assert load(backend, [application(), chat(), message()])[1] == []
    return backend


def test_what_was_accepted_before_the_counters_rose_is_there_first(
    one: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two are answered between comparing and raising: they keep their numbers: a conflict."""
    with between(monkeypatch, "compared", lambda: send(one, T, "a", "b")):
        work, faults = load(one, list(map(message, range(1, 11))))
    assert [f[:2] for f in said(faults)] == [(2, Conflict)]
    assert work.counts.stored == 0
    assert state_of_chat(one) == ([(1, "text 1"), (2, "a"), (3, "b")], 11)


def test_what_is_accepted_after_the_counters_rose_comes_behind(
    one: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No number of the chunk is issued once its counters are raised."""
    with between(monkeypatch, "raised", lambda: send(one, T, "a")):
        assert load(one, [message(7)])[1] == []
    assert state_of_chat(one) == ([(1, "text 1"), (7, "text 7"), (8, "a")], 9)


def test_an_epoch_that_ends_before_the_rows_are_written(
    one: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is wiped after the counters are raised, and issues the number again: that message stays."""

    def wipe() -> None:
        one.log.redis.flushall()
        assert send(one, T, "a") == 2

    with between(monkeypatch, "raised", wipe):
        assert [f[:2] for f in said(load(one, [message(2)])[1])] == [(1, Conflict)]
    assert state_of_chat(one) == ([(1, "text 1"), (2, "a")], 3)


def test_a_wipe_alone_costs_an_import_nothing(
    one: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any moment: the counters are raised again, in the new epoch."""
    lines = [*map(message, range(1, 6))]
    for number, step in enumerate(("compared", "raised", "written"), 1):
        lines += [message(number * 10), chat(number + 1)]
        with between(monkeypatch, step, one.log.redis.flushall):
            assert load(one, lines)[1] == []
    assert state_of_chat(one)[1] == 31
    assert one.acceptor.accept(AcceptRequest.chats(T)).first == 5


def test_a_missing_counter_is_made_from_what_was_drained(
    one: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is lost, and the numbers that it issued are in the log only: the new one is above them, too."""

    def lose() -> None:
        send(one, T, *"abcde")
        one.log.redis.delete(one.log.counter_key(one.counters.shard(T), Parent(T, 1)))

    with between(monkeypatch, "compared", lose):
        assert [f[:2] for f in said(load(one, [message(3)])[1])] == [(1, Conflict)]
    assert state_of_chat(one)[1] == 7


@pytest.mark.parametrize("step", ["compared", "raised"])
def test_a_chat_deleted_meanwhile_gets_no_messages(
    one: Backend, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Its tombstone is stored first; no later line is."""
    load(one, [chat(2)])
    with between(monkeypatch, step, lambda: one.catalog.chats.delete(T, 2)):
        faults = said(load(one, [message(chat=2)])[1])
    assert faults == [(1, Invalid, "chat 2 is removed, so nothing belongs to it")]
    assert state_of_chat(one)[0] == [(1, "text 1")]


@pytest.mark.parametrize("name", ["instachat drain {}", "somebody"])
def test_a_shard_that_is_held(one: Backend, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """If a stuck drain locks it, the drain is ended; otherwise the import reports the locked shard."""
    monkeypatch.setattr(direct_write, "LOCK_TIMEOUT_SECONDS", 0.1)
    shard = one.counters.shard(T)
    epochs = Epochs(one.log, one.database)
    drainer = Drainer(one.log, one.database, epochs, stuck_timeout_seconds=0.3)
    barrier = Barrier(one.log, one.database, epochs, drainer)
    writing = direct_write.DirectWriter(one.log, one.database, epochs, barrier, drainer)
    work = Importer(one.log, one.database, barrier, writing).begin()
    chunk = LineChunk(1, [as_bytes([message(2)])], 1)
    holder = one.database.engine.connect()
    try:
        locks.name_transaction(holder, name.format(shard))
        assert shards.lock_shard(holder, shard)
        if name == "somebody":
            with pytest.raises(Unavailable, match="locked for too long"):
                work.process(chunk)
        else:
            assert work.process(chunk) == []
    finally:
        holder.invalidate()
        holder.close()
    assert work.process(chunk) == []
    assert state_of_chat(one)[0] == [(1, "text 1"), (2, "text 2")]


class Crash(BaseException):
    """As if the process ended here."""


@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize("step", ["compared", "raised", "written"])
def test_an_interrupted_import_goes_on(
    backend: Backend,
    sample: tuple[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    nth: int,
) -> None:
    """It ends at a step, in its first or a later chunk; importing the same lines again completes it."""
    token, data = sample
    lines = data.splitlines(keepends=True)
    monkeypatch.setattr(line_format, "CHUNK_LINES", 40)

    def crash() -> None:
        raise Crash

    assert load(backend, b"".join(lines[: (nth - 1) * 40]))[1] == []
    with between(monkeypatch, step, crash), pytest.raises(Crash):
        load(backend, data)
    work, faults = load(backend, data)
    assert (faults, work.counts.stored + work.counts.skipped) == ([], len(lines))
    assert export(backend) == data
    assert send(backend, token, "x") == len(TEXTS) + 1
    backend.drainer.drain_all()
    assert query(backend, "SELECT count(*) FROM dead_letter") == [(0,)]


@contextmanager
def busy(*works: Callable[[], object]) -> Iterator[None]:
    """Repeat each of these in its own thread until the block ends; raises their errors."""
    done = threading.Event()

    def again(work: Callable[[], object]) -> None:
        while not done.is_set():
            work()

    with ThreadPoolExecutor(len(works)) as pool:
        threads = [pool.submit(again, work) for work in works]
        try:
            yield
        finally:
            done.set()
    for thread in threads:
        thread.result()


def test_imports_and_writers_share_a_chat(backend: Backend) -> None:
    """Three writers and an import in one chat: what was answered is stored, under its number.

    Where a writer was first the import stops with a conflict; where the import was first the writers'
    numbers go on behind it. Goes on until both were seen.
    """
    first, last = 61, 160
    shard = backend.counters.shard(T)
    load(backend, [application()])
    answered: dict[tuple[int, int], str] = {}
    first_was: set[str] = set()

    def write(number: int) -> None:
        for n in range(40):
            words = f"{threading.get_ident()} {n}"
            key = number, send(backend, T, words, chat=number)
            assert key not in answered, "a number was given twice"
            answered[key] = words

    with busy(lambda: backend.drainer.drain(shard)), ThreadPoolExecutor(3) as pool:
        for number in range(1, 401):
            load(backend, [chat(number)])
            writers = [pool.submit(write, number) for _ in range(3)]
            while number % 2 and (number, 50) not in answered and not writers[0].done():
                pass  # every other time the writers start first
            faults = load(backend, [message(n, chat=number) for n in range(first, last + 1)])[1]
            assert {type(fault.error) for fault in faults} <= {Conflict}
            for writer in writers:
                writer.result()
            if faults:
                first_was.add("writers")
            elif any(key[0] == number and key[1] > last for key in answered):
                first_was.add("import")
            if number >= 8 and len(first_was) == 2:
                break
    backend.drainer.drain_all()
    stored = {
        (chat_number, number): words
        for chat_number, number, words in query(
            backend,
            "SELECT c.number, m.number, m.text FROM message m JOIN chat c ON c.id = m.chat_id",
        )
    }
    assert query(backend, "SELECT count(*) FROM dead_letter") == [(0,)]
    assert answered.items() <= stored.items()
    imported = {f"text {n}" for n in range(first, last + 1)}
    assert {words for key, words in stored.items() if key not in answered} <= imported
    assert "import" in first_was, "an import was never first, with writers at work"


def test_an_export_under_load_is_of_one_moment(backend: Backend) -> None:
    """Numbers are consecutive, parents exist, counts agree, and all that was answered before is exported."""
    tokens = [backend.catalog.applications.create(f"{n}").token for n in range(3)]
    answered: list[tuple[str, int, int]] = []

    def write(token: str) -> None:
        number = backend.acceptor.accept(AcceptRequest.chats(token)).first
        for n in range(1, 4):
            answered.append((token, number, send(backend, token, f"{n}", chat=number)))
        backend.catalog.messages.delete(token, number, 1)

    with busy(backend.drainer.drain_all, *(partial(write, token) for token in tokens)):
        exports = 0
        while exports < 8 or len(answered) <= 100:
            exports += 1
            before = len(answered)
            lines = bodies(export(backend))
            check_dense(lines)
            there = {(x["token"], x["chat"], x["number"]) for x in lines if x["type"] == "message"}
            assert set(answered[:before]) <= there


def check_dense(lines: list[dict[str, Any]]) -> None:
    """Each line follows its parent's, with the next number; counts agree with the lines."""
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
            mine = messages[line["token"], line["chat"]]
            mine.append(line)
            assert line["number"] == len(mine)
    for line in lines:
        if line["type"] == "chat":
            mine = messages[line["token"], line["number"]]
            assert line["messages_count"] == sum("removed" not in message for message in mine)
        elif line["type"] == "application":
            assert line["chats_count"] == len(chats[line["token"]])


# -- the parts ----------------------------------------------------------------------------------------


def test_the_scripts_refuse_another_epoch(backend: Backend) -> None:
    """Counters are raised and closed only in the epoch in which SQL was read; otherwise nothing changes."""
    load(backend, [application(), chat(), message(5)])
    shard, parent = backend.counters.shard(T), Parent(T, 1)
    before = contents(backend)
    for epoch in (0, 2):
        with pytest.raises(StaleEpoch):
            backend.log.raise_all(shard, epoch, {parent: 9}, create=True)
        with pytest.raises(StaleEpoch):
            backend.log.set_closed(shard, epoch, {parent: True})
    assert contents(backend) == before


def test_raising_never_lowers_and_makes_nothing_up(backend: Backend) -> None:
    """As verifying a counter does, for many at once."""
    load(backend, [application(), chat(), message(5)])
    log, shard = backend.log, backend.counters.shard(T)
    wanted = {Parent(T, 1): 3, Parent(T, 2): 4}
    assert log.raise_all(shard, 1, wanted, create=False)[0] is False
    assert log.read_issued(shard, list(wanted))[0] == [5, None]
    assert log.raise_all(shard, 1, wanted, create=True)[0] is True
    assert log.read_issued(shard, list(wanted))[0] == [5, 4]
    log.redis.set(log.key(shard, "dirty"), "foreign")
    with pytest.raises(Failed, match="foreign"):
        log.raise_all(shard, 1, {Parent(T, 1): 9}, create=False)
    assert log.read_issued(shard, list(wanted))[0] == [5, 4]


TIMES = st.integers(0, 253_370_764_799_999_999).map(
    lambda micros: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
)
WORDS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=255
)
TOKENS = st.from_regex(r"[A-Za-z0-9_-]{22,64}", fullmatch=True)
NUMBERS = st.integers(1, 2**53 - 1)


@given(TOKENS, NUMBERS, NUMBERS, WORDS | st.none(), TIMES, TIMES)
def test_a_line_is_read_as_it_was_written(
    token: str,
    chat_number: int,
    number: int,
    words: str | None,
    created: datetime,
    updated: datetime,
) -> None:
    """For any content: reading is the inverse of writing."""
    times = rfc3339(created), rfc3339(updated)
    written = message_line(token, chat_number, number, words, *times)
    expected: line_format.TransferLine = MessageLine(
        Parent(token, chat_number), number, words, created, updated
    )
    assert line_format.parse(written.encode()) == expected
    assert written.splitlines() == [written.removesuffix("\n")]
    written = chat_line(token, number, None if words is None else 7, *times)
    assert line_format.parse(written.encode()) == ChatLine(
        Parent(token), number, words is None, created, updated
    )
    written = application_line(token, words, 7, *times)
    assert line_format.parse(written.encode()) == ApplicationLine(token, words, created, updated)


@given(st.lists(st.tuples(st.integers(1, 12) | NUMBERS, st.integers(-(2**63), 2**63 - 1))))
def test_digests_are_kept_like_in_a_dictionary(pairs: list[tuple[int, int]]) -> None:
    """In any order: the first digest of a number stays."""
    numbers, dictionary = diff.NumberDigests(), dict[int, int]()
    for number, digest in pairs:
        assert numbers.get_or_set(number, digest) == dictionary.get(number)
        dictionary.setdefault(number, digest)
        assert all(
            numbers.get(n) == dictionary.get(n) for n in (number - 1, number, number + 1) if n
        )
