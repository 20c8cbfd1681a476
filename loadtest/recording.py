"""What a run leaves on disk: each request in 17 bytes, and what was answered, the ledger, in 25.

Each process of the generator collects both; they reach the files of the run's folder once a second, from
workers by way of the master, so that it does not matter on which machine a worker runs.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

REQUESTS, LEDGER = "requests", "ledger"

ROUTES = (
    "POST /applications/{token}/chats",
    "POST /applications/{token}/chats/{chat}/messages",
    "POST /applications/{token}/chats/{chat}/messages/batch",
    "GET /applications/{token}/chats/{chat}/messages",
    "GET /applications/{token}/chats/{chat}/messages?keyword",
    "GET /applications/{token}/chats/{chat}/messages/{number}",
    "PATCH /applications/{token}/chats/{chat}/messages/{number}",
    "DELETE /applications/{token}/chats/{chat}/messages/{number}",
)
NEW_CHAT, SEND, BATCH, LIST, SEARCH, READ, EDIT, DELETE = range(len(ROUTES))

_request = struct.Struct("<dIHhB")
_entry = struct.Struct("<BIIQ8s")
_NO_TEXT = bytes(8)
_CHUNK = 1 << 16  # records that are read at once


class Request(NamedTuple):
    """One request: when it was intended to start, and how long after that its answer was there."""

    at_s: float
    micros: int
    route: int
    status: int  # 0: no answer came
    failed: bool


class Outcome(IntEnum):
    """What happened to a number, as far as answers tell. Unknown: the answer was lost, or a 5xx."""

    CREATED = 1
    CREATION_UNKNOWN = 2  # no number
    EDITED = 3
    EDIT_UNKNOWN = 4
    DELETED = 5
    DELETION_UNKNOWN = 6
    CHAT_CREATED = 7
    CHAT_CREATION_UNKNOWN = 8  # no number


class LedgerEntry(NamedTuple):
    """A line of the ledger; `application` is its place among the run's tokens."""

    outcome: Outcome
    application: int
    chat: int
    number: int
    digest: bytes


class Recorder:
    """Collects what one process has to say, until it is taken."""

    def __init__(self) -> None:
        self._buffers = {REQUESTS: bytearray(), LEDGER: bytearray()}

    def record_request(
        self, at_s: float, micros: int, route: int, status: int, failed: bool
    ) -> None:
        """A request was made."""
        micros = min(micros, 0xFFFFFFFF)
        self._buffers[REQUESTS] += _request.pack(at_s, micros, route, status, failed)

    def record_outcome(
        self,
        outcome: Outcome,
        application: int,
        chat: int,
        number: int = 0,
        digest: bytes = _NO_TEXT,
    ) -> None:
        """An answer was given, or lost."""
        self._buffers[LEDGER] += _entry.pack(outcome, application, chat, number, digest)

    def take(self) -> dict[str, bytes]:
        """All that was collected since the last time, by kind."""
        taken = {kind: bytes(data) for kind, data in self._buffers.items() if data}
        for data in self._buffers.values():
            data.clear()
        return taken


def append_records(folder: Path, source: str, records: dict[str, bytes]) -> None:
    """Append what was taken to a process's files."""
    for kind, data in records.items():
        with (folder / f"{kind}-{source}.bin").open("ab") as file:
            file.write(data)


class RequestReader:
    """Reads the requests of a folder, each once, also while they are being written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}

    def read_new(self) -> Iterator[Request]:
        """Those that were written since the last time."""
        for path in sorted(self._folder.glob(f"{REQUESTS}-*.bin")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                while records := file.read(_request.size * _CHUNK):
                    whole = len(records) - len(records) % _request.size
                    self._read[path] = self._read.get(path, 0) + whole
                    for at_s, micros, route, status, failed in _request.iter_unpack(
                        records[:whole]
                    ):
                        yield Request(at_s, micros, route, status, bool(failed))
                    if whole < len(records):
                        break


def ledger_entries(folder: Path) -> Iterator[LedgerEntry]:
    """The ledger of a folder; what concerns one message comes in the order in which it happened."""
    for path in sorted(folder.glob(f"{LEDGER}-*.bin")):
        with path.open("rb") as file:
            while records := file.read(_entry.size * _CHUNK):
                whole = len(records) - len(records) % _entry.size
                for outcome, application, chat, number, digest in _entry.iter_unpack(
                    records[:whole]
                ):
                    yield LedgerEntry(Outcome(outcome), application, chat, number, digest)
