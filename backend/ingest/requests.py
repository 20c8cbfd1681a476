"""Requests to create or delete something: checked and packed here, accepted by `Acceptor`."""

import hashlib
import json
import secrets
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from backend.domain import serialization
from backend.domain.errors import Invalid, KeyReused
from backend.domain.events import pack_chats, pack_deletion, pack_move
from backend.domain.model import (
    MAX_BATCH,
    NewMessage,
    Parent,
    checked_count,
    checked_message,
    checked_number,
    checked_token,
)
from backend.storage.redis.idempotency_keys import hash_idempotency_key

MAX_KEY_LENGTH = 255


class AcceptRequest(Struct, frozen=True, gc=False):
    """One valid request; made by `chats`, `messages`, `deletion` or `move`.

    `new_messages` are packed when they are accepted; the events of any other request are in `packed`.
    """

    kind: str
    parent: Parent
    new_messages: Sequence[NewMessage] = ()
    packed: Sequence[tuple[int, bytes]] = ()
    key: str = ""
    body_hash: str = ""

    @classmethod
    def chats(cls, token: str, count: int = 1, *, key: str | None = None) -> "AcceptRequest":
        """A request for new chats of an application, 1 to 1,000 at once.

        The same idempotency `key` with the same count returns the same answer for 24 hours. Raises Invalid,
        or NotFound for a token that can't exist.
        """
        parent = Parent(checked_token(token))
        if checked_count(count) > MAX_BATCH:
            raise Invalid(f"can't create {count:,} chats in one request: at most {MAX_BATCH:,}")
        request = cls("chats", parent, packed=pack_chats(token, count))
        return request if key is None else request._with_key("chats", key, count)

    @classmethod
    def messages(
        cls,
        token: str,
        chat: int,
        new_messages: Sequence[NewMessage],
        *,
        key: str | None = None,
        route: str = "messages",
    ) -> "AcceptRequest":
        """A request for new messages of a chat, 1 to 1,000 at once; they get consecutive numbers.

        An idempotency `key` is valid within its `route` and chat. Raises Invalid, with the position of the
        first invalid message, or NotFound.
        """
        parent = Parent(checked_token(token), checked_number(chat))
        if not 1 <= len(new_messages) <= MAX_BATCH:
            raise Invalid(
                f"{len(new_messages):,} messages in one request: 1 to {MAX_BATCH:,} are allowed"
            )
        for position, message in enumerate(new_messages, 1):
            try:
                checked_message(message)
            except Invalid as error:
                where = (
                    f" (message {position} of {len(new_messages)})" if len(new_messages) > 1 else ""
                )
                raise Invalid(error.message + where) from None
        request = cls("messages", parent, new_messages)
        return request if key is None else request._with_key(route, key, list(new_messages))

    @classmethod
    def message(
        cls, chat: Parent, new_message: NewMessage, *, key: str | None = None
    ) -> "AcceptRequest":
        """As `messages`, for one message of a chat whose token and number can exist."""
        request = cls("messages", chat, [checked_message(new_message)])
        return request if key is None else request._with_key("messages", key, [new_message])

    @classmethod
    def deletion(
        cls, token: str, chat: int | None = None, *, cascade: bool = False
    ) -> "AcceptRequest":
        """A request to delete an application or a chat; the drain decides it, in the log's order.

        With `cascade` its children are deleted, too; without, it is not deleted if it has any.
        """
        parent = Parent(checked_token(token), chat if chat is None else checked_number(chat))
        kind = "delete-application" if chat is None else "delete-chat"
        return cls(kind, parent, packed=pack_deletion(token, chat, cascade=cascade))

    @classmethod
    def move(cls, token: str, shard: int, move: int) -> "AcceptRequest":
        """A request to move an application to a shard, which nothing of it in its present shard comes behind.

        `move` counts its moves, this one included. The application's counter is closed by a mark of its own
        for each request, so that a late call can't take one for another.
        """
        kind = f"moved-{move}-{secrets.token_hex(4)}"
        return cls(kind, Parent(checked_token(token)), packed=pack_move(token, shard, move))

    def _with_key(self, route: str, key: str, body: object) -> "AcceptRequest":
        token, chat = self.parent
        name, body_hash = identify_request(f"{route} {token} {chat}", key, body)
        return replace(self, key=name, body_hash=body_hash)


def identify_request(route: str, key: str, body: object) -> tuple[str, str]:
    """The name under which an idempotency key is stored, and the hash of the body that came with it.

    Raises Invalid unless the key has 1 to 255 characters.
    """
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise Invalid(f"an idempotency key has 1 to {MAX_KEY_LENGTH} characters")
    return hash_idempotency_key(route, key), _hash_body(body)


def _hash_body(body: object) -> str:
    """The hash of a body as JSON. That of a list is made of its items, because all of them may be large."""
    digest = hashlib.sha256()
    if isinstance(body, list):
        for place, item in enumerate(body):
            digest.update(b", " if place else b"[")
            digest.update(_encode(item))
        digest.update(b"]" if body else b"[]")
    else:
        digest.update(_encode(body))
    return digest.hexdigest()[:32]


def _encode(part: object) -> bytes:
    # A message that is a text alone is a string already.
    return json.dumps(part, default=serialization.new_message).encode()


def key_reused_error() -> KeyReused:
    """The answer to an idempotency key that was used before with another body."""
    return KeyReused(
        "this idempotency key was used before with another body; nothing was created",
        "use a fresh key for each new request",
    )
