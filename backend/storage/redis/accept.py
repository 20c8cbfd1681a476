"""Accepting: numbers given and events appended, in one atomic call; and idempotency keys."""

import hashlib
import time
from collections.abc import Sequence
from typing import Any

from redis.cluster import RedisCluster
from redis.exceptions import NoScriptError, ResponseError

from backend.domain.errors import EngineDown, InstaChatError, LogFull, Unconfirmed
from backend.domain.model import EntryId, Parent
from backend.storage.redis.client import ANSWER_SECONDS, CONNECT_SECONDS, Calls, text
from backend.storage.redis.dirty_counters import name_of
from backend.storage.redis.errors import foreign, in_our_words
from backend.storage.redis.script_loader import SHAS
from backend.storage.redis.types import Batch, Creation, Given, LifeLost, Outcome, Refused

IDEMPOTENCY_SECONDS = 24 * 60 * 60
BELL_MILLISECONDS = 2_000  # a ring whose job was lost is repeated after this
MEMORY_SHARE = (
    0.85  # of Redis's limit; beyond it nothing is accepted, so that the queue still works
)
MOST_ENTRIES = 1_000_000  # in one shard's log, where no setting says otherwise


class AcceptCalls(Calls):
    """Accepting creations, as long as Redis has room for them."""

    def __init__(
        self,
        url: str,
        *,
        replicas: int = 0,
        most_entries: int = MOST_ENTRIES,
        connect_seconds: float = CONNECT_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        super().__init__(
            url,
            replicas=replicas,
            connect_seconds=connect_seconds,
            answer_seconds=answer_seconds,
        )
        self._most_entries = most_entries
        self._memory_read = float("-inf")
        self._memory_share = 0.0

    def accept(self, shard: int, batch: Sequence[Creation], known: EntryId) -> Outcome:
        """Give numbers to a batch and append its events: all of it in one atomic call.

        `known` is the highest entry the caller has seen of this shard: an older life, or a log that
        ends before it, refuses. Returns an answer for each creation, the log's end, and whether the
        caller has to ring the bell.

        Raises LifeLost or LogFull, with nothing accepted; Unconfirmed when the answer was lost.
        """
        self._check_memory()
        keys, arguments = self._accept_arguments(shard, batch, known)
        try:
            with self.or_unconfirmed():
                reply = self._call("accept", keys, arguments, durably=True)
        except ResponseError as error:
            raise _meaning(error) from error
        return _given(shard, reply)

    def accept_each(self, batches: Sequence[Batch]) -> "list[Outcome | InstaChatError | LifeLost]":
        """As `accept`, for several shards, each with its batch; an outcome or an error for each.

        In one round trip, and under `strict` with one fsync, but for a cluster, or with replicas to wait for.
        Where all shards are on one Redis that does not answer, it is asked no more.
        """
        if len(batches) > 1 and self.at_one_server:
            try:
                return self._accept_together(batches)
            except InstaChatError as error:
                return [error] * len(batches)
        outcomes: list[Outcome | InstaChatError | LifeLost] = []
        away: EngineDown | None = None
        for batch in batches:
            try:
                if away:
                    raise away
                outcomes.append(self.accept(*batch))
            except (InstaChatError, LifeLost) as error:
                outcomes.append(error)
                if not isinstance(self.redis, RedisCluster) and isinstance(
                    error, EngineDown | Unconfirmed
                ):
                    away = EngineDown(error.message, error.hint)
        return outcomes

    def _accept_together(
        self, batches: Sequence[Batch]
    ) -> "list[Outcome | InstaChatError | LifeLost]":
        self._check_memory()
        with self.in_our_words():
            pipe = self.redis.pipeline(transaction=False)
            for batch in batches:
                pipe.execute_command(*self.accept_command(*batch))
        with self.or_unconfirmed(), self.in_our_words():
            replies = pipe.execute(raise_on_error=False)
        outcomes: list[Outcome | InstaChatError | LifeLost] = []
        for batch, reply in zip(batches, replies, strict=True):
            if isinstance(reply, NoScriptError):  # nothing ran
                try:
                    outcomes.append(self.accept(*batch))
                except (InstaChatError, LifeLost) as error:
                    outcomes.append(error)
            else:
                outcomes.append(outcome_of(self.url, batch[0], reply))
        return outcomes

    # -- the same in steps, for who awaits the answer -----------------------------------------------

    @property
    def at_one_server(self) -> bool:
        """Whether one answer of one server is all that accepting waits for."""
        return not isinstance(self.redis, RedisCluster) and not self._replicas

    @property
    def knows_memory(self) -> bool:
        """Whether `refuse_if_full` has something to go by: what was read in the last second."""
        return time.monotonic() - self._memory_read <= 1

    def accept_command(
        self, shard: int, batch: Sequence[Creation], known: EntryId
    ) -> tuple[str | int | bytes, ...]:
        """The call of the script, as `accept` makes it, in one command."""
        keys, arguments = self._accept_arguments(shard, batch, known)
        return "EVALSHA", SHAS["accept"], len(keys), *keys, *arguments

    def _accept_arguments(
        self, shard: int, batch: Sequence[Creation], known: EntryId
    ) -> tuple[list[str], list[str | int | bytes]]:
        keys = [self.key(shard, name) for name in ("life", "log", "unsynced", "bell")]
        arguments: list[str | int | bytes] = [
            known.epoch,
            known.sequence,
            self._most_entries,
            IDEMPOTENCY_SECONDS,
            BELL_MILLISECONDS,
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
                name_of(creation.parent),
                creation.body_hash,
                self.key(shard, f"chat:{token}:"),
                len(creation.payloads),
            )
            for count, payload in creation.payloads:
                arguments += (count, payload)
        return keys, arguments

    def _check_memory(self) -> None:
        """Refuse while memory is short; read at most once a second."""
        if not self.knows_memory:
            self.read_memory()
        self.refuse_if_full()

    def read_memory(self) -> None:
        """Ask Redis how much of its memory it uses."""
        with self.in_our_words():
            info: Any = self.redis.info("memory")
        nodes = info.values() if info and isinstance(next(iter(info.values())), dict) else [info]
        self._memory_share = max(
            (node["used_memory"] / node["maxmemory"] for node in nodes if node.get("maxmemory")),
            default=0.0,
        )
        self._memory_read = time.monotonic()

    def refuse_if_full(self) -> None:
        """Raise LogFull if memory was short when it was read last."""
        if self._memory_share > MEMORY_SHARE:
            raise LogFull(
                f"Redis uses {self._memory_share:.0%} of its memory limit; nothing was accepted",
                "see `instachat status`: is a worker running? Or raise Redis's maxmemory",
            )

    def claim_key(self, shard: int, name: str, value: str) -> str:
        """Keep a value under an idempotency key for a day, unless there is one; returns what is there."""
        with self.in_our_words():
            found: Any = self.redis.set(
                self.key(shard, f"key:{name}"), value, nx=True, ex=IDEMPOTENCY_SECONDS, get=True
            )
        return value if found is None else text(found)


def idempotency_key(route: str, key: str) -> str:
    """The name under which an idempotency key is kept: per route, of bounded length."""
    return hashlib.sha256(f"{route}\n{key}".encode("utf-8", "surrogatepass")).hexdigest()


def outcome_of(url: str, shard: int, reply: Any) -> Outcome | InstaChatError | LifeLost:
    """What the accept script's answer, or Redis's error instead of one, means; raises nothing."""
    try:
        if isinstance(reply, Exception):
            with in_our_words(url):
                raise reply
        return _given(shard, reply)
    except ResponseError as error:
        return _meaning(error)
    except (InstaChatError, LifeLost) as error:
        return error


def _given(shard: int, reply: Any) -> Outcome:
    """What the accept script has answered; raises what it refuses."""
    match reply:
        case [b"ok", epoch, sequence, ring, answers]:
            end = EntryId(int(epoch), int(sequence))
            return [_answer(a) for a in answers], end, bool(ring)
        case [b"full", entries]:
            raise LogFull(
                f"the log of shard {shard} holds {entries:,} events that are not stored yet; "
                "nothing was accepted",
                "see `instachat status`: is a worker running, does PostgreSQL answer?",
            )
        case [b"broken", which]:
            raise foreign(text(which), shard)
    raise LifeLost(text(reply[1]))


def _meaning(error: ResponseError) -> LifeLost | Unconfirmed:
    """What Redis's own word against the accept script means: it refused the first write, or nobody knows."""
    if "equal or smaller" in str(error):
        return LifeLost("the log is ahead")
    return Unconfirmed(
        f"Redis has ended the accepting script ({type(error).__name__}): it is not known whether this was"
        " accepted",
        "see Redis's log; look at what is there before you repeat it",
    )


def _answer(reply: list[Any]) -> Given | Refused:
    if reply[0] == b"ok":
        _, first, last, entry = reply
        return Given(int(first), int(last), EntryId.parse(text(entry)))
    return Refused(*(text(part) for part in reply))
