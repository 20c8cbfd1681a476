"""What the demo measures on the otherwise idle system."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from backend.domain.errors import CheckFailed
from backend.ingest.requests import AcceptRequest

if TYPE_CHECKING:
    from backend.bootstrap import Backend

PROBES = 40
PROBE_TIMEOUT_SECONDS = 10


def times_to_stored(backend: "Backend", token: str) -> list[float]:
    """Milliseconds from a request to the row, for PROBES messages sent one at a time. A worker must run."""
    chat = backend.acceptor.accept(AcceptRequest.chats(token)).first
    times = []
    for n in range(PROBES):
        start = time.monotonic()
        accepted = backend.acceptor.accept(AcceptRequest.messages(token, chat, [f"probe {n}"]))
        if not backend.catalog.waiting.wait_stored(token, accepted, PROBE_TIMEOUT_SECONDS):
            raise CheckFailed(
                f"a message was not stored within {PROBE_TIMEOUT_SECONDS} s",
                "see `instachat status`",
            )
        times.append((time.monotonic() - start) * 1000)
    return times


def storing_rate(backend: "Backend", token: str, lines: Sequence[str]) -> float:
    """Messages per second that one drain in this process stores from a full log. No worker may run."""
    chat = backend.acceptor.accept(AcceptRequest.chats(token)).first
    for start in range(0, len(lines), 1000):
        batch = lines[start : start + 1000]
        backend.acceptor.accept(AcceptRequest.messages(token, chat, batch))
    begin = time.monotonic()
    backend.drainer.drain_all()
    return len(lines) / (time.monotonic() - begin)
