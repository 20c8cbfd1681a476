"""Accept: a number now, a row later.

A request is checked, packed and handed to one script in Redis, which gives the numbers and appends the
events in one atomic step. An explicit refusal has changed nothing, so it is mended (the counter is
verified, a new life claimed) and asked again; a lost answer is never repeated from here.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backend.counters import Counters
from backend.errors import Closing, Failed, InstaChatError, Invalid, KeyReused, Unavailable
from backend.events import pack_chats, pack_deletion, pack_messages
from backend.life import Lives
from backend.log import Creation, Given, LifeLost, Log, Refused, idempotency_key
from backend.model import (
    MAX_BATCH,
    Accepted,
    Parent,
    checked_count,
    checked_number,
    checked_text,
    checked_token,
)

ATTEMPTS = 6
MAX_KEY = 255
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """One valid request, ready for the script; made by `chats`, `messages` or `deletion`."""

    creation: Creation


def chats(token: str, count: int = 1, *, key: str | None = None) -> Request:
    """A request for new chats of an application, 1 to 1,000 at once.

    Raises Invalid or NotFound (a token that can't exist). The same idempotency `key` with the same
    count gives the same answer for 24 hours.
    """
    parent = Parent(checked_token(token))
    if checked_count(count) > MAX_BATCH:
        raise Invalid(f"can't create {count:,} chats in one request: at most {MAX_BATCH:,}")
    return _request("chats", parent, pack_chats(token, count), key, count)


def messages(token: str, chat: int, texts: Sequence[str], *, key: str | None = None) -> Request:
    """A request for new messages of a chat, 1 to 1,000 at once; they get consecutive numbers.

    Raises Invalid, naming the first bad text's place, or NotFound.
    """
    parent = Parent(checked_token(token), checked_number(chat))
    if not 1 <= len(texts) <= MAX_BATCH:
        raise Invalid(f"{len(texts):,} messages in one request: 1 to {MAX_BATCH:,} are allowed")
    for place, text in enumerate(texts, 1):
        try:
            checked_text(text)
        except Invalid as error:
            where = f" (message {place} of {len(texts)})" if len(texts) > 1 else ""
            raise Invalid(error.message + where) from None
    return _request("messages", parent, pack_messages(token, chat, texts), key, list(texts))


def deletion(token: str, chat: int | None = None, *, cascade: bool = False) -> Request:
    """A request to delete an application or a chat; the drain decides it, in the log's order.

    With `cascade` all that belongs to it goes with it; without, it stays if anything does.
    """
    parent = Parent(checked_token(token), chat if chat is None else checked_number(chat))
    kind = "delete-application" if chat is None else "delete-chat"
    return Request(Creation(kind, parent, pack_deletion(token, chat, cascade=cascade)))


class Acceptor:
    """Gives numbers. Thread-safe.

    `ring` is called with a shard whose log has something new and whose drain was not asked for yet;
    it must not raise.
    """

    def __init__(
        self, log: Log, lives: Lives, counters: Counters, ring: Callable[[int], None]
    ) -> None:
        self._log = log
        self._lives = lives
        self._counters = counters
        self._ring = ring

    def accept(self, request: Request) -> Accepted:
        """Accept one request, or raise why not.

        When this returns, the numbers are taken for good and the events are in the log: on disk
        under `strict`. Raises NotFound, Closing, KeyReused, LogFull, EngineDown: nothing was
        accepted; Unconfirmed: it is not known.
        """
        answer = self.accept_batch([request])[0]
        if isinstance(answer, InstaChatError):
            raise answer
        return answer

    def accept_batch(self, requests: Sequence[Request]) -> list[Accepted | InstaChatError]:
        """Accept many requests, of any applications, in one call a shard; an answer for each.

        Each shard's requests are given numbers in their order here, atomically; each is answered
        apart, and equal idempotency keys count as one request.
        """
        answers: list[Accepted | InstaChatError | None] = [None] * len(requests)
        shards: dict[int, list[int]] = {}
        for i, request in enumerate(requests):
            try:
                shards.setdefault(self._counters.shard(request.creation.parent.token), []).append(i)
            except InstaChatError as error:
                answers[i] = error
        for shard, places in shards.items():
            try:
                self._accept_in_shard(shard, [(i, requests[i].creation) for i in places], answers)
            except InstaChatError as error:
                for i in places:
                    answers[i] = answers[i] or error
        return [a or Unavailable("not accepted", "try again") for a in answers]

    def _accept_in_shard(
        self,
        shard: int,
        waiting: list[tuple[int, Creation]],
        answers: list[Accepted | InstaChatError | None],
    ) -> None:
        for _ in range(ATTEMPTS):
            try:
                replies, end, ring = self._log.accept(
                    shard, [creation for _, creation in waiting], self._lives.known(shard)
                )
            except LifeLost as lost:
                self._lives.claim(shard, lost.why)
                continue
            self._lives.saw(shard, end)
            if ring:
                self._ring(shard)
            again = []
            for (i, creation), reply in zip(waiting, replies, strict=True):
                if isinstance(reply, Given):
                    answers[i] = Accepted(reply.first, reply.last, shard, reply.entry)
                    continue
                try:
                    self._mend(creation.parent, reply)
                    again.append((i, creation))
                except InstaChatError as error:
                    answers[i] = error
            if not again:
                return
            waiting = again
        raise Unavailable(
            f"shard {shard} of Redis keeps refusing; nothing was accepted", "see `instachat status`"
        )

    def _mend(self, parent: Parent, refused: Refused) -> None:
        """Remove the cause of a refusal, so that the request can be asked again; or raise it."""
        if refused.why == "counter":
            self._counters.verify(Parent(parent.token))
            if refused.which == "chat":
                self._counters.verify(parent)
        elif refused.why == "closed":
            # Decided or not? SQL knows: verifying raises NotFound for what is gone.
            closed = parent if refused.which == "chat" else Parent(parent.token)
            self._counters.verify(closed)
            raise Closing(f"{closed} is being deleted at this moment", "try again in a moment")
        elif refused.why == "reused":
            raise KeyReused(
                "this idempotency key was used before with another body; nothing was created",
                "use a fresh key for each new request",
            )
        else:
            raise Failed(
                f"Redis holds something foreign under the key of the {refused.which}; "
                "nothing was accepted",
                "another program writes to this Redis: give InstaChat one of its own",
            )


def _request(
    kind: str,
    parent: Parent,
    payloads: list[tuple[int, bytes]],
    key: str | None,
    body: object,
) -> Request:
    if key is None:
        return Request(Creation(kind, parent, payloads))
    if not 1 <= len(key) <= MAX_KEY:
        raise Invalid(f"an idempotency key has 1 to {MAX_KEY} characters")
    route = f"{kind} {parent.token} {parent.chat}"
    body_hash = hashlib.sha256(json.dumps(body).encode()).hexdigest()[:32]
    return Request(Creation(kind, parent, payloads, idempotency_key(route, key), body_hash))
