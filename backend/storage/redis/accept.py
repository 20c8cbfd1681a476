"""Accepting: issues numbers and appends events, in one atomic call of a script."""

from collections.abc import Sequence
from typing import Any

from redis.cluster import RedisCluster
from redis.exceptions import NoScriptError, ResponseError

from backend.domain.errors import EngineDown, InstaChatError, LogFull, Unconfirmed
from backend.domain.model import EntryId, Parent
from backend.storage.redis.client import CONNECT_TIMEOUT_SECONDS, REPLY_TIMEOUT_SECONDS, text
from backend.storage.redis.errors import foreign_data_error, translate_errors
from backend.storage.redis.idempotency_keys import IDEMPOTENCY_KEY_TTL_SECONDS
from backend.storage.redis.keys import member_name
from backend.storage.redis.memory import MemoryCalls
from backend.storage.redis.script_loader import SHAS
from backend.storage.redis.types import (
    AcceptOutcome,
    AcceptResult,
    Assigned,
    Creation,
    Refusal,
    ShardBatch,
    StaleEpoch,
)

WAKE_UP_TTL_MILLISECONDS = 2_000  # after this, a wake-up whose job was lost is repeated
DEFAULT_MAX_ENTRIES = 1_000_000  # in one shard's log, without a setting


class AcceptCalls(MemoryCalls):
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
        self._check_memory()
        keys, arguments = self._accept_arguments(shard, batch, last_seen)
        try:
            with self.unconfirmed_on_lost_reply():
                reply = self._call("accept", keys, arguments, durably=True)
        except ResponseError as error:
            raise _translate_script_error(error) from error
        return _parse_reply(shard, reply)

    def accept_each(self, batches: Sequence[ShardBatch]) -> list[AcceptResult]:
        """Accept the batches of several shards; returns an outcome or an error for each.

        On a single server without replicas this is one round trip, and under `strict` one fsync. If a
        server that holds all shards does not answer, the remaining batches are not sent.
        """
        if len(batches) > 1 and self.is_single_server:
            try:
                return self._accept_together(batches)
            except InstaChatError as error:
                return [error] * len(batches)
        results: list[AcceptResult] = []
        outage: EngineDown | None = None
        for batch in batches:
            try:
                if outage:
                    raise outage
                results.append(self.accept(*batch))
            except (InstaChatError, StaleEpoch) as error:
                results.append(error)
                if not isinstance(self.redis, RedisCluster) and isinstance(
                    error, EngineDown | Unconfirmed
                ):
                    outage = EngineDown(error.message, error.hint)
        return results

    def _accept_together(self, batches: Sequence[ShardBatch]) -> list[AcceptResult]:
        self._check_memory()
        with self.translate_errors():
            pipe = self.redis.pipeline(transaction=False)
            for batch in batches:
                pipe.execute_command(*self.accept_command(*batch))
        with self.unconfirmed_on_lost_reply(), self.translate_errors():
            replies = pipe.execute(raise_on_error=False)
        results: list[AcceptResult] = []
        for batch, reply in zip(batches, replies, strict=True):
            if isinstance(reply, NoScriptError):  # nothing ran
                try:
                    results.append(self.accept(*batch))
                except (InstaChatError, StaleEpoch) as error:
                    results.append(error)
            else:
                results.append(parse_accept_reply(self.url, batch[0], reply))
        return results

    # -- for AsyncAcceptClient ---------------------------------------------------------------------

    @property
    def is_single_server(self) -> bool:
        """Whether accepting needs one reply of one server: no cluster, and no replicas to wait for."""
        return not isinstance(self.redis, RedisCluster) and not self._replicas

    def accept_command(
        self, shard: int, batch: Sequence[Creation], last_seen: EntryId
    ) -> tuple[str | int | bytes, ...]:
        """The command that `accept` sends."""
        keys, arguments = self._accept_arguments(shard, batch, last_seen)
        return "EVALSHA", SHAS["accept"], len(keys), *keys, *arguments

    def _accept_arguments(
        self, shard: int, batch: Sequence[Creation], last_seen: EntryId
    ) -> tuple[list[str], list[str | int | bytes]]:
        keys = [self.key(shard, name) for name in ("epoch", "log", "dirty", "wake-up")]
        arguments: list[str | int | bytes] = [
            last_seen.epoch,
            last_seen.sequence,
            self._max_entries,
            IDEMPOTENCY_KEY_TTL_SECONDS,
            WAKE_UP_TTL_MILLISECONDS,
        ]
        for creation in batch:
            token, chat = creation.parent
            application = self.counter_key(shard, Parent(token))
            keys += (
                application,
                application if chat is None else self.counter_key(shard, creation.parent),
                self.key(shard, f"key:{creation.key}") if creation.key else application,
            )
            arguments += (
                creation.kind,
                member_name(creation.parent),
                creation.body_hash,
                self.key(shard, f"chat:{token}:"),
                len(creation.payloads),
            )
            for count, payload in creation.payloads:
                arguments += (count, payload)
        return keys, arguments


def parse_accept_reply(url: str, shard: int, reply: Any) -> AcceptResult:
    """The meaning of the accept script's reply, or of Redis's error in its place; never raises."""
    try:
        if isinstance(reply, Exception):
            with translate_errors(url):
                raise reply
        return _parse_reply(shard, reply)
    except ResponseError as error:
        return _translate_script_error(error)
    except (InstaChatError, StaleEpoch) as error:
        return error


def _parse_reply(shard: int, reply: Any) -> AcceptOutcome:
    """The outcome that the accept script has returned; raises a refusal of the whole batch."""
    match reply:
        case [b"ok", epoch, sequence, notify, answers]:
            return AcceptOutcome(
                [_parse_answer(answer) for answer in answers],
                EntryId(int(epoch), int(sequence)),
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


def _translate_script_error(error: ResponseError) -> StaleEpoch | Unconfirmed:
    """The meaning of an error that the script has raised: its first write was refused, or unknown."""
    if "equal or smaller" in str(error):
        return StaleEpoch("the log is ahead")
    return Unconfirmed(
        f"Redis ended the accept script ({type(error).__name__}): it is not known whether this was accepted",
        "see Redis's log; check what was created before you repeat the request",
    )


def _parse_answer(reply: list[Any]) -> Assigned | Refusal:
    if reply[0] == b"ok":
        _, first, last, entry = reply
        return Assigned(int(first), int(last), EntryId.parse(text(entry)))
    return Refusal(*(text(part) for part in reply))
