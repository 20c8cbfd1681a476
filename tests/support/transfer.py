"""What tests of export and import share: lines as objects, imports and exports in one call, interventions."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from sqlalchemy import text

from backend.bootstrap import Backend, open_backend
from backend.domain.events import pack_messages
from backend.domain.model import EntryId, Parent
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from backend.storage.postgres import imports
from backend.storage.redis.log import Log
from backend.storage.redis.types import Creation
from backend.transfer import format as line_format
from backend.transfer import importer
from backend.transfer.diff import LineFault
from backend.transfer.importer import Import
from tests.conftest import Engines
from tests.support.engines import RedisServer, valkey_binary
from tests.support.faults.shortcuts import send
from tests.support.message_fields import without_nulls

TOKEN = "t" * 24
TIMESTAMP = "2026-01-31T23:59:59.000000Z"
LATER = "2026-01-31T23:59:59.000001Z"
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
"""The texts of chat 1 in an installation that `fill_installation` has filled."""


# -- lines --------------------------------------------------------------------------------------------


def application_body(**fields: Any) -> dict[str, Any]:
    """The line of an application as an object; a field that is None is left out."""
    line = {
        "type": "application",
        "token": TOKEN,
        "name": "n",
        "created_at": TIMESTAMP,
        "updated_at": TIMESTAMP,
    }
    return without_nulls(line | fields)


def chat_body(number: int | None = 1, **fields: Any) -> dict[str, Any]:
    """The line of a chat as an object; a field that is None is left out."""
    line = {
        "type": "chat",
        "token": TOKEN,
        "number": number,
        "created_at": TIMESTAMP,
        "updated_at": TIMESTAMP,
    }
    return without_nulls(line | fields)


def message_body(number: int = 1, **fields: Any) -> dict[str, Any]:
    """The line of a message of chat 1 as an object; a field that is None is left out."""
    line = {
        "type": "message",
        "token": TOKEN,
        "chat": 1,
        "number": number,
        "text": f"text {number}",
        "created_at": TIMESTAMP,
        "updated_at": TIMESTAMP,
    }
    return without_nulls(line | fields)


REMOVED: dict[str, Any] = {"removed": True, "name": None, "text": None}
"""The fields that make a line a tombstone's."""

STORED_LINES = [
    *(application_body(), application_body(token="v" * 24, **REMOVED)),
    *(chat_body(), chat_body(2, **REMOVED), message_body(), message_body(2, **REMOVED)),
]
"""An object of each kind and a tombstone of each kind: what `stored_lines_backend` holds."""


def to_bytes(data: bytes | Sequence[dict[str, Any]]) -> bytes:
    """The lines of a file; bytes are returned as they are."""
    return (
        data if isinstance(data, bytes) else b"".join(json.dumps(d).encode() + b"\n" for d in data)
    )


def decode_lines(data: bytes) -> list[dict[str, Any]]:
    """The lines of an export as objects."""
    return [json.loads(line) for line in data.decode().split("\n")[:-1]]


# -- imports and exports ------------------------------------------------------------------------------


def export(backend: Backend, token: str | None = None) -> bytes:
    """All lines of an export."""
    with backend.exporter.snapshot(token) as snapshot:
        return "".join(snapshot.lines()).encode()


def import_lines(
    backend: Backend, data: bytes | Sequence[dict[str, Any]]
) -> tuple[Import, list[LineFault]]:
    """Import lines up to the first fault; returns the import with its counts, and that fault."""
    work = backend.importer.begin()
    for chunk in line_format.read_chunks(io.BytesIO(to_bytes(data)).read):
        if faults := work.process(chunk):
            return work, faults
    return work, []


def dry_run(backend: Backend, data: bytes | Sequence[dict[str, Any]]) -> list[LineFault]:
    """The faults that a dry run finds."""
    work = backend.importer.dry_run()
    chunks = line_format.read_chunks(io.BytesIO(to_bytes(data)).read)
    return [fault for chunk in chunks for fault in work.process(chunk)]


def describe_faults(faults: list[LineFault]) -> list[tuple[int, type, str]]:
    """The line, the type and the message of each fault: values that compare equal."""
    return [(fault.line, type(fault.error), fault.error.message) for fault in faults]


def locate_faults(faults: list[LineFault]) -> list[tuple[int, type]]:
    """The line and the type of each fault."""
    return [(fault.line, type(fault.error)) for fault in faults]


# -- installations ------------------------------------------------------------------------------------


@contextmanager
def isolated_installation(engines: Engines) -> Iterator[Backend]:
    """A backend on a new database and a Redis that no other test empties."""
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
def new_installation(engines: Engines) -> Iterator[Backend]:
    """A backend on a new database and the shared Redis, which is emptied."""
    with open_backend(engines.settings()) as backend:
        yield backend


def fill_installation(backend: Backend) -> str:
    """Fill an installation with a case of each kind; returns the token of the main application.

    Chat 1 has `TEXTS`, chat 11 has 300 messages, chats 3 and 5 have few, the others have none. Some messages,
    chats 4 and 12, and a second application are deleted; a third one is empty.
    """
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
    send(backend, token, "in a chat that is deleted", chat=12)
    catalog.messages.delete(token, 12, 1)
    acceptor.accept(AcceptRequest.chats(tokens[2]))
    catalog.chats.delete(tokens[2], 1)
    for number in (4, 12):
        catalog.chats.delete(token, number)
    catalog.messages.edit(token, 1, 2, {"text": "edited"})
    for chat_number, number in [(1, 3), (1, len(TEXTS)), (11, 1), (11, 300), (3, 1)]:
        catalog.messages.delete(token, chat_number, number)
    catalog.applications.delete(tokens[2])
    poison = pack_messages(token, 5, ["fine", "bad \0 text"])
    creation = Creation("messages", Parent(token, 5), poison)
    backend.log.accept(backend.counters.shard(token), [creation], EntryId(0, 0))
    backend.drainer.drain_all()
    return token


def query(backend: Backend, statement: str) -> list[tuple[Any, ...]]:
    """Rows, read from PostgreSQL directly."""
    with backend.database.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def count_dead_letters(backend: Backend) -> int:
    """How many dead letters the installation has."""
    ((count,),) = query(backend, "SELECT count(*) FROM dead_letter")
    return int(count)


def read_everything(backend: Backend) -> tuple[object, object]:
    """The whole content of PostgreSQL and of Redis."""
    tables = ["installation", "shard", "application", "chat", "message", "outbox", "dead_letter"]
    rows = {table: query(backend, f"SELECT t::text FROM {table} t ORDER BY 1") for table in tables}
    client = backend.log.redis
    assert isinstance(client, redis.Redis)
    return rows, {key: client.dump(key) for key in client.scan_iter()}


def read_chat(backend: Backend) -> tuple[list[tuple[Any, ...]], int]:
    """The numbers and texts of all messages, and the next number of chat 1, which is used up.

    Fails if there are dead letters.
    """
    next_number = send(backend, TOKEN, "next")
    backend.drainer.drain_all()
    assert count_dead_letters(backend) == 0
    return query(backend, "SELECT number, text FROM message ORDER BY number")[:-1], next_number


# -- interventions ------------------------------------------------------------------------------------


@contextmanager
def after_step(
    monkeypatch: pytest.MonkeyPatch, step: str, act: Callable[[], object]
) -> Iterator[None]:
    """Call `act` once, after a step of an import: `compared`, `raised` or `written`.

    `raised` is the moment at which the counters in Redis have been raised. Fails if the block ends before
    the import has reached the step.
    """
    owner, name = {
        "compared": (importer, "compare"),
        "raised": (Log, "raise_all"),
        "written": (imports, "copy_imported_messages"),
    }[step]
    original = getattr(owner, name)
    left = [act]

    def with_act(*arguments: object, **named: object) -> object:
        result = original(*arguments, **named)
        if left:
            left.pop()()
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, with_act)
        yield
    assert not left, "the import did not reach the step"
