"""Accepting: issues numbers and appends events, in one atomic call of a script."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from msgspec.msgpack import Encoder as MessagePackEncoder
from redis.exceptions import ResponseError

from backend.domain.errors import InstaChatError, LogFull, Unconfirmed
from backend.domain.model import Accepted, EntryId, Parent
from backend.storage.redis.client import CONNECT_TIMEOUT_SECONDS, REPLY_TIMEOUT_SECONDS, text
from backend.storage.redis.errors import foreign_data_error, translate_errors
from backend.storage.redis.idempotency_keys import IDEMPOTENCY_KEY_TTL_SECONDS
from backend.storage.redis.keys import counter_key, member_name, shard_key
from backend.storage.redis.readiness import ReadinessCalls
from backend.storage.redis.script_loader import SHAS
from backend.storage.redis.types import (
    AcceptOutcome,
    AcceptResult,
    Creation,
    Refusal,
    ShardBatch,
    ShardMoved,
    StaleEpoch,
)

WAKE_UP_TTL_MILLISECONDS = 2_000  # after this, a wake-up whose job was lost is repeated
DEFAULT_MAX_ENTRIES = 1_000_000  # in one shard's log, without a setting
_pack = MessagePackEncoder().encode


class AcceptCalls(ReadinessCalls):
    """Accepts creations, while Redis has room for them."""

    def __init__(
        self,
        url: str,
        *,
        replicas: int = 0,
        max_entries: int = DEFAULT_MAX_ENTRIES,
        connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
        reply_timeout_seconds: float = REPLY_TIMEOUT_SECONDS,
    ) -> None:
        super().__init__(
            url,
            replicas=replicas,
            connect_timeout_seconds=connect_timeout_seconds,
            reply_timeout_seconds=reply_timeout_seconds,
        )
        self._max_entries = max_entries

    def accept(self, shard: int, batch: Sequence[Creation], last_seen: EntryId) -> AcceptOutcome:
        """Issue the numbers of a batch and append its events, all in one atomic call.

        `last_seen` is the highest entry of this shard that the caller knows: a Redis in an older epoch, or
        whose log ends before that entry, refuses.

        Raises StaleEpoch or LogFull, with nothing accepted; Unconfirmed when the reply was lost.
        """
        (result,) = self.accept_each([ShardBatch(shard, batch, last_seen)])
        if isinstance(result, Exception):
            raise result
        return result

    def accept_each(self, batches: Sequence[ShardBatch]) -> list[AcceptResult]:
        """Accept the batches of several shards; returns an outcome or an error for each.

        This is one call, and under `strict` one fsync. With a cluster it is one for each shard, to all nodes
        at once; a node that does not answer fails its own shards only.
        """
        if not batches:
            return []
        if not self.is_cluster:
            return self._accept_together(batches)
        results: list[AcceptResult] = [StaleEpoch("not sent")] * len(batches)

        def accept_on_node(places: Sequence[int]) -> None:
            for place in places:
                (results[place],) = self._accept_together([batches[place]])

        keys = [_shard_keys(batch.shard)[0] for batch in batches]
        try:
            self._cluster.run_by_node(keys, accept_on_node)
        except InstaChatError as error:  # no node answers
            return [error] * len(batches)
        return results

    def _accept_together(self, batches: Sequence[ShardBatch]) -> list[AcceptResult]:
        keys, arguments = self._accept_arguments(batches)
        try:
            self._check_readiness(batches[0].shard)
            with self.unconfirmed_on_lost_reply():
                replies = self._call("accept", keys, arguments, durably=True)
        except (InstaChatError, ResponseError) as error:
            replies = [error] * len(batches)
        return self.accept_results(batches, replies)

    # -- for AsyncAcceptClient ---------------------------------------------------------------------

    def accept_command(self, batches: Sequence[ShardBatch]) -> tuple[str | int | bytes, ...]:
        """The command that `accept_each` sends."""
        keys, arguments = self._accept_arguments(batches)
        return "EVALSHA", SHAS["accept"], len(keys), *keys, *arguments

    def accept_results(
        self, batches: Sequence[ShardBatch], replies: Sequence[Any]
    ) -> list[AcceptResult]:
        """The meaning of the accept script's replies, or of an error in the place of any; never raises."""
        return [
            _parse_shard_reply(self.url, batch, reply)
            for batch, reply in zip(batches, replies, strict=True)
        ]

    def _accept_arguments(
        self, batches: Sequence[ShardBatch]
    ) -> tuple[list[str | bytes], list[str | int | bytes]]:
        keys: list[str | bytes] = []
        arguments: list[str | int | bytes] = [
            self._max_entries,
            IDEMPOTENCY_KEY_TTL_SECONDS,
            WAKE_UP_TTL_MILLISECONDS,
        ]
        for batch in batches:
            shard = batch.shard
            request_keys: list[str | bytes] = []
            requests: list[str | int] = []
            payloads: list[bytes] = []
            for creation in batch.creations:
                counters, member = _parent_names(shard, creation.parent)
                request_keys += counters
                if creation.key:
                    request_keys.append(shard_key(shard, f"key:{creation.key}"))
                requests += (creation.kind, member, creation.body_hash, len(creation.payloads))
                for count, payload in creation.payloads:
                    requests.append(count)
                    payloads.append(payload)
            epoch, sequence = batch.last_seen.epoch, batch.last_seen.sequence
            keys += _shard_keys(shard)
            keys += request_keys
            arguments.append(_pack((epoch, sequence, len(request_keys), len(payloads), *requests)))
            arguments += payloads
        return keys, arguments


@lru_cache(maxsize=1024)
def _shard_keys(shard: int) -> tuple[bytes, ...]:
    return tuple(shard_key(shard, name).encode() for name in ("epoch", "log", "dirty", "wake-up"))


@lru_cache(maxsize=4096)  # formatting them takes as long as the rest of a request's arguments
def _parent_names(shard: int, parent: Parent) -> tuple[tuple[bytes, bytes], str]:
    """The keys of the application's and of the parent's own counter; the parent's name in the dirty set."""
    counters = (counter_key(shard, Parent(parent.token)), counter_key(shard, parent))
    return (counters[0].encode(), counters[1].encode()), member_name(parent)


def _parse_shard_reply(url: str, batch: ShardBatch, reply: Any) -> AcceptResult:
    try:
        if isinstance(reply, Exception):
            with translate_errors(url):
                raise reply
        return _parse_reply(batch, reply)
    except ResponseError as error:
        return translate_script_error(error)
    except (InstaChatError, StaleEpoch, ShardMoved) as error:
        return error


def _parse_reply(batch: ShardBatch, reply: Any) -> AcceptOutcome:
    """The outcome that the accept script has returned; raises a refusal of the whole batch."""
    shard = batch.shard
    match reply:
        case [b"ok", epoch, sequence, notify, answers]:
            return AcceptOutcome(
                [
                    _parse_answer(shard, epoch, creation, answer, detail)
                    for creation, answer, detail in zip(
                        batch.creations, answers[::2], answers[1::2], strict=True
                    )
                ],
                EntryId(epoch, sequence),
                bool(notify),
            )
        case [b"full", entries]:
            raise LogFull(
                f"the log of shard {shard} holds {entries:,} events that are not stored yet; "
                "nothing was accepted",
                "see `instachat status`: is a worker running, does PostgreSQL answer?",
            )
        case [b"broken", subject]:
            raise foreign_data_error(text(subject), shard)
    raise StaleEpoch(text(reply[1]))


def translate_script_error(error: ResponseError) -> StaleEpoch | Unconfirmed:
    """The meaning of an error of a script that appends: its first write was refused, or it is unknown."""
    if "equal or smaller" in str(error):
        return StaleEpoch("the log is ahead")
    return Unconfirmed(
        f"Redis ended the accept script ({type(error).__name__}): it is not known whether this was accepted",
        "see Redis's log; check what was created before you repeat the request",
    )


def _parse_answer(
    shard: int, epoch: int, creation: Creation, answer: Any, detail: Any
) -> Accepted | Refusal:
    if isinstance(answer, int):
        last = answer - 1
        for count, _ in creation.payloads:
            last += count
        return Accepted(answer, last, shard, EntryId(epoch, detail))
    if answer == b"replayed":
        numbers = text(detail).split(" ")
        return Accepted(int(numbers[0]), int(numbers[1]), shard, EntryId.parse(numbers[2]))
    return Refusal(text(answer), text(detail))
