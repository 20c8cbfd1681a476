"""Known heads: requests that are not parsed are processed like those that are."""

import asyncio
import gc
import json
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
from hypothesis import example, given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from backend.api.server import known_heads
from backend.api.server.fast_path import FastConnection, FastPath
from backend.api.server.fast_request import FastRequest
from backend.api.server.group_commit import AcceptCallback
from backend.api.server.group_read import Read
from backend.api.server.known_heads import KnownHeads
from backend.domain.errors import Busy, NotFound
from backend.domain.model import Accepted, EntryId
from backend.ingest.requests import AcceptRequest

CHAT = "/api/v1/applications/" + "A" * 32 + "/chats/7/messages"
SHUTDOWN = b"the server stops"
EARLY = "/answered/before/its/body/has/arrived"
BUSY = "answered at once"
TEXTS = ["one", "of another length", 'ends a head: "\r\n\r\n']


class _NoKnownHeads(KnownHeads):
    """The parser gets every request."""

    def find(self, data: bytes) -> FastRequest | None:  # noqa: ARG002
        return None


class _CountingHeads(KnownHeads):
    """Counts the requests that were not parsed."""

    def __init__(self) -> None:
        super().__init__()
        self.found = 0

    def find(self, data: bytes) -> FastRequest | None:
        request = super().find(data)
        self.found += request is not None
        return request


class _Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, _: str) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class _Recorder:
    """The core and the ordinary route: both note the path and the body of each request in one list."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, object]] = []

    def original_path(self, url: bytes) -> bytes:
        return url

    def when_tokens_change(self, call: Callable[[], object]) -> None: ...

    def submit(self, request: AcceptRequest, callback: AcceptCallback) -> None:
        (text,) = request.new_messages
        self.requests.append((CHAT, text))
        if text == BUSY:
            raise Busy("too many requests wait at this moment", "try again")
        accepted = Accepted(1, 1, 0, EntryId(1, 1))
        asyncio.get_running_loop().call_soon(callback, accepted)

    def submit_read(self, read: Read) -> None:
        """A read of an even number falls back, so the ordinary route notes it."""
        _, *numbers = read.values
        number = numbers[1]
        assert isinstance(number, int)
        if number % 2:
            self.requests.append((f"{CHAT}/{number}", ""))
            asyncio.get_running_loop().call_soon(read.fail, NotFound("no such message"))
        else:
            asyncio.get_running_loop().call_soon(read.fall_back)

    def submit_search(self, read: Read) -> None:
        """A search falls back."""
        read.fall_back()

    async def route(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", scope["path"] != EARLY
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        try:
            noted = json.loads(body)["message"]["text"]
        except (ValueError, LookupError, TypeError):
            noted = body.decode("latin-1")
        self.requests.append((scope["path"], noted))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


Outcome = tuple[list[tuple[str, object]], int, bool]
"""The requests, how many responses there were, and whether the connection was closed."""


async def _process(heads: KnownHeads, parts: Sequence[tuple[bytes, int]]) -> Outcome:
    """Feed a new connection with parts, each followed by so many iterations of the event loop."""
    recorder = _Recorder()
    config = uvicorn.Config(
        recorder.route,
        http="httptools",
        ws="none",
        lifespan="off",
        interface="asgi3",
        proxy_headers=False,
        log_config=None,
    )
    config.load()
    fast_path = FastPath(lambda: recorder, [])
    fast_path.known_heads = heads
    connection = FastConnection(fast_path, config=config, server_state=ServerState(), app_state={})
    transport = _Transport()
    connection.connection_made(transport)  # type: ignore[arg-type]  # what the connection uses of one
    for part, iterations in parts:
        if part is SHUTDOWN:
            connection.shutdown()
        elif not transport.closing:
            connection.data_received(part)
        for _ in range(iterations):
            await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
    return recorder.requests, transport.written.count(b"HTTP/1.1 "), transport.closing


def _post(
    body: bytes,
    *headers: bytes,
    path: str = CHAT,
    length: int | None = None,
    line: bytes = b"\r\n",
) -> bytes:
    size = len(body) if length is None else length
    lines = (
        f"POST {path} HTTP/1.1".encode(),
        b"Host: a",
        *headers,
        b"Content-Type: application/json",
        b"Content-Length: %d" % size,
        b"",
        body,
    )
    return line.join(lines)


def _get(number: int, *headers: bytes) -> bytes:
    return b"\r\n".join((f"GET {CHAT}/{number} HTTP/1.1".encode(), b"Host: a", *headers, b"", b""))


def _body(text: str) -> bytes:
    return json.dumps({"message": {"text": text}}).encode()


ONE, LONGER, AT_ONCE = (_body(text) for text in ("one", "longer than one", BUSY))
POST = _post(ONE)


BODIES = st.one_of(
    st.sampled_from([_body(text) for text in TEXTS]),
    st.sampled_from([b"", b"{", b'\r\n\r\n{"message": {"text": "later"}}', b'\r\n{"message": 1}']),
)
EXTRA_HEADERS = st.sampled_from(
    [
        b"X-Content-Length: 5",
        b"content-length: 27",
        b"Content-Length: 0",
        b"Content-Length : 27",
        b"Transfer-Encoding: chunked",
        b"Connection: close",
        b"Idempotency-Key: one",
        b"Folded: a\r\n Content-Length: 27",
        b"A: b\nContent-Length: 27",
        b"Expect: 100-continue",
    ]
)
REQUESTS = st.one_of(
    st.builds(_post, BODIES),
    st.builds(_post, BODIES, EXTRA_HEADERS),
    st.builds(_post, BODIES, length=st.integers(0, 60)),
    st.builds(_post, BODIES, line=st.just(b"\n")),
    st.builds(_get, st.integers(1, 4)),
    st.builds(_get, st.integers(1, 4), EXTRA_HEADERS),
    st.sampled_from([b"\r\n", b"\r\n\r\n", b"not HTTP\r\n\r\n"]),
)


@st.composite
def _streams(draw: st.DrawFn) -> list[tuple[bytes, int]]:
    """Requests in parts: most arrive whole, some split or together with the next."""
    parts: list[tuple[bytes, int]] = []
    known = draw(st.lists(REQUESTS, min_size=1, max_size=3))
    for one in draw(st.lists(st.sampled_from(known) | REQUESTS, min_size=2, max_size=12)):
        iterations = draw(st.sampled_from([30, 30, 30, 1, 0]))
        if draw(st.integers(0, 5)) == 0:
            cut = draw(st.integers(0, len(one)))
            parts += [(one[:cut], draw(st.integers(0, 2))), (one[cut:], iterations)]
        elif parts and draw(st.integers(0, 5)) == 0:
            parts[-1] = (parts[-1][0] + one, iterations)
        else:
            parts.append((one, iterations))
    return [(part, iterations) for part, iterations in parts if part]


@settings(max_examples=200, deadline=None)
@given(parts=_streams())
@example(
    # Only the header of this whole name is the length, and it does not change here.
    parts=[
        (_post(ONE, b"X-Content-Length: %d" % len(ONE)), 30),
        (_post(LONGER, b"X-Content-Length: %d" % len(LONGER), length=len(ONE)), 30),
    ]
)
@example(
    # A request of which the next one's first bytes arrive with it.
    parts=[(_get(1), 30), (_get(1) + POST[:9], 30), (POST[9:], 30)]
)
@example(
    # Lines that do not end with CR LF, so that the first blank line is that of the body.
    parts=[(_post(ONE + b"\r\n\r\n", line=b"\n"), 30)] * 2
)
@example(
    # A body that looks like a request.
    parts=[(POST, 30), (_post(b"", path=EARLY, length=len(POST)), 30), (POST, 30), (POST, 30)]
)
@example(
    # A read that falls back, and another request before it does.
    parts=[(_get(2), 30), (_get(2), 0), (POST, 30), (_get(2), 0), (_get(1), 30)]
)
@example(
    # A read that falls back while the server stops: its answer is the connection's last one.
    parts=[(_get(2), 30), (_get(2), 0), (SHUTDOWN, 30)]
)
@example(
    # Two requests at once, of which the first is answered before the second is parsed.
    parts=[(_post(AT_ONCE) + _get(1), 30), (POST, 30)]
)
def test_known_heads_change_nothing(parts: list[tuple[bytes, int]]) -> None:
    """The same requests are processed in the same order, with as many responses."""

    async def both() -> tuple[Outcome, Outcome]:
        return await _process(KnownHeads(), parts), await _process(_NoKnownHeads(), parts)

    with_known, parsed = asyncio.run(both())
    assert with_known == parsed


def test_a_head_is_parsed_once() -> None:
    """Also if the lengths of the bodies differ, and for reads that the ordinary route answers."""
    heads = _CountingHeads()
    parts = [(_post(_body(text)), 30) for text in TEXTS] + [(_get(2), 30)] * 3
    requests, responses, closed = asyncio.run(_process(heads, parts))
    assert requests == [*((CHAT, text) for text in TEXTS), *[(f"{CHAT}/2", "")] * 3]
    assert (responses, closed, heads.found) == (6, False, 4)


def test_heads_that_differ_each_time_are_not_kept() -> None:
    """Neither are those of a connection that ends, nor too long ones."""
    heads = _CountingHeads()
    for header in (
        b"Idempotency-Key: a",
        b"X-Request-Id: a",
        b"Connection: close",
        b"A: " + b"a" * known_heads.MAX_HEAD_BYTES,
    ):
        for _ in range(2):
            asyncio.run(_process(heads, [(_post(ONE, header), 30)]))
    assert heads.found == 0


def test_a_known_head_takes_little_memory() -> None:
    """However many headers it has: they are not kept."""
    heads = KnownHeads()
    many = [b"%x:" % number for number in range(180)]
    size = 500
    parts = [(_get(2 * number + 1, *many), 0) for number in range(size)]
    assert len(parts[-1][0]) < known_heads.MAX_HEAD_BYTES
    asyncio.run(_process(_NoKnownHeads(), parts))  # what is loaded with the first request
    tracemalloc.start()
    try:
        for part in parts:
            asyncio.run(_process(heads, [part]))
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert heads.find(parts[0][0])
    assert taken < size * 2 * known_heads.MAX_HEAD_BYTES


def test_few_heads_are_kept(monkeypatch: Any) -> None:
    """Beyond the limit, the known ones are forgotten, and learnt again."""
    monkeypatch.setattr(known_heads, "MAX_HEADS", 3)
    heads = _CountingHeads()
    parts = [(_get(number), 30) for number in (1, 3, 5, 7, 1, 1)]
    asyncio.run(_process(heads, parts))
    assert heads.found == 1
