"""Reads JSON bodies: checks the type, and limits their size and the time until they have arrived."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from backend.api import problems
from backend.api.problems import ProblemException

# A text of 10,000 code points, each written as two JSON escapes, takes half of this.
MAX_BODY_BYTES = 256 * 1024
MAX_BATCH_BODY_BYTES = 48 * 1024 * 1024  # 1,000 texts of 10,000 code points of four bytes
MAX_HELD_BYTES = 256 * 1024 * 1024  # of all bodies that one process is reading or processing
BODY_TIMEOUT_SECONDS = 10.0  # for a whole body, plus one second for each MiB that the route allows


class JsonRoute(APIRoute):
    """A route that reads its body, if it has one, by the rules of this module."""

    max_bytes = MAX_BODY_BYTES

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's hook to wrap the reading of the body."""
        handle = super().get_route_handler()
        max_bytes = self.max_bytes

        async def read_and_handle(request: Request) -> Response:
            json_request = _JsonRequest(request, max_bytes)
            try:
                return await handle(json_request)
            finally:
                json_request.release()

        return read_and_handle


class BatchRoute(JsonRoute):
    """A route whose body may hold many texts."""

    max_bytes = MAX_BATCH_BODY_BYTES


class _JsonRequest(Request):
    held_bytes = 0  # of all requests of this process

    def __init__(self, request: Request, max_bytes: int) -> None:
        super().__init__(request.scope, request.receive)
        self._max_bytes = max_bytes
        self._size = 0

    def release(self) -> None:
        """Stop counting this body in `held_bytes`."""
        _JsonRequest.held_bytes -= self._size

    async def body(self) -> bytes:
        """The whole body; raises ProblemException."""
        if not hasattr(self, "_body"):
            if not _is_json(self.headers.get("content-type", "")):
                raise ProblemException(problems.UNSUPPORTED_MEDIA_TYPE)
            self._body = await self._read()
        return self._body

    async def json(self) -> Any:
        """The decoded body; raises ProblemException."""
        return parse_json(await self.body())

    async def _read(self) -> bytes:
        too_large = ProblemException(
            problems.BODY_TOO_LARGE, f"The body must not be larger than {self._max_bytes:,} bytes."
        )
        if int(self.headers.get("content-length", 0)) > self._max_bytes:
            raise too_large
        chunks = []
        try:
            async with asyncio.timeout(BODY_TIMEOUT_SECONDS + self._max_bytes / 2**20):
                async for chunk in self.stream():
                    self._size += len(chunk)
                    _JsonRequest.held_bytes += len(chunk)
                    if self._size > self._max_bytes:
                        raise too_large
                    if _JsonRequest.held_bytes > MAX_HELD_BYTES:
                        raise ProblemException(problems.TOO_MANY_BODY_BYTES)
                    chunks.append(chunk)
        except TimeoutError:
            raise ProblemException(problems.BODY_TOO_SLOW) from None
        return b"".join(chunks)


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
