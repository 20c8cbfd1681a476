"""The records of a run on disk: each request in 17 bytes, each outcome, the ledger, in 25.

Some scenarios also record what the server has shown: pages, texts, and events that followers have received.

Each process of the generator collects its records. They are written to the run's folder once a second.
Workers send theirs to the master, so a worker may run on another machine.
"""

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from loadtest.adapter.operations import Operation

REQUESTS, LEDGER, PAGES, SHOWN, DELIVERIES = "requests", "ledger", "pages", "shown", "deliveries"

ROUTES = (
    "POST /applications/{token}/chats",
    "POST /applications/{token}/chats/{chat}/messages",
    "POST /applications/{token}/chats/{chat}/messages/batch",
    "GET /applications/{token}/chats/{chat}/messages",
    "GET /applications/{token}/chats/{chat}/messages?order=desc",
    "GET /applications/{token}/chats/{chat}/messages?keyword",
    "GET /applications/{token}/chats/{chat}/messages/stream",
    "GET /applications/{token}/chats/{chat}/messages/{number}",
    "PATCH /applications/{token}/chats/{chat}/messages/{number}",
    "DELETE /applications/{token}/chats/{chat}/messages/{number}",
)
"""What the requests of a run are called: by the routes of this project, also on another server."""
NEW_CHAT, SEND, BATCH, LIST, LIST_NEWEST, SEARCH, FOLLOW, READ, EDIT, DELETE = range(len(ROUTES))

ROUTE_OF = {
    Operation.CREATE_CHAT: NEW_CHAT,
    Operation.SEND: SEND,
    Operation.SEND_BATCH: BATCH,
    Operation.LIST: LIST,
    Operation.LIST_NEWEST: LIST_NEWEST,
    Operation.LIST_BEFORE: LIST_NEWEST,
    Operation.SEARCH: SEARCH,
    Operation.FOLLOW: FOLLOW,
    Operation.READ: READ,
    Operation.EDIT: EDIT,
    Operation.DELETE: DELETE,
}
"""The operations of a load, each with the index of its route."""

_request = struct.Struct("<dIHhB")
_entry = struct.Struct("<BIIQ8s")
_page = struct.Struct("<IIQQHQQH??")
_shown = struct.Struct("<IIHQ8s")
_delivery = struct.Struct("<dI")
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


class RecordedPage(NamedTuple):
    """A page of a chat's messages, the newest first; no number between those on it was deleted."""

    application: int
    chat: int
    known: int  # the highest number that was known to be stored when the page was requested
    before: int  # the page has numbers below this one; 0: the newest page
    limit: int
    newest: int  # the greatest number on the page, and the smallest one; 0 without messages
    oldest: int
    length: int  # how many messages it has
    descending: bool  # each number is smaller than the one before it
    not_modified: bool  # the answer was 304: the client shows the page that it has read before

    @classmethod
    def of(
        cls,
        application: int,
        chat: int,
        numbers: Sequence[int],
        *,
        limit: int,
        known: int,
        before: int = 0,
    ) -> "RecordedPage":
        """The page that has these numbers, in this order."""
        return cls(
            application=application,
            chat=chat,
            known=known,
            before=before,
            limit=limit,
            newest=max(numbers, default=0),
            oldest=min(numbers, default=0),
            length=len(numbers),
            descending=all(a > b for a, b in pairwise(numbers)),
            not_modified=False,
        )


READER = 0xFFFF  # in place of a follower: the text was shown on a page


class Shown(NamedTuple):
    """A text that the server has shown under a number.

    `follower` is the place of a follower among those of its chat, or READER. The records of one follower are
    in the order in which the events came. The first has the number 0 and says that it began.
    """

    application: int
    chat: int
    follower: int
    number: int
    digest: bytes


class Delivery(NamedTuple):
    """A message that a follower has received: when it was answered, and how long it took from then."""

    at_s: float
    micros: int  # 0: it was delivered before it was answered


class Recorder:
    """Collects the records of one process in memory until `take`."""

    def __init__(self) -> None:
        self._buffers = {kind: bytearray() for kind in (REQUESTS, LEDGER, PAGES, SHOWN, DELIVERIES)}

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

    def record_page(self, page: RecordedPage) -> None:
        """Record a page that was read."""
        self._buffers[PAGES] += _page.pack(*page)

    def record_shown(
        self, application: int, chat: int, follower: int, number: int, digest: bytes = _NO_TEXT
    ) -> None:
        """Record what the server has shown under a number."""
        self._buffers[SHOWN] += _shown.pack(application, chat, follower, number, digest)

    def record_delivery(self, at_s: float, micros: int) -> None:
        """Record how long a message took from its answer until a follower received it."""
        self._buffers[DELIVERIES] += _delivery.pack(at_s, min(micros, 0xFFFFFFFF))

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


def ledger_entries(folder: Path) -> Iterator[tuple[str, LedgerEntry]]:
    """The ledger of a folder, each entry with the process that recorded it.

    The entries of one message are in the order in which they happened.
    """
    for source, (outcome, *place) in _records(folder, LEDGER, _entry):
        yield source, LedgerEntry(RecordedOutcome(outcome), *place)


def recorded_pages(folder: Path) -> Iterator[RecordedPage]:
    """The pages that were read."""
    for _, page in _records(folder, PAGES, _page):
        yield RecordedPage(*page)


def shown_texts(folder: Path) -> Iterator[tuple[str, Shown]]:
    """What the server has shown, each record with the process that recorded it."""
    for source, shown in _records(folder, SHOWN, _shown):
        yield source, Shown(*shown)


def recorded_deliveries(folder: Path) -> Iterator[Delivery]:
    """How long messages took until followers received them."""
    for _, delivery in _records(folder, DELIVERIES, _delivery):
        yield Delivery(*delivery)


def _records(
    folder: Path, kind: str, packed: struct.Struct
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The whole records of a kind, in the order of each process."""
    for path in sorted(folder.glob(f"{kind}-*.bin")):
        source = path.stem.removeprefix(f"{kind}-")
        with path.open("rb") as file:
            while records := file.read(packed.size * _CHUNK):
                whole = len(records) - len(records) % packed.size
                for record in packed.iter_unpack(records[:whole]):
                    yield source, record
