"""Accept: a number now, a row later.

A request is checked, packed and handed to one script in Redis, which gives the numbers and appends the
events in one atomic step. An explicit refusal has changed nothing, so it is repaired (the counter is
verified, a new epoch claimed) and asked again; a lost answer is never repeated from here.

Requests for messages of the same chat that come together are one creation to the script, and one entry of the
log: what a message costs Redis, and the drain after it, is then shared by all of them.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.errors import Closing, Failed, InstaChatError, Unavailable
from backend.domain.events import pack_messages
from backend.domain.model import (
    Accepted,
    Parent,
)
from backend.ingest.counters import Counters
from backend.ingest.epochs import Epochs
from backend.ingest.requests import AcceptRequest, key_reused_error
from backend.storage.redis.log import Log
from backend.storage.redis.types import Creation, Outcome, Refusal, ShardBatch, StaleEpoch

if TYPE_CHECKING:
    from backend.storage.redis.accept_async import AsyncAcceptClient

MAX_ATTEMPTS = 6
MAX_KEY_LENGTH = 255
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _PendingCreation:
    """A creation of a batch, and whose it is: each request's place, and how many numbers it asks for."""

    request: AcceptRequest
    texts: list[str]
    positions: list[tuple[int, int]]

    def creation(self) -> Creation:
        kind, parent, _, packed, key, body_hash = self.request
        if self.texts:
            assert parent.chat
            packed = pack_messages(parent.token, parent.chat, self.texts)
        return Creation(kind, parent, packed, key, body_hash)


_ShardCreations = dict[int, list[_PendingCreation]]
"""By shard, each in the order of the requests."""


class Acceptor:
    """Gives numbers. Thread-safe.

    `notify` is called with a shard whose log has something new and whose drain was not asked for yet;
    it must not raise.
    """

    def __init__(
        self, log: Log, epochs: Epochs, counters: Counters, notify: Callable[[int], object]
    ) -> None:
        self._log = log
        self._epochs = epochs
        self._counters = counters
        self._notify = notify

    def accept(self, request: AcceptRequest) -> Accepted:
        """Accept one request, or raise why not.

        When this returns, the numbers are taken for good and the events are in the log: on disk
        under `strict`. Raises NotFound, Closing, KeyReused, LogFull, EngineDown: nothing was
        accepted; Unconfirmed: it is not known.
        """
        answer = self.accept_batch([request])[0]
        if isinstance(answer, InstaChatError):
            raise answer
        return answer

    def accept_batch(self, requests: Sequence[AcceptRequest]) -> list[Accepted | InstaChatError]:
        """Accept many requests, of any applications, in one call a shard; an answer for each.

        Each shard's requests are given numbers in their order here, atomically; each is answered
        apart, and equal idempotency keys count as one request.
        """
        answers: list[Accepted | InstaChatError | None] = [None] * len(requests)
        for shard, parts in self._group_by_shard(requests, answers).items():
            try:
                self._accept_in_shard(shard, parts, answers)
            except InstaChatError as error:
                _refuse(parts, error, answers)
        return [a or Unavailable("not accepted", "try again") for a in answers]

    def try_accept(
        self, requests: Sequence[AcceptRequest]
    ) -> list[Accepted | InstaChatError | None]:
        """As `accept_batch`, by the one call a shard and no other: SQL is not asked.

        None is the answer where more is needed first, a counter verified or a life claimed: nothing
        was accepted, and `accept_batch` is for those.
        """
        answers: list[Accepted | InstaChatError | None] = [None] * len(requests)
        shards = self._group_by_shard(requests, answers)
        self._record_outcomes(shards, self._log.accept_each(self._batches(shards)), answers)
        return answers

    async def try_accept_async(
        self, requests: Sequence[AcceptRequest], log: "AsyncAcceptClient"
    ) -> list[Accepted | InstaChatError | None]:
        """As `try_accept`, from an event loop, which it does not hold up once this `is_ready`."""
        answers: list[Accepted | InstaChatError | None] = [None] * len(requests)
        shards = self._group_by_shard(requests, answers)
        self._record_outcomes(shards, await log.accept_each(self._batches(shards)), answers)
        return answers

    @property
    def is_ready(self) -> bool:
        """Whether all was read that an attempt needs of SQL: by `refresh`, or by the first attempt."""
        return self._epochs.is_loaded

    def refresh(self) -> None:
        """See `Epochs.refresh`."""
        self._epochs.refresh()

    def with_notify(self, notify: Callable[[int], object]) -> "Acceptor":
        """The same, with another `notify`."""
        return Acceptor(self._log, self._epochs, self._counters, notify)

    def _group_by_shard(
        self, requests: Sequence[AcceptRequest], answers: list[Accepted | InstaChatError | None]
    ) -> _ShardCreations:
        """What to ask of each shard; the requests whose shard can't be told are answered."""
        shards: _ShardCreations = {}
        open_: dict[Parent, _PendingCreation] = {}
        """To which messages of that chat can be added: nothing but messages came after it."""
        for place, request in enumerate(requests):
            kind, parent, texts, _, key, _ = request
            joins = kind == "messages" and not key
            if joins and (part := open_.get(parent)):
                part.texts += texts
                part.positions.append((place, len(texts)))
                continue
            try:
                shard = self._counters.shard(parent.token)
            except InstaChatError as error:
                answers[place] = error
                continue
            part = _PendingCreation(request, list(texts), [(place, len(texts))])
            shards.setdefault(shard, []).append(part)
            if joins:
                open_[parent] = part
            else:
                open_.clear()  # so that all keep their order
        return shards

    def _batches(self, shards: _ShardCreations) -> list[ShardBatch]:
        return [
            (shard, [part.creation() for part in parts], self._epochs.last_seen(shard))
            for shard, parts in shards.items()
        ]

    def _record_outcomes(
        self,
        shards: _ShardCreations,
        outcomes: Sequence[Outcome | InstaChatError | StaleEpoch],
        answers: list[Accepted | InstaChatError | None],
    ) -> None:
        for (shard, parts), outcome in zip(shards.items(), outcomes, strict=True):
            if isinstance(outcome, InstaChatError):
                _refuse(parts, outcome, answers)
            elif not isinstance(outcome, StaleEpoch):
                self._record_outcome(shard, parts, outcome, answers)

    def _accept_in_shard(
        self,
        shard: int,
        parts: list[_PendingCreation],
        answers: list[Accepted | InstaChatError | None],
    ) -> None:
        for _ in range(MAX_ATTEMPTS):
            with self._epochs.renewed_on_stale(shard):
                refused = self._call_script(shard, parts, answers)
                parts = []
                for part, refusal in refused:
                    try:
                        self._resolve_refusal(part.request.parent, refusal)
                        parts.append(part)
                    except InstaChatError as error:
                        _refuse([part], error, answers)
                if not parts:
                    return
        raise Unavailable(
            f"shard {shard} of Redis keeps refusing; nothing was accepted", "see `instachat status`"
        )

    def _call_script(
        self,
        shard: int,
        parts: list[_PendingCreation],
        answers: list[Accepted | InstaChatError | None],
    ) -> list[tuple[_PendingCreation, Refusal]]:
        """The one call; puts the answers in their places, and returns what was refused, and why."""
        outcome = self._log.accept(
            shard, [part.creation() for part in parts], self._epochs.last_seen(shard)
        )
        return self._record_outcome(shard, parts, outcome, answers)

    def _record_outcome(
        self,
        shard: int,
        parts: list[_PendingCreation],
        outcome: Outcome,
        answers: list[Accepted | InstaChatError | None],
    ) -> list[tuple[_PendingCreation, Refusal]]:
        replies, end, notify = outcome
        self._epochs.observe(shard, end)
        if notify:
            self._notify(shard)
        refused = []
        for part, reply in zip(parts, replies, strict=True):
            if isinstance(reply, Refusal):
                refused.append((part, reply))
                continue
            first, last, entry = reply
            if len(part.positions) == 1:  # of chats, and of deletions, no texts are counted
                answers[part.positions[0][0]] = Accepted(first, last, shard, entry)
                continue
            for place, count in part.positions:
                answers[place] = Accepted(first, first + count - 1, shard, entry)
                first += count
        return refused

    def _resolve_refusal(self, parent: Parent, refusal: Refusal) -> None:
        """Remove the cause of a refusal, so that the request can be asked again; or raise it."""
        if refusal.reason == "counter":
            self._counters.verify(Parent(parent.token))
            if refusal.subject == "chat":
                self._counters.verify(parent)
        elif refusal.reason == "closed":
            # Decided or not? SQL knows: verifying raises NotFound for what is gone.
            closed = parent if refusal.subject == "chat" else Parent(parent.token)
            self._counters.verify(closed)
            raise Closing(f"{closed} is being deleted at this moment", "try again in a moment")
        elif refusal.reason == "reused":
            raise key_reused_error()
        else:
            raise Failed(
                f"Redis holds something foreign under the key of the {refusal.subject}; "
                "nothing was accepted",
                "another program writes to this Redis: give InstaChat one of its own",
            )


def _refuse(
    parts: Sequence[_PendingCreation],
    error: InstaChatError,
    answers: list[Accepted | InstaChatError | None],
) -> None:
    """Have the error for answer, unless there is one already."""
    for part in parts:
        for place, _ in part.positions:
            answers[place] = answers[place] or error
