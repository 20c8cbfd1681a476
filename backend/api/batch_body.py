"""The bodies of batches, which may be large: read for a chat that exists only, and decoded in a thread.

A few bytes of JSON can become an object of many. So a large body is decoded by the type that it must have,
and each message is checked as soon as it is decoded: what is not valid ends the decoding, and unknown members
are skipped. A large body never takes more memory than a valid one.
"""

import asyncio
import codecs
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Final

import msgspec
from msgspec import Struct

from backend.api import problems
from backend.api.problems import ProblemException
from backend.api.request_body import MAX_BODY_BYTES, BodyMemory, JsonRequest, JsonRoute
from backend.api.schemas import FastMessageInput
from backend.domain.errors import Invalid
from backend.domain.model import MAX_BATCH, MAX_NUMBER, Parent, checked_message

MAX_BATCH_BODY_BYTES = 48 * 1024 * 1024  # 1,000 texts of 10,000 code points of four bytes
# Of all batches that one process is reading or processing. An application's may take half of it: one of the
# largest.
MAX_HELD_BATCH_BYTES = 768 * 1024 * 1024
# A valid one is there five times: arrived, decoded, encoded for its check, packed, and on its way to Redis.
# One that is a single text can become eight times as long before it is refused.
COPIES_OF_BATCH: Final = 8
UTF8_SLICE_BYTES: Final = 1024 * 1024

# One at a time, so that only one is in memory as texts that are not checked yet.
_decoding = ThreadPoolExecutor(1, "decode")
_path_in_error = re.compile(r" - at `\$(?P<path>[^`]*)`$")


class _Decoding:
    """The batch that the decoding thread decodes."""

    messages = 0


class BatchMessage(FastMessageInput, forbid_unknown_fields=False):
    """A message of a large batch. Only the decoding thread makes any."""

    def __post_init__(self) -> None:
        """Raise ValueError if the message is not valid, or one too many."""
        _Decoding.messages += 1
        if _Decoding.messages > MAX_BATCH:
            raise ValueError(f"List should have at most {MAX_BATCH} items after validation")
        try:
            checked_message(self.new_message())
        except Invalid as error:
            raise ValueError(error.message) from None


class _Batch(Struct):
    messages: list[BatchMessage]


_decode = msgspec.json.Decoder(_Batch).decode
_check_json = msgspec.json.Decoder(msgspec.Raw).decode
"""Raises DecodeError unless the whole body is JSON; makes no objects."""


class BatchRequest(JsonRequest):
    """A request of many messages."""

    max_bytes: ClassVar[int] = MAX_BATCH_BODY_BYTES
    memory: ClassVar[BodyMemory] = BodyMemory(MAX_HELD_BATCH_BYTES)
    copies: ClassVar[int] = COPIES_OF_BATCH
    _content: Any = None
    _is_chat_checked = False

    async def prepare(self) -> None:
        """See JsonRequest. Reads the body; raises ProblemException, and NotFound if there is no such chat."""
        body = await self.read()
        if len(body) <= MAX_BODY_BYTES:
            self._body = bytes(body)
            return
        loop = asyncio.get_running_loop()
        self._content = await loop.run_in_executor(_decoding, decode_batch, body)
        # FastAPI keeps what it gets until the response is made, and only looks whether it is empty.
        self._body = b"{}"

    async def json(self) -> Any:
        """See JsonRequest."""
        return await super().json() if self._content is None else self._content

    async def _check_size(self, size: int) -> None:
        await super()._check_size(size)
        if size > MAX_BODY_BYTES and not self._is_chat_checked:
            self._is_chat_checked = True
            token, chat = (str(self.path_params[name]) for name in ("token", "chat"))
            if not (chat.isascii() and chat.isdecimal() and 1 <= int(chat[:20]) <= MAX_NUMBER):
                raise ProblemException(problems.NOT_FOUND)
            await self.app.state.service.check_parent(Parent(token, int(chat)))


class BatchRoute(JsonRoute):
    """A route whose body may hold many texts."""

    request_class: ClassVar[type[JsonRequest]] = BatchRequest


def decode_batch(body: bytearray) -> Any:
    """What FastAPI validates, of the body of a large batch. Raises ProblemException.

    For the decoding thread.
    """
    _Decoding.messages = 0
    try:
        _check_utf8(body)
        try:
            return msgspec.to_builtins(_decode(body))
        except msgspec.ValidationError as error:
            _check_json(body)
            raise ProblemException(problems.INVALID, _describe(str(error))) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        if _is_about_surrogate(str(error)):
            raise ProblemException(
                problems.INVALID, "A text must not contain lone surrogates."
            ) from None
        raise ProblemException(problems.NOT_JSON) from None


def _check_utf8(body: bytearray) -> None:
    """Raise UnicodeError unless all is UTF-8: members that are skipped are not decoded."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(body)
    for start in range(0, len(body), UTF8_SLICE_BYTES):
        decoder.decode(view[start : start + UTF8_SLICE_BYTES])
    decoder.decode(b"", final=True)


def _describe(error: str) -> str:
    """msgspec's message in the form of FastAPI's: the place first."""
    found = _path_in_error.search(error)
    path = re.sub(r"\[(\d+)\]", r".\1", found["path"]) if found else ""
    return f"body{path}: {_path_in_error.sub('', error)}"


def _is_about_surrogate(error: str) -> bool:
    """Whether msgspec found an escaped surrogate without its other half: JSON may have one, and no text."""
    return "surrogate" in error or "hex escape" in error
