"""What a client asked and was answered: the lines of a recorded history, one an exchange.

Times are seconds on the clock of the one process that records. An exchange without an answer (`status` is
None) may have had any effect at any time after it was sent, or none.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec


class StreamedEvent(msgspec.Struct, array_like=True, frozen=True):
    """An event of a stream, and when it had arrived."""

    at: float
    name: str
    id: int | None
    data: Any


class Exchange(msgspec.Struct, omit_defaults=True):
    """A request and its answer. Of a stream, `answered` is the time at which the client left or was left."""

    client: int
    server: int
    method: str
    path: str
    sent: float
    query: dict[str, str] = {}
    body: Any = None
    if_match: str | None = None
    key: str | None = None
    answered: float | None = None
    status: int | None = None
    etag: str | None = None
    answer: Any = None
    events: list[StreamedEvent] = []


def write_history(path: Path, history: Iterable[Exchange]) -> None:
    """Write a history as JSON lines."""
    with path.open("wb") as file:
        file.writelines(msgspec.json.encode(exchange) + b"\n" for exchange in history)


def read_history(path: Path) -> Iterator[Exchange]:
    """The exchanges of a file."""
    decoder = msgspec.json.Decoder(Exchange)
    with path.open("rb") as file:
        yield from map(decoder.decode, file)
