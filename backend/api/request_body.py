"""Reads JSON bodies: checks the type, and limits their size, their memory, and the time to send them.

`batch_body` has the bodies that may be larger than one message.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.routing import APIRoute

from backend.api import problems
from backend.api.client_address import client_address, client_owner
from backend.api.problems import ProblemException

# A text of 10,000 code points, each written as two JSON escapes, takes half of this.
MAX_BODY_BYTES = 256 * 1024
# Of the bodies that one process is reading or processing; an application's may take half of it.
MAX_HELD_BYTES = 64 * 1024 * 1024
BODY_TIMEOUT_SECONDS = 10.0  # for a whole body, plus one second for each MiB that the route allows
# In memory, decoded. A character makes all others as wide as itself, in the whole body and again in a text.
BYTES_PER_CHARACTER = 8
BYTES_PER_OBJECT = 128


class BodyMemory:
    """How much memory the bodies of a process take, also decoded. For one event loop.

    The bodies of one owner, an application, may take half of it.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.max_bytes_of_one = max_bytes // 2
        self.held_bytes = 0
        self._held_of: Counter[str] = Counter()

    def hold(self, owner: str, size: int) -> None:
        """Count so many bytes more. Raises ProblemException, having counted them, if these are too many."""
        self.held_bytes += size
        self._held_of[owner] += size
        if self.held_bytes > self.max_bytes or self._held_of[owner] > self.max_bytes_of_one:
            raise ProblemException(problems.TOO_MANY_BODY_BYTES)

    def release(self, owner: str, size: int) -> None:
        """Count so many bytes less."""
        self.held_bytes -= size
        self._held_of[owner] -= size
        if not self._held_of[owner]:
            del self._held_of[owner]


class JsonRequest(Request):
    """A request whose JSON body is read by the rules of this module."""

    max_bytes: ClassVar[int] = MAX_BODY_BYTES
    memory: ClassVar[BodyMemory] = BodyMemory(MAX_HELD_BYTES)
    copies: ClassVar[int] = 1
    """How often the body is in memory at the same time, beside what `decoded_size` says."""

    def __init__(self, request: Request) -> None:
        super().__init__(request.scope, request.receive)
        self._held_bytes = 0
        token: str | None = request.path_params.get("token")
        self._owner = token or client_owner(client_address(request))

    async def prepare(self) -> None:
        """Called before FastAPI asks for the body."""

    def release(self) -> None:
        """Called once the request is answered."""
        self.memory.release(self._owner, self._held_bytes)

    async def body(self) -> bytes:
        """The whole body; raises ProblemException."""
        if not hasattr(self, "_body"):
            self._body = bytes(await self.read())
        return self._body

    async def json(self) -> Any:
        """The decoded body; raises ProblemException."""
        body = await self.body()
        self._hold(decoded_size(body))
        return parse_json(body)

    async def read(self) -> bytearray:
        """Read the whole body; raises ProblemException."""
        is_coded = self.headers.get("content-encoding", "identity").lower() != "identity"
        if is_coded or not _is_json(self.headers.get("content-type", "")):
            raise ProblemException(problems.UNSUPPORTED_MEDIA_TYPE)
        await self._check_size(int(self.headers.get("content-length", 0)))
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT_SECONDS + self.max_bytes / 2**20):
                async for chunk in self.stream():
                    await self._check_size(len(body) + len(chunk))
                    self._hold(len(chunk) * self.copies)
                    body += chunk
        except TimeoutError:
            raise ProblemException(problems.BODY_TOO_SLOW) from None
        return body

    async def _check_size(self, size: int) -> None:
        """Called with the announced size, and with the size before each part is added."""
        if size > self.max_bytes:
            raise ProblemException(
                problems.BODY_TOO_LARGE,
                f"The body must not be larger than {self.max_bytes:,} bytes.",
            )

    def _hold(self, size: int) -> None:
        self._held_bytes += size
        self.memory.hold(self._owner, size)


class JsonRoute(APIRoute):
    """A route that reads its body, if it has one, by the rules of this module."""

    request_class: ClassVar[type[JsonRequest]] = JsonRequest

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's hook to wrap the reading of the body."""
        handle = super().get_route_handler()

        async def read_and_handle(request: Request) -> Response:
            json_request = self.request_class(request)
            try:
                await json_request.prepare()
                return await handle(json_request)
            finally:
                json_request.release()

        return read_and_handle


def decoded_size(body: bytes) -> int:
    """How many bytes of memory a JSON body takes at most once it is decoded.

    `[{},{},…` takes thirty times as much as its bytes.
    """
    objects = 1 + sum(map(body.count, (b"[", b"{", b",", b":")))
    return BYTES_PER_CHARACTER * len(body) + BYTES_PER_OBJECT * objects


def _is_json(content_type: str) -> bool:
    """Whether this content type is JSON in UTF-8."""
    if content_type == "application/json":
        return True
    header = Message()
    header["content-type"] = content_type
    charset = header.get_content_charset("utf-8")
    return header.get_content_type() == "application/json" and charset == "utf-8"


def parse_json(body: bytes) -> Any:
    """Decode a body; raises ProblemException if it is not JSON."""
    try:
        return _decode_strict(body.decode())
    except (ValueError, RecursionError):
        raise ProblemException(problems.NOT_JSON) from None


def _reject_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


_decode_strict = json.JSONDecoder(parse_constant=_reject_constant).decode
