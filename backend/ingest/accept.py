"""Accept: issues a number now; the drain stores the row later.

A request is passed to one script in Redis, which issues its numbers and appends its events in one atomic
step. A refusal by the script has changed nothing, so its cause is removed (the counter is verified, a new
epoch begun) and the request is sent again. A call whose reply was lost is never repeated here.

Requests for messages of the same chat that arrive together become one creation for the script and one entry
of the log, so that they share its cost in Redis and in the drain.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from backend.domain.errors import (
    Closing,
    InstaChatError,
    NumbersExhausted,
    RateLimited,
    Unavailable,
)
from backend.domain.events import pack_message, pack_messages
from backend.domain.model import (
    Accepted,
    NewMessage,
    Parent,
)
from backend.ingest.backlog_limit import BacklogLimit
from backend.ingest.counters import Counters
from backend.ingest.epochs import Epochs
from backend.ingest.key_limit import KeyLimit
from backend.ingest.requests import AcceptRequest, key_reused_error
from backend.ingest.routing import Routing
from backend.storage.redis.accept import read_single_messages
from backend.storage.redis.errors import (
    backlog_full_error,
    foreign_data_error,
    keys_full_error,
    overdue_error,
)
from backend.storage.redis.log import Log
from backend.storage.redis.types import (
    AcceptOutcome,
    AcceptResult,
    Creation,
    Refusal,
    ShardBatch,
    SingleMessages,
)

if TYPE_CHECKING:
    from backend.storage.redis.accept_async import AsyncAcceptClient

ReceiveAnswers = Callable[[list[Accepted | InstaChatError | None] | Exception], object]
"""Takes an answer to each request, as `Acceptor.try_accept` returns them, or what was raised instead."""
MAX_ATTEMPTS = 6
MAX_ROUTES = 4  # of one request: its application may move more than once meanwhile
MAX_KEY_LENGTH = 255
logger = logging.getLogger(__name__)


class _PendingCreation(Creation, gc=False):
    """A creation of a batch, and its requests: the places of the first, and of those that have joined it.

    `joined` has each request's place and how many numbers it asks for, the first request's, too; it is empty
    while there is only one.
    """

    place: int = 0
    new_messages: Sequence[NewMessage] = ()
    joined: list[tuple[int, int]] | None = None

    def join(self, place: int, new_messages: Sequence[NewMessage]) -> None:
        """Add another request's messages."""
        if self.joined is None:
            self.joined = [(self.place, len(self.new_messages))]
            self.new_messages = list(self.new_messages)
            self.payloads = ()
        self.joined.append((place, len(new_messages)))
        self.new_messages += new_messages  # type: ignore[operator]

    def pack(self) -> None:
        """Pack the new messages, if they are not packed yet."""
        if not self.payloads:
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
        self,
        log: Log,
        epochs: Epochs,
        routing: Routing,
        counters: Counters,
        backlog_limit: BacklogLimit,
        key_limit: KeyLimit,
        notify: Callable[[int], object],
    ) -> None:
        self._log = log
        self._epochs = epochs
        self._routing = routing
        self._counters = counters
        self._backlog_limit = backlog_limit
        self._key_limit = key_limit
        self._notify = notify

    def accept(self, request: AcceptRequest) -> Accepted:
        """Accept one request.

        When this returns, the numbers are issued for good and the events are in the log, under `strict` on
        disk. Raises NotFound, Closing, KeyReused, NumbersExhausted, LogFull or EngineDown if nothing was
        accepted; Unconfirmed if that is not known.
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
        shards = self._group_by_shard(requests, answers)
        for _ in range(MAX_ROUTES):
            elsewhere: list[_PendingCreation] = []
            for shard, parts in shards.items():
                try:
                    left = self._find_earlier_answers(parts, answers)
                    elsewhere += self._accept_in_shard(shard, left, answers)
                except InstaChatError as error:
                    _refuse(parts, error, answers)
            shards = self._group_parts(elsewhere)
            if not shards:
                break
        return [
            a or Unavailable("the application is being moved to another shard", "try again")
            for a in answers
        ]

    def try_accept(
        self, requests: Sequence[AcceptRequest]
    ) -> list[Accepted | InstaChatError | None]:
        """As `accept_batch`, but with one attempt per shard and without SQL.

        The answer is None where `accept_batch` would verify a counter, begin an epoch, follow a shard to
        another node or an application to another shard first: nothing was accepted, and the caller passes the
        request to `accept_batch`.
        """
        answers: list[Accepted | InstaChatError | None] = [None] * len(requests)
        shards = self._group_by_shard(requests, answers, skip_keys=self._routing.may_have_left_keys)
        self._record_outcomes(shards, self._log.accept_each(self._batches(shards)), answers)
        return answers

    def try_accept_soon(
        self,
        requests: Sequence[AcceptRequest],
        client: "AsyncAcceptClient",
        receive: ReceiveAnswers,
    ) -> None:
        """As `try_accept`, from an event loop; `receive` gets the answers, or what was raised instead.

        Does not block the loop once this `is_ready`. See `AsyncAcceptClient.accept_soon`.
        """
        if client.can_send_messages and (messages := self._group_single_messages(requests)):
            self._accept_messages_soon(messages, len(requests), client, receive)
            return
        answers: list[Accepted | InstaChatError | None] = [None] * len(requests)
        shards = self._group_by_shard(requests, answers, skip_keys=self._routing.may_have_left_keys)

        def receive_results(results: list[AcceptResult] | Exception) -> None:
            self._receive_results(shards, results, answers, receive)

        if shards:
            client.accept_soon(self._batches(shards), receive_results)
        else:
            receive(answers)

    def _accept_messages_soon(
        self,
        messages: SingleMessages,
        requests: int,
        client: "AsyncAcceptClient",
        receive: ReceiveAnswers,
    ) -> None:
        """As `try_accept_soon`, for so many requests for one message each, of different chats.

        Most calls are such if many applications create at once. This takes half of the time, because it
        makes no creation for each request, and no batch and no outcome for each shard, unless one is refused.
        """
        answers: list[Accepted | InstaChatError | None] = [None] * requests

        def take_reply(reply: list[Any]) -> bool:
            try:
                ends = read_single_messages(messages, reply, answers)
                if ends is None:
                    return False
                self._epochs.observe_each([(shard, end) for shard, end, _ in ends])
                for shard, _, must_notify in ends:
                    if must_notify:
                        self._notify(shard)
            except Exception as error:  # noqa: BLE001  # as in `_receive_results`
                receive(error)
            else:
                receive(answers)
            return True

        def receive_results(results: list[AcceptResult] | Exception) -> None:
            shards = {
                shard: [
                    _PendingCreation("messages", parent, [(1, payload)], place=place)
                    for parent, payload, place in added
                ]
                for shard, added in messages.items()
            }
            self._receive_results(shards, results, answers, receive)

        last_seen = self._epochs.last_seen
        ends = [last_seen(shard) for shard in messages]
        client.accept_messages_soon(messages, ends, take_reply, receive_results)

    def _group_single_messages(self, requests: Sequence[AcceptRequest]) -> SingleMessages | None:
        """The messages of each shard; None if a request is for something else, or is refused here."""
        if len({request.parent for request in requests}) < len(requests):
            return None  # messages of one chat become one entry
        shards: dict[int, list[tuple[Parent, bytes, int]]] = {}
        shard_of, overdue = self._routing.shard, self._epochs.overdue
        full = self._backlog_limit.full
        for place, request in enumerate(requests):
            parent, new_messages = request.parent, request.new_messages
            if len(new_messages) != 1 or request.key:
                return None
            token, chat = parent
            try:
                shard = shard_of(token)
            except InstaChatError:
                return None
            if token in overdue or shard in full:
                return None
            message = parent, pack_message(token, chat or 0, new_messages[0]), place
            if added := shards.get(shard):
                added.append(message)
            else:
                shards[shard] = [message]
        return shards

    def _receive_results(
        self,
        shards: _ShardCreations,
        results: list[AcceptResult] | Exception,
        answers: list[Accepted | InstaChatError | None],
        receive: ReceiveAnswers,
    ) -> None:
        try:
            if isinstance(results, Exception):
                raise results
            self._record_outcomes(shards, results, answers)
        except Exception as error:  # noqa: BLE001  # every request gets an answer, whatever is raised
            receive(error)
        else:
            receive(answers)

    @property
    def is_ready(self) -> bool:
        """Whether what an attempt needs from SQL was read, by `refresh` or by the first attempt."""
        return self._epochs.is_loaded and self._routing.is_loaded

    def shard(self, token: str) -> int:
        """The shard of an application. Does not block once this `is_ready`."""
        return self._counters.shard(token)

    @property
    def route_changes(self) -> int:
        """As long as this number stays, so do the answers of `shard`."""
        return self._routing.changes

    def refresh(self) -> None:
        """See `Routing.refresh`, `Epochs.refresh`, `BacklogLimit.refresh` and `KeyLimit.refresh`."""
        self._routing.refresh()
        self._epochs.refresh()
        self._backlog_limit.refresh()
        self._key_limit.refresh()

    def with_notify(self, notify: Callable[[int], object]) -> "Acceptor":
        """This acceptor with another `notify`."""
        return Acceptor(
            self._log,
            self._epochs,
            self._routing,
            self._counters,
            self._backlog_limit,
            self._key_limit,
            notify,
        )

    def _group_by_shard(
        self,
        requests: Sequence[AcceptRequest],
        answers: list[Accepted | InstaChatError | None],
        *,
        skip_keys: bool = False,
    ) -> _ShardCreations:
        """The creations of each shard; a request without a known shard is answered with an error.

        With `skip_keys` requests with an idempotency key are left out.
        """
        shards: _ShardCreations = {}
        open_: dict[Parent, _PendingCreation] = {}
        """Creations that further messages of that chat can join: only messages came after them."""
        shard_of, overdue, full = (
            self._routing.shard,
            self._epochs.overdue,
            self._backlog_limit.full,
        )
        for place, request in enumerate(requests):
            parent, kind, key = request.parent, request.kind, request.key
            joins = kind == "messages" and not key
            if joins and (part := open_.get(parent)):
                part.join(place, request.new_messages)
                continue
            if key and skip_keys:
                open_.clear()
                continue
            token = parent.token
            try:
                shard = shard_of(token)
                if token in overdue:
                    raise overdue_error()
                if shard in full:
                    raise backlog_full_error()
                if key and shard in self._key_limit.full:
                    raise keys_full_error()
            except InstaChatError as error:
                answers[place] = error
                continue
            new_messages, payloads = request.new_messages, request.packed
            if (
                len(new_messages) == 1
            ):  # most requests; what many ask for is packed when all are there
                payloads = pack_messages(token, parent.chat or 0, new_messages)
            part = _PendingCreation(
                kind, parent, payloads, key, request.body_hash, place, new_messages
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

    def _group_parts(self, parts: Sequence[_PendingCreation]) -> _ShardCreations:
        shards: _ShardCreations = {}
        for part in parts:
            shards.setdefault(self._counters.shard(part.parent.token), []).append(part)
        return shards

    def _find_earlier_answers(
        self, parts: Sequence[_PendingCreation], answers: list[Accepted | InstaChatError | None]
    ) -> list[_PendingCreation]:
        """Answer requests whose idempotency keys are in shards that were left; returns the others.

        Nothing adds a key there any more.
        """
        if not self._routing.may_have_left_keys and not any(
            part.key and self._routing.known_placement(part.parent.token) for part in parts
        ):
            return list(parts)
        left: list[_PendingCreation] = []
        for part in parts:
            if part.key and (answer := self._find_earlier_answer(part)):
                answers[part.place] = answer
            else:
                left.append(part)
        return left

    def _find_earlier_answer(self, part: _PendingCreation) -> Accepted | InstaChatError | None:
        for shard in reversed(self._routing.learn(part.parent.token).left_shards):
            found = self._log.find_idempotency_key(shard, part.key)
            if found is not None:
                body_hash, accepted = found
                return accepted if body_hash == part.body_hash else key_reused_error()
        return None

    def _batches(self, shards: _ShardCreations) -> list[ShardBatch]:
        last_seen = self._epochs.last_seen
        for parts in shards.values():
            for part in parts:
                if not part.payloads:
                    part.pack()
        return [ShardBatch(shard, parts, last_seen(shard)) for shard, parts in shards.items()]

    def _record_outcomes(
        self,
        shards: _ShardCreations,
        outcomes: Sequence[AcceptResult],
        answers: list[Accepted | InstaChatError | None],
    ) -> None:
        self._epochs.observe_each(
            [
                (shard, outcome.end)
                for shard, outcome in zip(shards, outcomes)  # noqa: B905
                if isinstance(outcome, AcceptOutcome)
            ]
        )
        for (shard, parts), outcome in zip(shards.items(), outcomes):  # noqa: B905
            if isinstance(outcome, AcceptOutcome):
                self._record_outcome(shard, parts, outcome, answers)
            elif isinstance(outcome, InstaChatError):
                _refuse(parts, outcome, answers)

    def _accept_in_shard(
        self,
        shard: int,
        parts: list[_PendingCreation],
        answers: list[Accepted | InstaChatError | None],
    ) -> list[_PendingCreation]:
        """Accept creations in a shard; returns those whose applications are in another one."""
        elsewhere: list[_PendingCreation] = []
        for _ in range(MAX_ATTEMPTS):
            if not parts:
                return elsewhere
            with self._epochs.renewed_on_stale(shard):
                refused = self._call_script(shard, parts, answers)
                parts = []
                for part, refusal in refused:
                    try:
                        is_here = self._resolve_refusal(shard, part.parent, refusal)
                        (parts if is_here else elsewhere).append(part)
                    except InstaChatError as error:
                        _refuse([part], error, answers)
        if not parts:
            return elsewhere
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
        self._epochs.observe(shard, outcome.end)
        return self._record_outcome(shard, parts, outcome, answers)

    def _record_outcome(
        self,
        shard: int,
        parts: list[_PendingCreation],
        outcome: AcceptOutcome,
        answers: list[Accepted | InstaChatError | None],
    ) -> list[tuple[_PendingCreation, Refusal]]:
        if outcome.must_notify:
            self._notify(shard)
        refused = []
        # Here and in `_record_outcomes`, `strict` would take as long as the rest of a request.
        for part, reply in zip(parts, outcome.answers):  # noqa: B905
            if isinstance(reply, Refusal):
                if reply.reason == "limited":  # nothing can be done about it
                    _refuse([part], _rate_limited_error(reply), answers)
                else:
                    refused.append((part, reply))
            elif not part.joined:
                answers[part.place] = reply
            else:
                first = reply.first
                for place, count in part.joined:
                    answers[place] = Accepted(first, first + count - 1, shard, reply.entry)
                    first += count
        return refused

    def _resolve_refusal(self, shard: int, parent: Parent, refusal: Refusal) -> bool:
        """Remove the cause of a refusal, so that the request can be sent again; or raise an error for it.

        Returns False if it must be sent to another shard.
        """
        if refusal.reason == "counter":
            self._counters.verify(Parent(parent.token))
            if refusal.subject == "chat":
                self._counters.verify(parent)
        elif refusal.reason == "closed":
            # If the deletion is decided, this raises NotFound.
            closed = parent if refusal.subject == "chat" else Parent(parent.token)
            self._counters.verify(closed)
            if self._counters.shard(parent.token) != shard:
                return False
            raise Closing(f"{closed} is being deleted at this moment", "try again in a moment")
        elif refusal.reason == "reused":
            raise key_reused_error()
        elif refusal.reason == "exhausted":
            raise NumbersExhausted(
                f"{parent} has issued its last number; nothing was created",
                "create in another application"
                if parent.chat is None
                else "create in another chat",
            )
        else:
            raise foreign_data_error(refusal.subject)
        return self._counters.shard(parent.token) == shard


def _rate_limited_error(refusal: Refusal) -> RateLimited:
    rate, wait = refusal.subject.split(" ")
    return RateLimited(int(rate), int(wait) / 1_000_000)


def _refuse(
    parts: Sequence[_PendingCreation],
    error: InstaChatError,
    answers: list[Accepted | InstaChatError | None],
) -> None:
    """Answer the requests of these creations with an error, unless they have an answer already."""
    for part in parts:
        for place in part.places:
            answers[place] = answers[place] or error
