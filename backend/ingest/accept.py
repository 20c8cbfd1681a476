"""Accept: issues a number now; the drain stores the row later.

A request is passed to one script in Redis, which issues its numbers and appends its events in one atomic
step. A refusal by the script has changed nothing, so its cause is removed (the counter is verified, a new
epoch begun) and the request is sent again. A call whose reply was lost is never repeated here.

Requests for messages of the same chat that arrive together become one creation for the script and one entry
of the log, so that they share its cost in Redis and in the drain.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from backend.domain.errors import Closing, InstaChatError, Unavailable
from backend.domain.events import pack_messages
from backend.domain.model import (
    Accepted,
    NewMessage,
    Parent,
)
from backend.ingest.counters import Counters
from backend.ingest.epochs import Epochs
from backend.ingest.requests import AcceptRequest, key_reused_error
from backend.storage.redis.errors import foreign_data_error
from backend.storage.redis.log import Log
from backend.storage.redis.types import (
    AcceptOutcome,
    AcceptResult,
    Creation,
    Refusal,
    ShardBatch,
)

if TYPE_CHECKING:
    from backend.storage.redis.accept_async import AsyncAcceptClient

MAX_ATTEMPTS = 6
MAX_KEY_LENGTH = 255
logger = logging.getLogger(__name__)


class _PendingCreation(Creation, kw_only=True, gc=False):
    """A creation of a batch, and its requests: the places of the first, and of those that have joined it.

    `joined` has each request's place and how many numbers it asks for, the first request's, too; it is empty
    while there is only one. New messages are packed when all are there.
    """

    place: int
    new_messages: Sequence[NewMessage]
    joined: list[tuple[int, int]] | None = None

    def join(self, place: int, new_messages: Sequence[NewMessage]) -> None:
        """Add another request's messages."""
        if self.joined is None:
            self.joined = [(self.place, len(self.new_messages))]
            self.new_messages = list(self.new_messages)
        self.joined.append((place, len(new_messages)))
        self.new_messages += new_messages  # type: ignore[operator]

    def pack(self) -> None:
        """Pack the new messages, if it has any and they are not packed yet."""
        if self.new_messages and not self.payloads:
            token, chat = self.parent
            assert chat
            self.payloads = pack_messages(token, chat, self.new_messages)

    @property
    def places(self) -> list[int]:
        """The places of all its requests."""
        return [place for place, _ in self.joined] if self.joined else [self.place]


_ShardCreations = dict[int, list[_PendingCreation]]
"""By shard, in the order of the requests."""


class Acceptor:
    """Issues numbers. Thread-safe.

    `notify` is called with a shard whose log has new entries and whose drain is not requested yet; it must
    not raise.
    """

    def __init__(
        self, log: Log, epochs: Epochs, counters: Counters, notify: Callable[[int], object]
    ) -> None:
        self._log = log
        self._epochs = epochs
        self._counters = counters
        self._notify = notify

    def accept(self, request: AcceptRequest) -> Accepted:
        """Accept one request.

        When this returns, the numbers are issued for good and the events are in the log, under `strict` on
        disk. Raises NotFound, Closing, KeyReused, LogFull or EngineDown if nothing was accepted; Unconfirmed
        if that is not known.
        """
        answer = self.accept_batch([request])[0]
        if isinstance(answer, InstaChatError):
            raise answer
        return answer

    def accept_batch(self, requests: Sequence[AcceptRequest]) -> list[Accepted | InstaChatError]:
        """Accept many requests, of any applications, in one call per shard; returns an answer to each.

        The requests of a shard get their numbers atomically and in this order. Each has an answer of its own,
        and those with the same idempotency key count as one request.
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
        """As `accept_batch`, but with one attempt per shard and without SQL.

        The answer is None where `accept_batch` would verify a counter, begin an epoch or follow a shard to
        another node first: nothing was accepted, and the caller passes the request to `accept_batch`.
        """
        answers: list[Accepted | InstaChatError | None] = [None] * len(requests)
        shards = self._group_by_shard(requests, answers)
        self._record_outcomes(shards, self._log.accept_each(self._batches(shards)), answers)
        return answers

    async def try_accept_async(
        self, requests: Sequence[AcceptRequest], log: "AsyncAcceptClient"
    ) -> list[Accepted | InstaChatError | None]:
        """As `try_accept`, from an event loop. Does not block the loop once this `is_ready`."""
        answers: list[Accepted | InstaChatError | None] = [None] * len(requests)
        shards = self._group_by_shard(requests, answers)
        self._record_outcomes(shards, await log.accept_each(self._batches(shards)), answers)
        return answers

    @property
    def is_ready(self) -> bool:
        """Whether what an attempt needs from SQL was read, by `refresh` or by the first attempt."""
        return self._epochs.is_loaded

    def shard(self, token: str) -> int:
        """The shard of an application. Does not block once this `is_ready`."""
        return self._counters.shard(token)

    def refresh(self) -> None:
        """See `Epochs.refresh`."""
        self._epochs.refresh()

    def with_notify(self, notify: Callable[[int], object]) -> "Acceptor":
        """This acceptor with another `notify`."""
        return Acceptor(self._log, self._epochs, self._counters, notify)

    def _group_by_shard(
        self, requests: Sequence[AcceptRequest], answers: list[Accepted | InstaChatError | None]
    ) -> _ShardCreations:
        """The creations of each shard; a request without a known shard is answered with an error."""
        shards: _ShardCreations = {}
        open_: dict[Parent, _PendingCreation] = {}
        """Creations that further messages of that chat can join: only messages came after them."""
        for place, request in enumerate(requests):
            parent, kind, key = request.parent, request.kind, request.key
            joins = kind == "messages" and not key
            if joins and (part := open_.get(parent)):
                part.join(place, request.new_messages)
                continue
            try:
                shard = self._counters.shard(parent.token)
            except InstaChatError as error:
                answers[place] = error
                continue
            part = _PendingCreation(
                kind,
                parent,
                request.packed,
                key,
                request.body_hash,
                place=place,
                new_messages=request.new_messages,
            )
            if parts := shards.get(shard):
                parts.append(part)
            else:
                shards[shard] = [part]
            if joins:
                open_[parent] = part
            else:
                open_.clear()  # so that no message overtakes this request
        return shards

    def _batches(self, shards: _ShardCreations) -> list[ShardBatch]:
        for parts in shards.values():
            for part in parts:
                part.pack()
        return [
            ShardBatch(shard, parts, self._epochs.last_seen(shard))
            for shard, parts in shards.items()
        ]

    def _record_outcomes(
        self,
        shards: _ShardCreations,
        outcomes: Sequence[AcceptResult],
        answers: list[Accepted | InstaChatError | None],
    ) -> None:
        for (shard, parts), outcome in zip(shards.items(), outcomes, strict=True):
            if isinstance(outcome, InstaChatError):
                _refuse(parts, outcome, answers)
            elif isinstance(outcome, AcceptOutcome):
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
                        self._resolve_refusal(part.parent, refusal)
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
        """Call the script once; fills in the answers, and returns the refused creations with the refusals."""
        for part in parts:
            part.pack()
        outcome = self._log.accept(shard, parts, self._epochs.last_seen(shard))
        return self._record_outcome(shard, parts, outcome, answers)

    def _record_outcome(
        self,
        shard: int,
        parts: list[_PendingCreation],
        outcome: AcceptOutcome,
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
            elif part.joined is None:
                answers[part.place] = reply
            else:
                first = reply.first
                for place, count in part.joined:
                    answers[place] = Accepted(first, first + count - 1, shard, reply.entry)
                    first += count
        return refused

    def _resolve_refusal(self, parent: Parent, refusal: Refusal) -> None:
        """Remove the cause of a refusal, so that the request can be sent again; or raise an error for it."""
        if refusal.reason == "counter":
            self._counters.verify(Parent(parent.token))
            if refusal.subject == "chat":
                self._counters.verify(parent)
        elif refusal.reason == "closed":
            # If the deletion is decided, this raises NotFound.
            closed = parent if refusal.subject == "chat" else Parent(parent.token)
            self._counters.verify(closed)
            raise Closing(f"{closed} is being deleted at this moment", "try again in a moment")
        elif refusal.reason == "reused":
            raise key_reused_error()
        else:
            raise foreign_data_error(refusal.subject)


def _refuse(
    parts: Sequence[_PendingCreation],
    error: InstaChatError,
    answers: list[Accepted | InstaChatError | None],
) -> None:
    """Answer the requests of these creations with an error, unless they have an answer already."""
    for part in parts:
        for place in part.places:
            answers[place] = answers[place] or error
