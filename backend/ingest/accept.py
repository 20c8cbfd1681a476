"""Accept: a number now, a row later.

A request is checked, packed and handed to one script in Redis, which gives the numbers and appends the
events in one atomic step. An explicit refusal has changed nothing, so it is mended (the counter is
verified, a new life claimed) and asked again; a lost answer is never repeated from here.

Requests for messages of the same chat that come together are one creation to the script, and one entry of the
log: what a message costs Redis, and the drain after it, is then shared by all of them.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from backend.domain.errors import Closing, Failed, InstaChatError, Invalid, KeyReused, Unavailable
from backend.domain.events import pack_chats, pack_deletion, pack_messages
from backend.domain.model import (
    MAX_BATCH,
    Accepted,
    Parent,
    checked_count,
    checked_number,
    checked_text,
    checked_token,
)
from backend.ingest.counters import Counters
from backend.ingest.epochs import Lives
from backend.storage.redis.accept import idempotency_key
from backend.storage.redis.log import Log
from backend.storage.redis.types import Batch, Creation, LifeLost, Outcome, Refused

if TYPE_CHECKING:
    from backend.storage.redis.accept_async import AsyncAccepting

ATTEMPTS = 6
MAX_KEY = 255
logger = logging.getLogger(__name__)


class Request(NamedTuple):
    """One valid request; made by `chats`, `messages` or `deletion`.

    `texts` are those of messages; anything else is packed already.
    """

    kind: str
    parent: Parent
    texts: Sequence[str] = ()
    packed: Sequence[tuple[int, bytes]] = ()
    key: str = ""
    body_hash: str = ""


def chats(token: str, count: int = 1, *, key: str | None = None) -> Request:
    """A request for new chats of an application, 1 to 1,000 at once.

    Raises Invalid or NotFound (a token that can't exist). The same idempotency `key` with the same
    count gives the same answer for 24 hours.
    """
    parent = Parent(checked_token(token))
    if checked_count(count) > MAX_BATCH:
        raise Invalid(f"can't create {count:,} chats in one request: at most {MAX_BATCH:,}")
    request = Request("chats", parent, packed=pack_chats(token, count))
    return request if key is None else _keyed(request, "chats", key, count)


def messages(
    token: str,
    chat: int,
    texts: Sequence[str],
    *,
    key: str | None = None,
    route: str = "messages",
) -> Request:
    """A request for new messages of a chat, 1 to 1,000 at once; they get consecutive numbers.

    An idempotency `key` counts within its `route` and chat. Raises Invalid, naming the first bad text's
    place, or NotFound.
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
    request = Request("messages", parent, texts)
    return request if key is None else _keyed(request, route, key, list(texts))


def deletion(token: str, chat: int | None = None, *, cascade: bool = False) -> Request:
    """A request to delete an application or a chat; the drain decides it, in the log's order.

    With `cascade` all that belongs to it goes with it; without, it stays if anything does.
    """
    parent = Parent(checked_token(token), chat if chat is None else checked_number(chat))
    kind = "delete-application" if chat is None else "delete-chat"
    return Request(kind, parent, packed=pack_deletion(token, chat, cascade=cascade))


@dataclass(slots=True)
class _Part:
    """A creation of a batch, and whose it is: each request's place, and how many numbers it asks for."""

    request: Request
    texts: list[str]
    places: list[tuple[int, int]]

    def creation(self) -> Creation:
        kind, parent, _, packed, key, body_hash = self.request
        if self.texts:
            assert parent.chat
            packed = pack_messages(parent.token, parent.chat, self.texts)
        return Creation(kind, parent, packed, key, body_hash)


_Parts = dict[int, list[_Part]]
"""By shard, each in the order of the requests."""


class Acceptor:
    """Gives numbers. Thread-safe.

    `ring` is called with a shard whose log has something new and whose drain was not asked for yet;
    it must not raise.
    """

    def __init__(
        self, log: Log, lives: Lives, counters: Counters, ring: Callable[[int], object]
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
        for shard, parts in self._parts(requests, answers).items():
            try:
                self._accept_in_shard(shard, parts, answers)
            except InstaChatError as error:
                _refuse(parts, error, answers)
        return [a or Unavailable("not accepted", "try again") for a in answers]

    def attempt(self, requests: Sequence[Request]) -> list[Accepted | InstaChatError | None]:
        """As `accept_batch`, by the one call a shard and no other: SQL is not asked.

        None is the answer where more is needed first, a counter verified or a life claimed: nothing
        was accepted, and `accept_batch` is for those.
        """
        answers: list[Accepted | InstaChatError | None] = [None] * len(requests)
        shards = self._parts(requests, answers)
        self._take_each(shards, self._log.accept_each(self._batches(shards)), answers)
        return answers

    async def attempt_async(
        self, requests: Sequence[Request], log: "AsyncAccepting"
    ) -> list[Accepted | InstaChatError | None]:
        """As `attempt`, from an event loop, which it does not hold up once this `is_ready`."""
        answers: list[Accepted | InstaChatError | None] = [None] * len(requests)
        shards = self._parts(requests, answers)
        self._take_each(shards, await log.accept_each(self._batches(shards)), answers)
        return answers

    @property
    def is_ready(self) -> bool:
        """Whether all was read that an attempt needs of SQL: by `renew`, or by the first attempt."""
        return self._lives.began

    def renew(self) -> None:
        """See `Lives.renew`."""
        self._lives.renew()

    def ringing(self, ring: Callable[[int], object]) -> "Acceptor":
        """The same, with another bell."""
        return Acceptor(self._log, self._lives, self._counters, ring)

    def _parts(
        self, requests: Sequence[Request], answers: list[Accepted | InstaChatError | None]
    ) -> _Parts:
        """What to ask of each shard; the requests whose shard can't be told are answered."""
        shards: _Parts = {}
        open_: dict[Parent, _Part] = {}
        """To which messages of that chat can be added: nothing but messages came after it."""
        for place, request in enumerate(requests):
            kind, parent, texts, _, key, _ = request
            joins = kind == "messages" and not key
            if joins and (part := open_.get(parent)):
                part.texts += texts
                part.places.append((place, len(texts)))
                continue
            try:
                shard = self._counters.shard(parent.token)
            except InstaChatError as error:
                answers[place] = error
                continue
            part = _Part(request, list(texts), [(place, len(texts))])
            shards.setdefault(shard, []).append(part)
            if joins:
                open_[parent] = part
            else:
                open_.clear()  # so that all keep their order
        return shards

    def _batches(self, shards: _Parts) -> list[Batch]:
        return [
            (shard, [part.creation() for part in parts], self._lives.known(shard))
            for shard, parts in shards.items()
        ]

    def _take_each(
        self,
        shards: _Parts,
        outcomes: Sequence[Outcome | InstaChatError | LifeLost],
        answers: list[Accepted | InstaChatError | None],
    ) -> None:
        for (shard, parts), outcome in zip(shards.items(), outcomes, strict=True):
            if isinstance(outcome, InstaChatError):
                _refuse(parts, outcome, answers)
            elif not isinstance(outcome, LifeLost):
                self._take(shard, parts, outcome, answers)

    def _accept_in_shard(
        self,
        shard: int,
        parts: list[_Part],
        answers: list[Accepted | InstaChatError | None],
    ) -> None:
        for _ in range(ATTEMPTS):
            try:
                refused = self._ask(shard, parts, answers)
            except LifeLost as lost:
                self._lives.claim(shard, lost.why)
                continue
            parts = []
            for part, why in refused:
                try:
                    self._mend(part.request.parent, why)
                    parts.append(part)
                except InstaChatError as error:
                    _refuse([part], error, answers)
            if not parts:
                return
        raise Unavailable(
            f"shard {shard} of Redis keeps refusing; nothing was accepted", "see `instachat status`"
        )

    def _ask(
        self,
        shard: int,
        parts: list[_Part],
        answers: list[Accepted | InstaChatError | None],
    ) -> list[tuple[_Part, Refused]]:
        """The one call; puts the answers in their places, and returns what was refused, and why."""
        outcome = self._log.accept(
            shard, [part.creation() for part in parts], self._lives.known(shard)
        )
        return self._take(shard, parts, outcome, answers)

    def _take(
        self,
        shard: int,
        parts: list[_Part],
        outcome: Outcome,
        answers: list[Accepted | InstaChatError | None],
    ) -> list[tuple[_Part, Refused]]:
        replies, end, ring = outcome
        self._lives.saw(shard, end)
        if ring:
            self._ring(shard)
        refused = []
        for part, reply in zip(parts, replies, strict=True):
            if isinstance(reply, Refused):
                refused.append((part, reply))
                continue
            first, last, entry = reply
            if len(part.places) == 1:  # of chats, and of deletions, no texts are counted
                answers[part.places[0][0]] = Accepted(first, last, shard, entry)
                continue
            for place, count in part.places:
                answers[place] = Accepted(first, first + count - 1, shard, entry)
                first += count
        return refused

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
            raise key_reused()
        else:
            raise Failed(
                f"Redis holds something foreign under the key of the {refused.which}; "
                "nothing was accepted",
                "another program writes to this Redis: give InstaChat one of its own",
            )


def _refuse(
    parts: Sequence[_Part],
    error: InstaChatError,
    answers: list[Accepted | InstaChatError | None],
) -> None:
    """Have the error for answer, unless there is one already."""
    for part in parts:
        for place, _ in part.places:
            answers[place] = answers[place] or error


def _keyed(request: Request, route: str, key: str, body: object) -> Request:
    token, chat = request.parent
    name, body_hash = keyed(f"{route} {token} {chat}", key, body)
    return request._replace(key=name, body_hash=body_hash)


def key_reused() -> KeyReused:
    """The answer to an idempotency key that came with another body before."""
    return KeyReused(
        "this idempotency key was used before with another body; nothing was created",
        "use a fresh key for each new request",
    )


def keyed(route: str, key: str, body: object) -> tuple[str, str]:
    """The name under which an idempotency key is kept, and the hash of the body it came with.

    Raises Invalid for what can't be a key.
    """
    if not 1 <= len(key) <= MAX_KEY:
        raise Invalid(f"an idempotency key has 1 to {MAX_KEY} characters")
    return idempotency_key(route, key), hashlib.sha256(json.dumps(body).encode()).hexdigest()[:32]
