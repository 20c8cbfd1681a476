"""The records of a run on disk: each request in 17 bytes, and each outcome, the ledger, in 25.

Each process of the generator collects both. They are written to the run's folder once a second. Workers send
theirs to the master, so a worker may run on another machine.
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
_CHUNK = 1 << 16  # records read at once


class RecordedRequest(NamedTuple):
    """One request: when it was due to start, and the time from then until its answer was complete."""

    at_s: float
    micros: int
    route: int
    status: int  # 0: no answer
    failed: bool


class RecordedOutcome(IntEnum):
    """What an answer says about a number. UNKNOWN: the answer was lost or a 5xx, so it may be done or not."""

    CREATED = 1
    CREATION_UNKNOWN = 2  # no number
    EDITED = 3
    EDIT_UNKNOWN = 4
    DELETED = 5
    DELETION_UNKNOWN = 6
    CHAT_CREATED = 7
    CHAT_CREATION_UNKNOWN = 8  # no number


class LedgerEntry(NamedTuple):
    """One entry of the ledger; `application` is the index of its token in the fixtures."""

    outcome: RecordedOutcome
    application: int
    chat: int
    number: int
    digest: bytes


class Recorder:
    """Collects the records of one process in memory until `take`."""

    def __init__(self) -> None:
        self._buffers = {REQUESTS: bytearray(), LEDGER: bytearray()}

    def record_request(
        self, at_s: float, micros: int, route: int, status: int, failed: bool
    ) -> None:
        """Record a request."""
        micros = min(micros, 0xFFFFFFFF)
        self._buffers[REQUESTS] += _request.pack(at_s, micros, route, status, failed)

    def record_outcome(
        self,
        outcome: RecordedOutcome,
        application: int,
        chat: int,
        number: int = 0,
        digest: bytes = _NO_TEXT,
    ) -> None:
        """Record what an answer, or a lost answer, says about a number."""
        self._buffers[LEDGER] += _entry.pack(outcome, application, chat, number, digest)

    def take(self) -> dict[str, bytes]:
        """The records collected since the last call, by kind."""
        taken = {kind: bytes(data) for kind, data in self._buffers.items() if data}
        for data in self._buffers.values():
            data.clear()
        return taken


def append_records(folder: Path, source: str, records: dict[str, bytes]) -> None:
    """Append the records of one process, `source`, to its files in the folder."""
    for kind, data in records.items():
        with (folder / f"{kind}-{source}.bin").open("ab") as file:
            file.write(data)


class RequestReader:
    """Reads each request of a folder once, even while other processes still write them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}

    def read_new(self) -> Iterator[RecordedRequest]:
        """The requests written since the last call."""
        for path in sorted(self._folder.glob(f"{REQUESTS}-*.bin")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                while records := file.read(_request.size * _CHUNK):
                    whole = len(records) - len(records) % _request.size
                    self._read[path] = self._read.get(path, 0) + whole
                    for at_s, micros, route, status, failed in _request.iter_unpack(
                        records[:whole]
                    ):
                        yield RecordedRequest(at_s, micros, route, status, bool(failed))
                    if whole < len(records):
                        break


def ledger_entries(folder: Path) -> Iterator[LedgerEntry]:
    """The ledger of a folder; the entries of one message are in the order in which they happened."""
    for path in sorted(folder.glob(f"{LEDGER}-*.bin")):
        with path.open("rb") as file:
            while records := file.read(_entry.size * _CHUNK):
                whole = len(records) - len(records) % _entry.size
                for outcome, application, chat, number, digest in _entry.iter_unpack(
                    records[:whole]
                ):
                    yield LedgerEntry(RecordedOutcome(outcome), application, chat, number, digest)
