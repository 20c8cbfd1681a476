"""Accepting: issues numbers and appends events, in one atomic call of a script."""

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from msgspec.msgpack import Encoder as MessagePackEncoder
from redis.exceptions import ResponseError

from backend.domain.errors import InstaChatError, LogFull, Unconfirmed
from backend.domain.model import Accepted, EntryId, Parent
from backend.domain.plurals import counted
from backend.storage.redis.appended import is_appended, split_reply
from backend.storage.redis.client import CONNECT_TIMEOUT_SECONDS, REPLY_TIMEOUT_SECONDS, text
from backend.storage.redis.errors import foreign_data_error, translate_errors
from backend.storage.redis.idempotency_keys import IDEMPOTENCY_KEY_TTL_SECONDS
from backend.storage.redis.keys import counter_key, shard_key
from backend.storage.redis.readiness import ReadinessCalls
from backend.storage.redis.script_loader import SHAS
from backend.storage.redis.types import (
    AcceptOutcome,
    AcceptResult,
    Creation,
    Refusal,
    ShardBatch,
    ShardMoved,
    SingleMessages,
    StaleEpoch,
)

NOTIFY_AGAIN_MICROSECONDS = 2_000_000  # after this, a wake-up whose job was lost is repeated
DEFAULT_MAX_ENTRIES = 1_000_000  # in one shard's log, without a setting
_pack = MessagePackEncoder().encode
ShardEnd = tuple[int, EntryId, bool]
"""A shard, the end of its log, and whether the caller must request a drain."""
logger = logging.getLogger(__name__)


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
        self.max_entries = max_entries
        self.must_declare_keys = False

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
        keys, arguments = self._accept_arguments(batches, is_declared=self.is_cluster)
        try:
            self._check_readiness(batches[0].shard)
            with self.unconfirmed_on_lost_reply():
                reply = self._call("accept", keys, arguments, durably=True)
        except (InstaChatError, ResponseError) as error:
            return self.accept_results(batches, [error] * len(batches))
        return self.accept_results(batches, split_reply(reply))

    # -- for AsyncAcceptClient ---------------------------------------------------------------------

    def declare_keys(self, error: Exception) -> None:
        """From now on `must_declare_keys`: a node of the cluster has refused a call with that error."""
        if not self.must_declare_keys:
            logger.warning(
                "each shard is accepted by a call of its own, because Redis says: %s", error
            )
        self.must_declare_keys = True

    def accept_command(self, batches: Sequence[ShardBatch]) -> tuple[str | int | bytes, ...]:
        """The command that accepts in the server that is asked; on a cluster, in the shards that it serves.

        Of a cluster where one `must_declare_keys`, only for one shard.
        """
        keys, arguments = self._accept_arguments(batches, is_declared=self.must_declare_keys)
        return "EVALSHA", SHAS["accept"], len(keys), *keys, *arguments

    def single_messages_command(
        self, messages: SingleMessages, last_seen: Sequence[EntryId]
    ) -> tuple[str | int | bytes, ...]:
        """As `accept_command`, for the same creations, in a fraction of the time. Declares no keys."""
        keys: list[str] = []
        payloads: list[bytes] = []
        shards: list[Any] = []
        is_cluster = self.is_cluster
        # Here and in `read_single_messages`, `strict` would take as long as the rest of a shard.
        for (shard, added), known in zip(messages.items(), last_seen):  # noqa: B905
            epoch_key, log_key, dirty_key = _shard_keys(shard)
            keys.append(epoch_key)
            for parent, payload, _ in added:
                keys += _counter_keys(shard, parent)
                payloads.append(payload)
            count = len(added)
            keys_count = 2 * count
            if is_cluster:
                keys += log_key, dirty_key
                keys_count += 2
            counts = [1] * count
            shards.append((known.epoch, known.sequence, keys_count, count, log_key, *counts))
        return (
            *("EVALSHA", SHAS["accept"], 0),
            *(self.max_entries, IDEMPOTENCY_KEY_TTL_SECONDS, NOTIFY_AGAIN_MICROSECONDS),
            _pack((keys, shards, is_cluster)),
            *payloads,
        )

    def accept_results(
        self, batches: Sequence[ShardBatch], replies: Sequence[Any]
    ) -> list[AcceptResult]:
        """The meaning of the parts of the accept script's reply, or of an error in the place of any.

        Never raises. See `split_reply`.
        """
        return [
            _parse_answers(batch, reply)
            if is_appended(reply)
            else _parse_refusal(self.url, batch.shard, reply)
            for batch, reply in zip(batches, replies, strict=True)
        ]

    def _accept_arguments(
        self, batches: Sequence[ShardBatch], *, is_declared: bool
    ) -> tuple[list[str], list[int | bytes]]:
        """The script's KEYS, and its other arguments. Without KEYS it has the names of keys among those."""
        keys: list[str] = []
        payloads: list[bytes] = []
        shards: list[list[Any]] = []
        for batch in batches:
            shard, last_seen = batch.shard, batch.last_seen
            epoch_key, log_key, dirty_key = _shard_keys(shard)
            keys.append(epoch_key)
            keys_before, payloads_before = len(keys), len(payloads)
            requests: list[Any] = [last_seen.epoch, last_seen.sequence, 0, 0, log_key]
            for creation in batch.creations:
                keys += _counter_keys(shard, creation.parent)
                packed = creation.payloads
                if len(packed) == 1 and creation.kind == "messages" and not creation.key:
                    ((count, payload),) = packed
                    requests.append(count)
                    payloads.append(payload)
                    continue
                if creation.key:
                    keys.append(shard_key(shard, f"key:{creation.key}"))
                requests.append(
                    (creation.kind, creation.body_hash, *(count for count, _ in packed))
                )
                payloads += [payload for _, payload in packed]
            if self.is_cluster:
                keys += log_key, dirty_key
            requests[2] = len(keys) - keys_before
            requests[3] = len(payloads) - payloads_before
            shards.append(requests)
        declared, listed = (keys, []) if is_declared else ([], keys)
        return declared, [
            self.max_entries,
            IDEMPOTENCY_KEY_TTL_SECONDS,
            NOTIFY_AGAIN_MICROSECONDS,
            _pack((listed, shards, self.is_cluster and not is_declared)),
            *payloads,
        ]


def read_single_messages(
    messages: SingleMessages, reply: Sequence[Any], answers: list[Any]
) -> list[ShardEnd] | None:
    """Fill in the answers that the accept script's reply has, in a fraction of the time of `accept_results`.

    Returns None, with nothing filled in, if a request or a shard was refused.
    """
    requests = sum(map(len, messages.values()))
    if len(reply) != 4 * len(messages) + requests or set(map(type, reply)) != {int}:
        return None
    ends: list[ShardEnd] = []
    place = 0
    for shard, added in messages.items():
        _, epoch, sequence, notify = reply[place : place + 4]
        place += 4
        end = None
        for _, _, at in added:
            number = reply[place]
            place += 1
            sequence += 1
            end = EntryId(epoch, sequence)
            answers[at] = Accepted(number, number, shard, end)
        ends.append((shard, end or EntryId(epoch, sequence), notify == 1))
    return ends


@lru_cache(maxsize=1024)
def _shard_keys(shard: int) -> tuple[str, ...]:
    return tuple(shard_key(shard, name) for name in ("epoch", "log", "dirty"))


@lru_cache(maxsize=4096)  # formatting them takes as long as the rest of a request's arguments
def _counter_keys(shard: int, parent: Parent) -> tuple[str, str]:
    """The keys of the application's and of the parent's own counter."""
    application = Parent(parent.token)
    return counter_key(shard, application), counter_key(shard, parent)


def _parse_answers(batch: ShardBatch, reply: Sequence[Any]) -> AcceptOutcome:
    """The outcome of a shard's requests, which the accept script has accepted or refused one by one."""
    shard = batch.shard
    _, epoch, sequence, notify, *found = reply
    answers: list[Accepted | Refusal] = []
    # `strict` would take as long as the rest of a request.
    for creation, answer in zip(batch.creations, found):  # noqa: B905
        if type(answer) is not int:
            answers.append(_parse_answer(shard, text(answer)))
            continue
        payloads = creation.payloads
        sequence += len(payloads)
        behind = answer
        for count, _ in payloads:
            behind += count
        answers.append(Accepted(answer, behind - 1, shard, EntryId(epoch, sequence)))
    return AcceptOutcome(answers, EntryId(epoch, sequence), notify == 1)


def _parse_answer(shard: int, answer: str) -> Accepted | Refusal:
    """The answer to a request that got no number now."""
    reason, _, subject = answer.partition(" ")
    if reason == "replayed":
        first, last, entry = subject.split(" ")
        return Accepted(int(first), int(last), shard, EntryId.parse(entry))
    return Refusal(reason, subject)


def _parse_refusal(url: str, shard: int, reply: Any) -> InstaChatError | StaleEpoch | ShardMoved:
    """The error that the script has returned for a whole shard, or that Redis has in its place."""
    try:
        if isinstance(reply, Exception):
            with translate_errors(url):
                raise reply
    except ResponseError as error:
        return translate_script_error(error)
    except (InstaChatError, StaleEpoch, ShardMoved) as error:
        return error
    match reply:
        case [b"full", entries]:
            return LogFull(
                f"the log of shard {shard} holds {counted(entries, 'event that is', 'events that are')} not"
                " stored yet; nothing was accepted",
                "see `instachat status`: is a worker running, does PostgreSQL answer?",
            )
        case [b"broken", subject]:
            return foreign_data_error(text(subject), shard)
    return StaleEpoch(text(reply[1]))


def translate_script_error(error: ResponseError) -> StaleEpoch | Unconfirmed:
    """The meaning of an error of a script that appends: its first write was refused, or it is unknown."""
    if "equal or smaller" in str(error):
        return StaleEpoch("the log is ahead")
    return Unconfirmed(
        f"Redis ended the accept script ({type(error).__name__}): it is not known whether this was accepted",
        "see Redis's log; check what was created before you repeat the request",
    )
