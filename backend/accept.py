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
from typing import TYPE_CHECKING

from backend.counters import Counters
from backend.errors import (
    Closing,
    Failed,
    InstaChatError,
    Invalid,
    KeyReused,
    Unavailable,
)
from backend.events import pack_chats, pack_deletion, pack_messages
from backend.life import Lives
from backend.log import Batch, Creation, Given, LifeLost, Log, Outcome, Refused, idempotency_key
from backend.model import (
    MAX_BATCH,
    Accepted,
    Parent,
    checked_count,
    checked_number,
    checked_text,
    checked_token,
)

if TYPE_CHECKING:
    from backend.log.asynchronous import AsyncAccepting

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
    payloads = pack_messages(token, chat, texts)
    return _request("messages", parent, payloads, key, list(texts), route)


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
        for shard, waiting in self._by_shard(requests, answers).items():
            try:
                self._accept_in_shard(shard, waiting, answers)
            except InstaChatError as error:
                for i, _ in waiting:
                    answers[i] = answers[i] or error
        return [a or Unavailable("not accepted", "try again") for a in answers]

    def attempt(self, requests: Sequence[Request]) -> list[Accepted | InstaChatError | None]:
        """As `accept_batch`, by the one call a shard and no other: SQL is not asked.

        None is the answer where more is needed first, a counter verified or a life claimed: nothing
        was accepted, and `accept_batch` is for those.
        """
        answers: list[Accepted | InstaChatError | None] = [None] * len(requests)
        shards = self._by_shard(requests, answers)
        return self._taken(shards, self._log.accept_each(self._batches(shards)), answers)

    async def attempt_async(
        self, requests: Sequence[Request], log: "AsyncAccepting"
    ) -> list[Accepted | InstaChatError | None]:
        """As `attempt`, from an event loop, which it does not hold up once this `is_ready`."""
        answers: list[Accepted | InstaChatError | None] = [None] * len(requests)
        shards = self._by_shard(requests, answers)
        return self._taken(shards, await log.accept_each(self._batches(shards)), answers)

    @property
    def is_ready(self) -> bool:
        """Whether all was read that an attempt needs of SQL: by `renew`, or by the first attempt."""
        return self._lives.began

    def renew(self) -> None:
        """See `Lives.renew`."""
        self._lives.renew()

    def _batches(self, shards: dict[int, list[tuple[int, Creation]]]) -> list[Batch]:
        return [
            (shard, [creation for _, creation in waiting], self._lives.known(shard))
            for shard, waiting in shards.items()
        ]

    def _taken(
        self,
        shards: dict[int, list[tuple[int, Creation]]],
        outcomes: Sequence[Outcome | InstaChatError | LifeLost],
        answers: list[Accepted | InstaChatError | None],
    ) -> list[Accepted | InstaChatError | None]:
        for (shard, waiting), outcome in zip(shards.items(), outcomes, strict=True):
            if isinstance(outcome, InstaChatError):
                for i, _ in waiting:
                    answers[i] = outcome
            elif not isinstance(outcome, LifeLost):
                self._take(shard, waiting, outcome, answers)
        return answers

    def ringing(self, ring: Callable[[int], object]) -> "Acceptor":
        """The same, with another bell."""
        return Acceptor(self._log, self._lives, self._counters, ring)

    def _by_shard(
        self, requests: Sequence[Request], answers: list[Accepted | InstaChatError | None]
    ) -> dict[int, list[tuple[int, Creation]]]:
        """The requests of each shard, with their places; those whose shard can't be told are answered."""
        shards: dict[int, list[tuple[int, Creation]]] = {}
        for i, request in enumerate(requests):
            creation = request.creation
            try:
                shards.setdefault(self._counters.shard(creation.parent.token), []).append(
                    (i, creation)
                )
            except InstaChatError as error:
                answers[i] = error
        return shards

    def _accept_in_shard(
        self,
        shard: int,
        waiting: list[tuple[int, Creation]],
        answers: list[Accepted | InstaChatError | None],
    ) -> None:
        for _ in range(ATTEMPTS):
            try:
                refused = self._ask(shard, waiting, answers)
            except LifeLost as lost:
                self._lives.claim(shard, lost.why)
                continue
            again = []
            for i, creation, why in refused:
                try:
                    self._mend(creation.parent, why)
                    again.append((i, creation))
                except InstaChatError as error:
                    answers[i] = error
            if not again:
                return
            waiting = again
        raise Unavailable(
            f"shard {shard} of Redis keeps refusing; nothing was accepted", "see `instachat status`"
        )

    def _ask(
        self,
        shard: int,
        waiting: list[tuple[int, Creation]],
        answers: list[Accepted | InstaChatError | None],
    ) -> list[tuple[int, Creation, Refused]]:
        """The one call; puts the answers in their places, and returns what was refused, and why."""
        outcome = self._log.accept(
            shard, [creation for _, creation in waiting], self._lives.known(shard)
        )
        return self._take(shard, waiting, outcome, answers)

    def _take(
        self,
        shard: int,
        waiting: list[tuple[int, Creation]],
        outcome: Outcome,
        answers: list[Accepted | InstaChatError | None],
    ) -> list[tuple[int, Creation, Refused]]:
        replies, end, ring = outcome
        self._lives.saw(shard, end)
        if ring:
            self._ring(shard)
        refused = []
        for (i, creation), reply in zip(waiting, replies, strict=True):
            if isinstance(reply, Given):
                answers[i] = Accepted(reply.first, reply.last, shard, reply.entry)
            else:
                refused.append((i, creation, reply))
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


def _request(
    kind: str,
    parent: Parent,
    payloads: list[tuple[int, bytes]],
    key: str | None,
    body: object,
    route: str | None = None,
) -> Request:
    if key is None:
        return Request(Creation(kind, parent, payloads))
    name, body_hash = keyed(f"{route or kind} {parent.token} {parent.chat}", key, body)
    return Request(Creation(kind, parent, payloads, name, body_hash))


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
