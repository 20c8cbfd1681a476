"""The log and the counters: everything that lives in Redis, and the scripts that alone may change it.

A shard's keys carry one hash tag, so that each script works on one slot of a Redis Cluster:

    instachat:{3}:life                which server and which life these numbers belong to
    instachat:{3}:log                 the stream of accepted events, ids `epoch-sequence`
    instachat:{3}:app:TOKEN           counter of an application's chats
    instachat:{3}:chat:TOKEN:NUMBER   counter of a chat's messages
    instachat:{3}:unsynced            parents whose count SQL does not know yet, by since when
    instachat:{3}:bell                a drain was asked for and has not begun
    instachat:{3}:key:…               an idempotency key's answer
    instachat:workers                 when each running worker was last heard of
    instachat:paused                  there while workers shall take no jobs and make no sweeps

Nothing here retries: a call whose answer was lost may have given numbers, and a second try would
give others. The scripts are in `lua/`, each with its keys and answers.
"""

import hashlib
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from backend.errors import EngineDown, Failed, InstaChatError, LogFull, Unconfirmed
from backend.model import EntryId, Parent
from backend.settings import redacted

IDEMPOTENCY_SECONDS = 24 * 60 * 60
BELL_MILLISECONDS = 2_000  # a ring whose job was lost is repeated after this
MEMORY_SHARE = (
    0.85  # of Redis's limit; beyond it nothing is accepted, so that the queue still works
)
MOST_ENTRIES = 1_000_000  # in one shard's log, where no setting says otherwise
CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 3.0
WORKER_SECONDS = 3.0  # a worker not heard of for this long is not running

SCANNED_AT_ONCE = 1_000  # keys that one step of a walk looks at
_COUNTER = re.compile(
    rb"instachat:\{[0-9]+\}:(?:app:([A-Za-z0-9_-]{1,64})|chat:([A-Za-z0-9_-]{1,64}):([1-9][0-9]{0,15}))"
)

_NAME = re.compile("[A-Za-z0-9_-]{1,64}(:[1-9][0-9]{0,15})?")
# What Redis says when it can't do its work now: redis-py knows some of it by class, the rest by word.
_NOT_NOW = (
    redis.exceptions.ClusterDownError,
    redis.exceptions.MasterDownError,
    redis.exceptions.NoPermissionError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
)
_NOT_NOW_SAID = re.compile(
    r"(^|: )(MISCONF|NOREPLICAS|BUSY) "
    r"|^ACL failure in script|^The user executing the script can't run this command"
)


@dataclass(frozen=True, slots=True)
class Creation:
    """One request to the accept script: what to create, or to delete, under which parent.

    `payloads` are packed events, each with the count of numbers it takes (see `events`); `key` and
    `body_hash` are those of an idempotency key, empty without one.
    """

    kind: str  # chats | messages | delete-chat | delete-application
    parent: Parent
    payloads: Sequence[tuple[int, bytes]]
    key: str = ""
    body_hash: str = ""


@dataclass(frozen=True, slots=True)
class Given:
    """The numbers that a creation was given, and its last entry in the log."""

    first: int
    last: int
    entry: EntryId


@dataclass(frozen=True, slots=True)
class Refused:
    """Why the script refused one creation: `counter`, `closed`, `reused` or `broken`, and of what."""

    why: str
    which: str = ""


class LifeLost(Exception):
    """Redis is not in the life that was expected: wiped, restarted, restored, promoted or foreign."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


Outcome = tuple[list[Given | Refused], EntryId, bool]
"""An answer for each creation of a batch, the log's end, and whether the caller has to ring the bell."""


@dataclass(frozen=True, slots=True)
class Life:
    """What a shard's life key says.

    `state` is `ok`, `none`, `other` (server), `broken`, or `ahead` (the log is ahead of the life).
    """

    state: str
    epoch: int
    highest: int
    sequence: int
    installation: str


class Counter(NamedTuple):
    """A counter as it lies there: `issued` is None where none is to be found.

    One that is not `verified` in the present life is raised to the rows' highest number before it gives
    another; one that is not `open` was closed by a deletion.
    """

    issued: int | None
    verified: bool
    open: bool


@dataclass(frozen=True, slots=True)
class Counts:
    """Some counters' `issued`, verified or not, None where there is none; and the time of the look.

    `end` is the log's end as of after it, `oldest` since when a count of the shard is unsynced. Times are
    in microseconds since 1970, by Redis's clock.
    """

    issued: list[int | None]
    end: EntryId
    now: int
    oldest: int | None


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the log: entries in order, the log's last entry, and whether they reach it.

    An entry is its id, as Redis writes it, and its one field.
    """

    entries: list[tuple[bytes, bytes]]
    end: EntryId
    complete: bool


def connect(
    url: str, *, connect_seconds: float = CONNECT_SECONDS, answer_seconds: float = ANSWER_SECONDS
) -> "redis.Redis | RedisCluster":
    """A client that never retries; a URL `redis+cluster://…` makes it a Redis Cluster's.

    Raises EngineDown if a cluster can't be reached; a plain client connects at its first call.
    """
    options: dict[str, Any] = {
        "socket_connect_timeout": connect_seconds,
        "socket_timeout": answer_seconds,
        "retry": Retry(NoBackoff(), 0),
    }
    try:
        if url.startswith(("redis+cluster://", "rediss+cluster://")):
            return RedisCluster.from_url(url.replace("+cluster", "", 1), **options)
        return redis.Redis.from_url(url, **options)
    except RedisError as error:
        raise _down(url, error) from None
    except ValueError as error:
        raise Failed(f"the Redis URL {redacted(url)} can't be used: {error}") from None


class Log:
    """One Redis's log and counters. Thread-safe.

    Every method raises EngineDown when Redis does not answer.
    """

    def __init__(
        self,
        url: str,
        *,
        replicas: int = 0,
        most_entries: int = MOST_ENTRIES,
        connect_seconds: float = CONNECT_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self.url = url
        self.redis = connect(url, connect_seconds=connect_seconds, answer_seconds=answer_seconds)
        self._replicas = replicas
        self._answer_seconds = answer_seconds
        self._most_entries = most_entries
        self._shas: dict[str, str] = {}
        self._memory_read = float("-inf")
        self._memory_share = 0.0

    def close(self) -> None:
        """Close the connections."""
        self.redis.close()

    # -- accepting ---------------------------------------------------------------------------------

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
            with self._unconfirmed():
                reply = self._call("accept", keys, arguments, durably=True)
        except ResponseError as error:
            raise _refusal(error) from None
        return _given(shard, reply)

    def accept_each(
        self, batches: Sequence[tuple[int, Sequence[Creation], EntryId]]
    ) -> "list[Outcome | InstaChatError | LifeLost]":
        """As `accept`, for several shards, each with its batch; an outcome or an error for each.

        In one round trip, and under `strict` with one fsync, but for a cluster, or with replicas to wait for.
        Where all shards are on one Redis that does not answer, it is asked no more.
        """
        one_server = not isinstance(self.redis, RedisCluster)
        if len(batches) > 1 and one_server and not self._replicas:
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
                if one_server and isinstance(error, EngineDown | Unconfirmed):
                    away = EngineDown(error.message, error.hint)
        return outcomes

    def _accept_together(
        self, batches: Sequence[tuple[int, Sequence[Creation], EntryId]]
    ) -> "list[Outcome | InstaChatError | LifeLost]":
        self._check_memory()
        with self._down():
            sha = self._sha("accept")
            pipe = self.redis.pipeline(transaction=False)
            for batch in batches:
                keys, arguments = self._accept_arguments(*batch)
                pipe.evalsha(sha, len(keys), *keys, *arguments)
        with self._unconfirmed(), self._down():
            replies = pipe.execute(raise_on_error=False)
        outcomes: list[Outcome | InstaChatError | LifeLost] = []
        for batch, reply in zip(batches, replies, strict=True):
            try:
                if isinstance(reply, NoScriptError):
                    outcomes.append(self.accept(*batch))  # nothing ran
                    continue
                if isinstance(reply, Exception):
                    with self._down():
                        raise reply
                outcomes.append(_given(batch[0], reply))
            except ResponseError as error:
                outcomes.append(_refusal(error))
            except (InstaChatError, LifeLost) as error:
                outcomes.append(error)
        return outcomes

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
                _name(creation.parent),
                creation.body_hash,
                self.key(shard, f"chat:{token}:"),
                len(creation.payloads),
            )
            for count, payload in creation.payloads:
                arguments += (count, payload)
        return keys, arguments

    def _check_memory(self) -> None:
        """Refuse while memory is short; read at most once a second."""
        now = time.monotonic()
        if now - self._memory_read > 1:
            with self._down():
                info: Any = self.redis.info("memory")
            nodes = (
                info.values() if info and isinstance(next(iter(info.values())), dict) else [info]
            )
            self._memory_share = max(
                (
                    node["used_memory"] / node["maxmemory"]
                    for node in nodes
                    if node.get("maxmemory")
                ),
                default=0.0,
            )
            self._memory_read = now
        if self._memory_share > MEMORY_SHARE:
            raise LogFull(
                f"Redis uses {self._memory_share:.0%} of its memory limit; nothing was accepted",
                "see `instachat status`: is a worker running? Or raise Redis's maxmemory",
            )

    # -- draining ----------------------------------------------------------------------------------

    def read(
        self,
        shard: int,
        epoch: int,
        installation: str,
        after: EntryId,
        *,
        most_entries: int,
        most_bytes: int,
    ) -> Page:
        """The entries after a place, in order. LifeLost if this log is not that epoch's."""
        reply = self._call(
            "read",
            [self.key(shard, name) for name in ("life", "log", "bell")],
            [epoch, installation, f"{after}", most_entries, most_bytes],
        )
        if reply[0] != b"ok":
            raise LifeLost(_text(reply[1]))
        _, sequence, complete, found = reply
        entries = list(zip(found[::2], found[1::2], strict=True))
        return Page(entries, EntryId(epoch, int(sequence)), bool(complete))

    def trim(self, shard: int, epoch: int, through: EntryId) -> int:
        """Drop the entries up to and including one; returns how many are left behind it.

        In another life it drops nothing and returns 0.
        """
        keep = EntryId(through.epoch, through.sequence + 1)
        return int(
            self._call(
                "trim", [self.key(shard, "life"), self.key(shard, "log")], [epoch, f"{keep}"]
            )
        )

    def deletion_stands(self, shard: int, epoch: int, parent: Parent, entry: EntryId) -> bool:
        """Whether that very entry has closed the parent's counter, in that life."""
        return self._closed_by(shard, epoch, parent, entry, "stands?")

    def reopen(self, shard: int, epoch: int, parent: Parent, entry: EntryId) -> bool:
        """Open a counter again that this entry had closed. Idempotent."""
        return self._closed_by(shard, epoch, parent, entry, "reopen")

    def _closed_by(self, shard: int, epoch: int, parent: Parent, entry: EntryId, act: str) -> bool:
        keys = [self.key(shard, "life"), self.counter_key(shard, parent)]
        return bool(self._call("reopen", keys, [epoch, f"{entry}", act]))

    # -- lives and counters ------------------------------------------------------------------------

    def probe(self, shard: int) -> Life:
        """What is there, judged by nothing the caller knows."""
        state, epoch, highest, sequence, installation = self._call(
            "probe", [self.key(shard, "life"), self.key(shard, "log")], []
        )
        return Life(_text(state), int(epoch), int(highest), int(sequence), _text(installation))

    def write_life(self, shard: int, epoch: int, installation: str) -> bool:
        """Begin a life that was claimed in SQL. Only ever raises the epoch."""
        return bool(self._call("claim", [self.key(shard, "life")], [epoch, installation]))

    def verify(
        self,
        shard: int,
        epoch: int,
        parent: Parent,
        highest: int,
        *,
        create: bool,
        passed: EntryId | None = None,
    ) -> int | None:
        """Raise a counter to the rows' highest number; returns `issued`.

        None if there is no counter and `create` is false. LifeLost if Redis is not in `epoch`. With
        `passed`, the entry up to which SQL has decided and left the parent alive, a deletion up to
        there keeps it closed no longer.
        """
        reply = self._call(
            "verify",
            [
                self.key(shard, "life"),
                self.counter_key(shard, parent),
                self.key(shard, "unsynced"),
            ],
            [epoch, highest, int(create), f"{passed or ''}", _name(parent)],
        )
        if reply[0] == b"life":
            raise LifeLost(_text(reply[1]))
        return int(reply[1]) if reply[0] == b"ok" else None

    def raise_all(
        self, shard: int, epoch: int, numbers: Mapping[Parent, int], *, create: bool
    ) -> tuple[bool, EntryId]:
        """Raise many counters, as `verify` does one, and mark their parents as unsynced, in one call.

        Returns whether all are there now (without `create` one that is missing stays so), and the
        log's end: whatever was given before is in the log up to it. LifeLost, changing nothing, if
        Redis is not in `epoch`.
        """
        keys = [self.key(shard, "life"), self.key(shard, "unsynced")]
        arguments: list[str | int] = [epoch, int(create)]
        for parent, number in numbers.items():
            keys.append(self.counter_key(shard, parent))
            arguments += (number, _name(parent))
        reply = self._call("raise", keys, arguments)
        if reply[0] == b"broken":
            raise _foreign("unsynced counts", shard)
        if reply[0] != b"ok":
            raise LifeLost(_text(reply[1]))
        _, sequence, missing = reply
        return not missing, EntryId(epoch, int(sequence))

    def seal(self, shard: int, epoch: int, removed: Mapping[Parent, bool]) -> None:
        """Close the counters of removed parents, and open the others', where there are any.

        For who stores them: what a counter says of a parent that SQL did not know is out of date.
        LifeLost, changing nothing, if Redis is not in `epoch`.
        """
        keys = [self.key(shard, "life"), *(self.counter_key(shard, p) for p in removed)]
        reply = self._call("seal", keys, [epoch, *(int(gone) for gone in removed.values())])
        if reply[0] != b"ok":
            raise LifeLost(_text(reply[1]))

    def forget(self, shard: int, parents: Sequence[Parent]) -> None:
        """Drop the counters of chats whose application is removed, and closed here. Idempotent."""
        with self._down():
            self.redis.unlink(*(self.counter_key(shard, parent) for parent in parents))
            self.redis.zrem(self.key(shard, "unsynced"), *map(_name, parents))

    def issued(self, shard: int, parents: Sequence[Parent]) -> tuple[list[int | None], EntryId]:
        """The highest number given under each parent, None where not verified; and the log's end.

        The end is read after the numbers: each of them is in the log up to it. LifeLost as usual.
        """
        reply = self._call(
            "issued",
            [self.key(shard, "life"), *(self.counter_key(shard, p) for p in parents)],
            [],
        )
        if reply[0] != b"ok":
            raise LifeLost(_text(reply[1]))
        _, epoch, sequence, found = reply
        return (
            [None if value is None else int(value) for value in found],
            EntryId(int(epoch), int(sequence)),
        )

    def look(self, shard: int, parents: Sequence[Parent]) -> tuple[list[Counter], EntryId]:
        """The counters of these parents as they are, and the log's end as read after them.

        Changes nothing and judges nothing: where Redis has no life of ours the end is `0-0`, and no
        counter is verified.
        """
        keys = [self.key(shard, "life"), *(self.counter_key(shard, p) for p in parents)]
        epoch, sequence, found = self._call("look", keys, [])
        counters = [
            Counter(None if issued is None else int(issued), bool(verified), bool(open_))
            for issued, verified, open_ in zip(found[::3], found[1::3], found[2::3], strict=True)
        ]
        return counters, EntryId(int(epoch), int(sequence))

    def discard(self, shard: int, epoch: int, found: Mapping[Parent, int]) -> None:
        """Remove counters that still say what was found; LifeLost, changing nothing, in another life."""
        keys = [self.key(shard, "life"), *(self.counter_key(shard, p) for p in found)]
        reply = self._call("discard", keys, [epoch, *found.values()])
        if reply[0] != b"ok":
            raise LifeLost(_text(reply[1]))

    def parents(self, shard: int | None = None, token: str = "*") -> Iterator[Parent]:
        """Everything that has a counter, in no order, perhaps twice: in one shard, or of one token.

        Whatever had one during the whole of the walk is in it.
        """
        pattern = f"instachat:{{{'*' if shard is None else shard}}}:[ac][ph][pa]*:{token}*"
        with self._down():
            for name in self.redis.scan_iter(match=pattern, count=SCANNED_AT_ONCE):
                if found := _COUNTER.fullmatch(name):
                    of_app, of_chat, number = found.groups()
                    yield Parent((of_app or of_chat).decode(), int(number) if number else None)

    def lengths(self, shards: int) -> list[int]:
        """How many entries each shard's log holds: what is accepted and not stored yet.

        Something foreign in a log's place counts as one: the drain of that shard will name it.
        """
        return self._each_shard("xlen", "log", shards)

    def counted(self, shard: int, epoch: int, parents: Sequence[Parent]) -> Counts:
        """What sync-counters has to know of some counters. LifeLost if Redis is not in `epoch`."""
        keys = [self.key(shard, "life"), self.key(shard, "unsynced")]
        keys += [self.counter_key(shard, parent) for parent in parents]
        reply = self._call("counted", keys, [epoch])
        if reply[0] == b"broken":
            raise _foreign("unsynced counts", shard)
        if reply[0] != b"ok":
            raise LifeLost(_text(reply[1]))
        _, sequence, now, oldest, found = reply
        return Counts(
            [int(value) if value else None for value in found],
            EntryId(epoch, int(sequence)),
            int(now),
            int(float(oldest)) if oldest else None,
        )

    def unsynced_page(self, shard: int, before: int, skip: int, limit: int) -> list[Parent]:
        """A page of a shard's parents that are unsynced since before a time, the oldest first."""
        with self._down():
            found: Any = self.redis.zrangebyscore(
                self.key(shard, "unsynced"), "-inf", before, start=skip, num=limit
            )
        return [_parent(_text(name), shard) for name in found]

    def release(self, shard: int, epoch: int, read: Mapping[Parent, int | None], since: int) -> int:
        """Have parents be unsynced no more whose counter still is what was read; returns how many.

        One whose counter went on is unsynced since the given time only. In another life than `epoch`
        nothing is changed.
        """
        if not read:
            return 0
        keys = [self.key(shard, "life"), self.key(shard, "unsynced")]
        arguments: list[str | int] = [epoch, since]
        for parent, issued in read.items():
            keys.append(self.counter_key(shard, parent))
            arguments += (_name(parent), "" if issued is None else issued)
        return int(self._call("synced", keys, arguments))

    def unsynced(self, shards: int) -> list[int]:
        """How many parents of each shard have counts that SQL does not know yet."""
        return self._each_shard("zcard", "unsynced", shards)

    def given(self, shards: int) -> int:
        """How many numbers this Redis has given in all; less than before after a loss.

        Something foreign in a life's place has given none: the next call of that shard will name it.
        """
        with self._down():
            pipe = self.redis.pipeline(transaction=False)
            for shard in range(shards):
                pipe.hget(self.key(shard, "life"), "given")
            answers = pipe.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, Exception) and not _is_foreign(answer):
                    raise answer
        return sum(int(given) for given in answers if isinstance(given, bytes) and given.isdigit())

    def _each_shard(self, command: str, name: str, shards: int) -> list[int]:
        with self._down():
            pipe = self.redis.pipeline(transaction=False)
            for shard in range(shards):
                getattr(pipe, command)(self.key(shard, name))
            answers = pipe.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, Exception) and not _is_foreign(answer):
                    raise answer
        return [1 if isinstance(answer, Exception) else int(answer) for answer in answers]

    # -- workers -----------------------------------------------------------------------------------

    def beat(self, worker: str) -> None:
        """A worker says that it is running; forgets those long gone."""
        now = time.time()
        with self._down():
            pipe = self.redis.pipeline(transaction=False)
            pipe.zadd("instachat:workers", {worker: now})
            pipe.zremrangebyscore("instachat:workers", "-inf", now - 3600)
            pipe.execute()

    def retire(self, worker: str) -> None:
        """A worker says that it has stopped."""
        with self._down():
            self.redis.zrem("instachat:workers", worker)

    def workers(self) -> int:
        """How many workers are running: heard of within the last three seconds."""
        with self._down():
            found: Any = self.redis.zcount(
                "instachat:workers", time.time() - WORKER_SECONDS, "+inf"
            )
        return int(found)

    def pause(self) -> None:
        """Have workers take no jobs and make no sweeps until `resume`, whoever restarts meanwhile."""
        with self._down():
            self.redis.set("instachat:paused", 1)

    def resume(self) -> None:
        """Let workers work again."""
        with self._down():
            self.redis.delete("instachat:paused")

    def paused(self) -> bool:
        """Whether workers are told to rest."""
        with self._down():
            return bool(self.redis.exists("instachat:paused"))

    # -- keys of creations that take no number -----------------------------------------------------

    def claim_key(self, shard: int, name: str, value: str) -> str:
        """Keep a value under an idempotency key for a day, unless there is one; returns what is there."""
        with self._down():
            found: Any = self.redis.set(
                self.key(shard, f"key:{name}"), value, nx=True, ex=IDEMPOTENCY_SECONDS, get=True
            )
        return value if found is None else _text(found)

    # -- settings ----------------------------------------------------------------------------------

    def configuration(self, *names: str) -> Mapping[str, str] | None:
        """Redis's own settings; None where it does not let us read them (a managed service)."""
        options = {"target_nodes": "random"} if isinstance(self.redis, RedisCluster) else {}
        with self._down():
            try:
                found: Any = self.redis.config_get(*names, **options)
            except ResponseError:
                return None
        return {_text(k): _text(v) for k, v in found.items()}

    def ping(self) -> None:
        """Raise EngineDown unless Redis answers."""
        with self._down():
            self.redis.ping()

    # -- the calls themselves ----------------------------------------------------------------------

    def key(self, shard: int, name: str) -> str:
        """The full name of a shard's key."""
        return f"instachat:{{{shard}}}:{name}"

    def counter_key(self, shard: int, parent: Parent) -> str:
        """The key of a parent's counter."""
        token, chat = parent
        return self.key(shard, f"app:{token}" if chat is None else f"chat:{token}:{chat}")

    def _call(
        self,
        script: str,
        keys: Sequence[str],
        arguments: Sequence[str | int | bytes],
        *,
        durably: bool = False,
    ) -> Any:
        with self._down():
            try:
                return self._evaluate(script, keys, arguments, durably)
            except NoScriptError:  # nothing ran; a restarted server has forgotten its scripts
                self._shas.pop(script, None)
                return self._evaluate(script, keys, arguments, durably)

    def _evaluate(
        self,
        script: str,
        keys: Sequence[str],
        arguments: Sequence[str | int | bytes],
        durably: bool,
    ) -> Any:
        sha = self._sha(script)
        if not (durably and self._replicas):
            return self.redis.evalsha(sha, len(keys), *keys, *arguments)
        # WAITAOF speaks of its own connection's writes only, hence one pipeline.
        pipe = self.redis.pipeline(transaction=False)
        pipe.evalsha(sha, len(keys), *keys, *arguments)
        pipe.execute_command("WAITAOF", 1, self._replicas, int(self._answer_seconds * 500))
        reply, waited = pipe.execute(raise_on_error=False)
        if isinstance(reply, Exception):
            raise reply
        if reply[0] == b"ok" and (
            isinstance(waited, Exception) or waited[0] < 1 or waited[1] < self._replicas
        ):
            raise Unconfirmed(
                f"fewer than {self._replicas} replicas have it on disk; it may or may not last",
                "see `instachat doctor`; with an idempotency key the same call can be repeated",
            )
        return reply

    def _sha(self, script: str) -> str:
        sha = self._shas.get(script)
        if sha is None:
            loaded: Any = self.redis.script_load(_SCRIPTS[script])
            sha = self._shas[script] = _text(loaded)
        return sha

    @contextmanager
    def _down(self) -> Iterator[None]:
        """Redis's own troubles become EngineDown or LogFull, foreign keys Failed."""
        try:
            yield
        except redis.exceptions.OutOfMemoryError:
            raise LogFull(
                "Redis is at its memory limit; nothing was accepted",
                "see `instachat status`: is a worker running? Or raise Redis's maxmemory",
            ) from None
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
            raise _down(self.url, error) from error
        except ResponseError as error:
            # Refused before anything was written: there is no cause that could make it uncertain.
            if isinstance(error, _NOT_NOW) or _NOT_NOW_SAID.search(str(error)):
                raise _down(self.url, error) from None
            if _is_foreign(error):
                raise Failed(
                    "Redis holds something foreign under a key of InstaChat's",
                    "another program writes to this Redis: give InstaChat one of its own",
                ) from error
            raise

    @contextmanager
    def _unconfirmed(self) -> Iterator[None]:
        """An answer lost after the call was sent is not known to be a refusal."""
        try:
            yield
        except EngineDown as error:
            cause = error.__cause__
            if cause is None or _never_sent(cause):
                raise
            raise Unconfirmed(
                f"Redis at {redacted(self.url)} went away before it answered: it is not known "
                "whether this was accepted",
                "look at what is there before you repeat it",
            ) from None


def _given(shard: int, reply: Any) -> "Outcome":
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
            raise _foreign(_text(which), shard)
    raise LifeLost(_text(reply[1]))


def _refusal(error: ResponseError) -> LifeLost:
    """What Redis's own refusal of the accept script's first write means; raises others again."""
    if "equal or smaller" in str(error):
        return LifeLost("the log is ahead")
    raise error


def _answer(reply: list[Any]) -> Given | Refused:
    if reply[0] == b"ok":
        _, first, last, entry = reply
        return Given(int(first), int(last), EntryId.parse(_text(entry)))
    return Refused(*(_text(part) for part in reply))


def _name(parent: Parent) -> str:
    """How a parent is called among the unsynced."""
    token, chat = parent
    return token if chat is None else f"{token}:{chat}"


def _parent(name: str, shard: int) -> Parent:
    """The parent that is called so among the unsynced."""
    if not _NAME.fullmatch(name):
        raise _foreign("unsynced counts", shard)
    token, _, chat = name.partition(":")
    return Parent(token, int(chat) if chat else None)


def _foreign(which: str, shard: int) -> Failed:
    return Failed(
        f"Redis holds something foreign under the key of the {which} of shard {shard}; "
        "nothing was accepted",
        "another program writes to this Redis: give InstaChat one of its own",
    )


def _is_foreign(error: Exception) -> bool:
    """Whether a key holds what another program put there."""
    return "WRONGTYPE" in str(error)


def _never_sent(error: BaseException) -> bool:
    """Whether the connection could not even be opened."""
    refusals = (ConnectionRefusedError, FileNotFoundError, PermissionError, socket.gaierror)
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, refusals) or "connecting to" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _down(url: str, error: BaseException) -> EngineDown:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return EngineDown(
        f"Redis at {redacted(url)} can't be used: {reason}",
        f"check it with `redis-cli -u {redacted(url)} ping`; the setting is INSTACHAT_REDIS_URL",
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def idempotency_key(route: str, key: str) -> str:
    """The name under which an idempotency key is kept: per route, of bounded length."""
    return hashlib.sha256(f"{route}\n{key}".encode("utf-8", "surrogatepass")).hexdigest()


def _load_scripts() -> dict[str, str]:
    folder = files("backend") / "lua"
    shared = (folder / "life.lua").read_text(encoding="utf-8")
    names = [
        "accept",
        "read",
        "trim",
        "claim",
        "probe",
        "verify",
        "reopen",
        "issued",
        "raise",
        "seal",
        "look",
        "discard",
        "counted",
        "synced",
    ]
    return {
        name: _whole(shared, (folder / f"{name}.lua").read_text(encoding="utf-8")) for name in names
    }


def _whole(shared: str, script: str) -> str:
    """A script with what all share in front, but for its flags: Redis wants those in the first line."""
    flags, newline, rest = script.partition("\n") if script.startswith("#!") else ("", "", script)
    return flags + newline + shared + rest


_SCRIPTS = _load_scripts()
