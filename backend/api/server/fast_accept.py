"""`POST …/chats/{chat}/messages` on the fast path: one message, accepted by group commit.

A request with a query, another content type, a chunked body, or an invalid value takes the ordinary route.
"""

import json
import re
from functools import partial
from typing import Final

import msgspec
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from backend.api.parameters import NUMBER_PATTERN, PREFIX
from backend.api.schemas import FastMessageBody
from backend.api.server.fast_request import (
    Core,
    FastRequest,
    FastResponse,
    MakeRequest,
    ReceivedHeaders,
    Respond,
)
from backend.domain import serialization
from backend.domain.errors import InstaChatError, Invalid
from backend.domain.model import TOKEN_PATTERN, Accepted, Parent
from backend.ingest.requests import AcceptRequest

# Uvicorn stops reading a larger body until the application asks for more.
MAX_FAST_BODY_BYTES: Final = HIGH_WATER_LIMIT
# The last two are excluded if they occur twice.
EXCLUDED_HEADERS: Final = {
    b"origin",
    b"expect",
    b"content-encoding",
    b"content-type",
    b"idempotency-key",
}
_ACCEPTED = 202
_decode_body = msgspec.json.Decoder(FastMessageBody).decode
_match_path = re.compile(
    f"{PREFIX}/applications/({TOKEN_PATTERN})/chats/({NUMBER_PATTERN})/messages".encode()
).fullmatch
# The body of a response, before and after the number.
_BODY_START, _BODY_END = (
    json.dumps(serialization.number(0), separators=(",", ":")).encode().split(b"0")
)


class FastAccept(FastRequest):
    """A plain request to create one message."""

    method = "POST"
    route = PREFIX + "/applications/{token}/chats/{chat}/messages"
    _respond: Respond

    def __init__(self, parent: Parent, key: str | None, headers: ReceivedHeaders) -> None:
        super().__init__(headers)
        self.parent = parent
        self.key = key

    @classmethod
    def from_head(cls, url: bytes, headers: ReceivedHeaders) -> MakeRequest | None:
        """How to make the request, if its head is plain."""
        if not (match := _match_path(url)):
            return None
        size, key, kind = 0, None, None
        for name, value in headers:
            if name == b"content-type" and kind is None:
                kind = value
            elif name == b"content-length":
                size = int(value)
            elif name == b"idempotency-key" and key is None:
                key = value.decode("latin-1")
            elif name in EXCLUDED_HEADERS:
                return None
        if kind != b"application/json" or not 0 < size <= MAX_FAST_BODY_BYTES:
            return None
        return partial(cls, Parent(match[1].decode(), int(match[2])), key)

    def start(self, core: Core, respond: Respond) -> None:
        """See FastRequest."""
        self._respond = respond
        try:
            message = _decode_body(self.body).message.new_message()
            request = AcceptRequest.message(self.parent, message, key=self.key)
        except (msgspec.DecodeError, UnicodeError, RecursionError, Invalid):
            respond(self, None)
            return
        try:
            core.submit(request, self._deliver)
        except InstaChatError as error:
            respond(self, error)

    def _deliver(self, result: Accepted | Exception) -> None:
        if isinstance(result, Accepted):
            body = b"%s%d%s" % (_BODY_START, result.first, _BODY_END)
            self._respond(self, FastResponse(_ACCEPTED, b"", body))
        else:
            self._respond(self, result)
