"""Accepting: numbers given and events appended, in one atomic call; and idempotency keys."""

import hashlib
import time
from collections.abc import Sequence
from typing import Any

from redis.cluster import RedisCluster
from redis.exceptions import NoScriptError, ResponseError

from backend.domain.errors import EngineDown, InstaChatError, LogFull, Unconfirmed
from backend.domain.model import EntryId, Parent
from backend.storage.redis.client import (
    CONNECT_TIMEOUT_SECONDS,
    REPLY_TIMEOUT_SECONDS,
    RedisClient,
    text,
)
from backend.storage.redis.dirty_counters import member_name
from backend.storage.redis.errors import foreign_data_error, translate_errors
from backend.storage.redis.script_loader import SHAS
from backend.storage.redis.types import Assigned, Creation, Outcome, Refusal, ShardBatch, StaleEpoch

IDEMPOTENCY_KEY_TTL_SECONDS = 24 * 60 * 60
WAKE_UP_TTL_MILLISECONDS = 2_000  # a ring whose job was lost is repeated after this
MAX_MEMORY_SHARE = (
    0.85  # of Redis's limit; beyond it nothing is accepted, so that the queue still works
)
DEFAULT_MAX_ENTRIES = 1_000_000  # in one shard's log, where no setting says otherwise


class AcceptCalls(RedisClient):
    """Accepting creations, as long as Redis has room for them."""

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
        self._memory_read = float("-inf")
        self._memory_share = 0.0

    def accept(self, shard: int, batch: Sequence[Creation], last_seen: EntryId) -> Outcome:
        """Give numbers to a batch and append its events: all of it in one atomic call.

        `last_seen` is the highest entry the caller has seen of this shard: an older life, or a log that
        ends before it, refuses. Returns an answer for each creation, the log's end, and whether the
        caller has to ring the bell.

        Raises StaleEpoch or LogFull, with nothing accepted; Unconfirmed when the answer was lost.
        """
        self._check_memory()
        keys, arguments = self._accept_arguments(shard, batch, last_seen)
        try:
            with self.unconfirmed_on_lost_reply():
                reply = self._call("accept", keys, arguments, durably=True)
        except ResponseError as error:
            raise _translate_script_error(error) from error
        return _parse_reply(shard, reply)

    def accept_each(
        self, batches: Sequence[ShardBatch]
    ) -> "list[Outcome | InstaChatError | StaleEpoch]":
        """As `accept`, for several shards, each with its batch; an outcome or an error for each.

        In one round trip, and under `strict` with one fsync, but for a cluster, or with replicas to wait for.
        Where all shards are on one Redis that does not answer, it is asked no more.
        """
        if len(batches) > 1 and self.is_single_server:
            try:
                return self._accept_together(batches)
            except InstaChatError as error:
                return [error] * len(batches)
        outcomes: list[Outcome | InstaChatError | StaleEpoch] = []
        outage: EngineDown | None = None
        for batch in batches:
            try:
                if outage:
                    raise outage
                outcomes.append(self.accept(*batch))
            except (InstaChatError, StaleEpoch) as error:
                outcomes.append(error)
                if not isinstance(self.redis, RedisCluster) and isinstance(
                    error, EngineDown | Unconfirmed
                ):
                    outage = EngineDown(error.message, error.hint)
        return outcomes

    def _accept_together(
        self, batches: Sequence[ShardBatch]
    ) -> "list[Outcome | InstaChatError | StaleEpoch]":
        self._check_memory()
        with self.translate_errors():
            pipe = self.redis.pipeline(transaction=False)
            for batch in batches:
                pipe.execute_command(*self.accept_command(*batch))
        with self.unconfirmed_on_lost_reply(), self.translate_errors():
            replies = pipe.execute(raise_on_error=False)
        outcomes: list[Outcome | InstaChatError | StaleEpoch] = []
        for batch, reply in zip(batches, replies, strict=True):
            if isinstance(reply, NoScriptError):  # nothing ran
                try:
                    outcomes.append(self.accept(*batch))
                except (InstaChatError, StaleEpoch) as error:
                    outcomes.append(error)
            else:
                outcomes.append(parse_outcome(self.url, batch[0], reply))
        return outcomes

    # -- the same in steps, for who awaits the answer -----------------------------------------------

    @property
    def is_single_server(self) -> bool:
        """Whether one answer of one server is all that accepting waits for."""
        return not isinstance(self.redis, RedisCluster) and not self._replicas

    @property
    def has_fresh_memory_reading(self) -> bool:
        """Whether `raise_if_full` has something to go by: what was read in the last second."""
        return time.monotonic() - self._memory_read <= 1

    def accept_command(
        self, shard: int, batch: Sequence[Creation], last_seen: EntryId
    ) -> tuple[str | int | bytes, ...]:
        """The call of the script, as `accept` makes it, in one command."""
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

    def _check_memory(self) -> None:
        """Refuse while memory is short; read at most once a second."""
        if not self.has_fresh_memory_reading:
            self.read_memory()
        self.raise_if_full()

    def read_memory(self) -> None:
        """Ask Redis how much of its memory it uses."""
        with self.translate_errors():
            nodes = self._info("memory")
        self._memory_share = max(
            (node["used_memory"] / node["maxmemory"] for node in nodes if node.get("maxmemory")),
            default=0.0,
        )
        self._memory_read = time.monotonic()

    def raise_if_full(self) -> None:
        """Raise LogFull if memory was short when it was read last."""
        if self._memory_share > MAX_MEMORY_SHARE:
            raise LogFull(
                f"Redis uses {self._memory_share:.0%} of its memory limit; nothing was accepted",
                "see `instachat status`: is a worker running? Or raise Redis's maxmemory",
            )

    def reserve_idempotency_key(self, shard: int, name: str, value: str) -> str:
        """Keep a value under an idempotency key for a day, unless there is one; returns what is there."""
        with self.translate_errors():
            found: Any = self.redis.set(
                self.key(shard, f"key:{name}"),
                value,
                nx=True,
                ex=IDEMPOTENCY_KEY_TTL_SECONDS,
                get=True,
            )
        return value if found is None else text(found)


def hash_idempotency_key(route: str, key: str) -> str:
    """The name under which an idempotency key is kept: per route, of bounded length."""
    return hashlib.sha256(f"{route}\n{key}".encode("utf-8", "surrogatepass")).hexdigest()


def parse_outcome(url: str, shard: int, reply: Any) -> Outcome | InstaChatError | StaleEpoch:
    """What the accept script's answer, or Redis's error instead of one, means; raises nothing."""
    try:
        if isinstance(reply, Exception):
            with translate_errors(url):
                raise reply
        return _parse_reply(shard, reply)
    except ResponseError as error:
        return _translate_script_error(error)
    except (InstaChatError, StaleEpoch) as error:
        return error


def _parse_reply(shard: int, reply: Any) -> Outcome:
    """What the accept script has answered; raises what it refuses."""
    match reply:
        case [b"ok", epoch, sequence, notify, answers]:
            end = EntryId(int(epoch), int(sequence))
            return [_parse_answer(a) for a in answers], end, bool(notify)
        case [b"full", entries]:
            raise LogFull(
                f"the log of shard {shard} holds {entries:,} events that are not stored yet; "
                "nothing was accepted",
                "see `instachat status`: is a worker running, does PostgreSQL answer?",
            )
        case [b"broken", which]:
            raise foreign_data_error(text(which), shard)
    raise StaleEpoch(text(reply[1]))


def _translate_script_error(error: ResponseError) -> StaleEpoch | Unconfirmed:
    """What Redis's own word against the accept script means: it refused the first write, or nobody knows."""
    if "equal or smaller" in str(error):
        return StaleEpoch("the log is ahead")
    return Unconfirmed(
        f"Redis has ended the accepting script ({type(error).__name__}): it is not known whether this was"
        " accepted",
        "see Redis's log; look at what is there before you repeat it",
    )


def _parse_answer(reply: list[Any]) -> Assigned | Refusal:
    if reply[0] == b"ok":
        _, first, last, entry = reply
        return Assigned(int(first), int(last), EntryId.parse(text(entry)))
    return Refusal(*(text(part) for part in reply))
