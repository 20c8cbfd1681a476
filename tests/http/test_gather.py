"""Group commit: what waits at the same moment is one call; nobody waits for another's trouble."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy.event import listen

from backend.api.server import group_commit
from backend.api.server.group_commit import Gatherer
from backend.bootstrap import Backend
from backend.domain.errors import Busy, EngineDown, Failed, InstaChatError, NotFound, Unconfirmed
from backend.domain.model import Accepted, Parent
from backend.ingest import accept
from backend.ingest.accept import Acceptor, Request
from backend.storage.redis.accept_async import AsyncAccepting
from backend.storage.redis.log import Log


class Watched:
    """An acceptor that notes its calls, and can be held up in one."""

    def __init__(self, real: Acceptor, redis: Log, *, awaits: bool) -> None:
        self.real = real
        self.redis = redis
        self.awaits = awaits
        self.faulty: Callable[[Sequence[Request]], list[Accepted | InstaChatError | None]] | None
        self.faulty = None
        self.batches: list[int] = []
        self.mended: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    @property
    def is_ready(self) -> bool:
        """See Acceptor."""
        return self.real.is_ready

    def logs(self) -> list[AsyncAccepting]:
        """What a gatherer is given, of the event loop that runs."""
        return (
            [AsyncAccepting(self.redis) for _ in range(group_commit.CALLS)] if self.awaits else []
        )

    def attempt(self, requests: Sequence[Request]) -> list[Accepted | InstaChatError | None]:
        """See Acceptor."""
        self.batches.append(len(requests))
        self.gate.wait(20)
        return self.faulty(requests) if self.faulty else self.real.attempt(requests)

    async def attempt_async(
        self, requests: Sequence[Request], log: AsyncAccepting
    ) -> list[Accepted | InstaChatError | None]:
        """See Acceptor."""
        self.batches.append(len(requests))
        await asyncio.to_thread(self.gate.wait, 20)
        if self.faulty:
            return await asyncio.to_thread(self.faulty, requests)
        return await self.real.attempt_async(requests, log)

    def accept_batch(self, requests: Sequence[Request]) -> list[Accepted | InstaChatError]:
        """See Acceptor."""
        self.mended.append(len(requests))
        return self.real.accept_batch(requests)


@pytest.fixture(params=["awaited", "by a thread"])
def watched(request: pytest.FixtureRequest, backend: Backend, application: str) -> Watched:
    """A watched acceptor on real engines, which has accepted before; called in either way."""
    backend.acceptor.attempt([accept.messages(application, 1, ["of a chat that is not there"])])
    assert backend.acceptor.is_ready
    return Watched(backend.acceptor, backend.log, awaits=request.param == "awaited")


def chat_of(backend: Backend, token: str) -> int:
    """A new chat."""
    return backend.acceptor.accept(accept.chats(token)).first


async def gathered(watched: Watched, requests: Sequence[Request]) -> list[Any]:
    """Ask for all at once; what became of each."""
    gatherer = Gatherer(watched, watched.logs())  # type: ignore[arg-type]  # it has all that is asked for
    try:
        return await asyncio.gather(*map(gatherer.accept, requests), return_exceptions=True)
    finally:
        await gatherer.close()


def test_requests_of_one_moment_are_one_call(
    watched: Watched, backend: Backend, application: str
) -> None:
    """A hundred at once make one batch, in their order, each with its own number."""
    chat = chat_of(backend, application)
    requests = [accept.messages(application, chat, [f"text {i}"]) for i in range(100)]
    answers = asyncio.run(gathered(watched, requests))
    assert [answer.first for answer in answers] == list(range(1, 101))
    assert watched.batches == [100]
    assert not watched.mended


def _until_echo(heard: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What came from outside of Redis, until the echo."""
    for each in heard:
        if each["command"].upper().startswith("ECHO"):
            return
        if each["client_type"] != "lua":
            yield each


def test_nothing_but_one_script_is_asked_on_the_way(
    watched: Watched, backend: Backend, application: str
) -> None:
    """For verified counters: one call of Redis for the whole batch, and none of SQL.

    But for greeting it on a new connection, and a look at its memory once a second.
    """
    chat = chat_of(backend, application)
    requests = [accept.messages(application, chat, [f"text {i}"]) for i in range(50)]
    asyncio.run(gathered(watched, requests))
    statements: list[str] = []
    listen(backend.database.engine, "before_cursor_execute", lambda *a: statements.append(a[2]))

    monitoring: Any = backend.log.redis
    with monitoring.monitor() as monitor:
        asyncio.run(gathered(watched, requests))
        backend.log.redis.echo("that was all")
        heard = iter(monitor.next_command, None)
        asked = [each["command"].split()[0].upper() for each in _until_echo(heard)]
    assert [name for name in asked if name not in {"HELLO", "CLIENT", "INFO"}] == ["EVALSHA"]
    assert statements == []


def test_while_one_batch_is_under_way_the_next_gathers(
    watched: Watched, backend: Backend, application: str
) -> None:
    """Who awaits makes another call where it is worth while, and no third; a thread makes one at a time."""
    chat = chat_of(backend, application)

    async def go() -> list[Accepted]:
        gatherer = Gatherer(watched, watched.logs())  # type: ignore[arg-type]
        watched.gate.clear()
        first = asyncio.ensure_future(gatherer.accept(accept.messages(application, chat, ["a"])))
        while not watched.batches:
            await asyncio.sleep(0.001)
        more = []
        for i in range(50):
            request = accept.messages(application, chat, [f"b {i}"])
            more.append(asyncio.ensure_future(gatherer.accept(request)))
            await asyncio.sleep(0)
        assert not first.done()  # no answer before the call has returned
        watched.gate.set()
        found = await asyncio.gather(first, *more)
        await gatherer.close()
        return found

    assert sorted(answer.first for answer in asyncio.run(go())) == list(range(1, 52))
    another = group_commit.WORTH_ANOTHER
    assert watched.batches == ([1, another, 50 - another] if watched.awaits else [1, 50])


def test_messages_of_a_chat_that_come_together_are_one_entry(
    watched: Watched, backend: Backend, application: str
) -> None:
    """But for those behind a creation of another kind, and those with an idempotency key; order is kept."""
    chat, other = chat_of(backend, application), chat_of(backend, application)
    backend.drainer.drain_all()

    def message(chat: int, *texts: str, key: str | None = None) -> Request:
        return accept.messages(application, chat, texts, key=key)

    requests = [
        *(message(chat, "a"), message(other, "x"), message(chat, "b", "c"), message(other, "y")),
        *(message(chat, "d", key="key"), message(chat, "e")),
        *(accept.chats(application), message(chat, "f"), message(chat, "g")),
    ]
    answers = asyncio.run(gathered(watched, requests))
    assert [(a.first, a.last) for a in answers] == [
        *((1, 1), (1, 1), (2, 3), (2, 2)),
        *((4, 4), (5, 5)),
        *((3, 3), (6, 6), (7, 7)),
    ]
    shard = backend.counters.shard(application)
    assert backend.log.lengths(backend.database.installation.shards)[shard] == 6
    backend.drainer.drain_all()
    for number, texts in ((chat, "abcdefg"), (other, "xy")):
        assert "".join(m.text for m in backend.catalog.messages(application, number)) == texts


def test_each_request_is_answered_apart(
    watched: Watched, backend: Backend, application: str
) -> None:
    """An unknown application's request is not found; the others beside it are accepted."""
    chat = chat_of(backend, application)
    requests = [
        accept.messages(application, chat, ["a"]),
        accept.messages("A" * 32, 1, ["b"]),
        accept.messages(application, chat + 1, ["c"]),
        accept.messages(application, chat, ["d"]),
    ]
    answers = asyncio.run(gathered(watched, requests))
    assert [answers[0].first, answers[3].first] == [1, 2]
    assert isinstance(answers[1], NotFound)
    assert isinstance(answers[2], NotFound)


def test_a_counter_that_is_not_verified_holds_up_only_its_own(
    watched: Watched, backend: Backend, application: str
) -> None:
    """It goes to another thread; requests that come meanwhile are accepted before it."""
    chat = chat_of(backend, application)
    other = backend.catalog.create_application("other").token
    chat_of(backend, other)
    backend.drainer.drain_all()
    shard = backend.counters.shard(other)
    backend.log.redis.delete(backend.log.counter_key(shard, Parent(other, 1)))
    hold = threading.Event()
    real = watched.accept_batch

    def slowly(requests: Sequence[Request]) -> list[Accepted | InstaChatError]:
        hold.wait(20)
        return real(requests)

    watched.accept_batch = slowly  # type: ignore[method-assign]

    async def go() -> None:
        gatherer = Gatherer(watched, watched.logs())  # type: ignore[arg-type]
        slow = asyncio.ensure_future(gatherer.accept(accept.messages(other, 1, ["slow"])))
        for number in range(1, 6):
            quick = await gatherer.accept(accept.messages(application, chat, ["quick"]))
            assert quick.first == number
        assert not slow.done()
        hold.set()
        assert (await slow).first == 1
        await gatherer.close()

    asyncio.run(go())


def test_beyond_so_many_waiting_requests_one_is_refused_at_once(
    watched: Watched, backend: Backend, application: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Busy, and nothing of it was accepted; those that wait are answered."""
    monkeypatch.setattr(group_commit, "MOST_WAITING", 10)
    chat = chat_of(backend, application)
    requests = [accept.messages(application, chat, [f"{i}"]) for i in range(25)]
    answers = asyncio.run(gathered(watched, requests))
    accepted = [answer for answer in answers if isinstance(answer, Accepted)]
    assert len(accepted) == 10
    assert all(isinstance(answer, Busy) for answer in answers if answer not in accepted)
    backend.drainer.drain_all()
    assert len(list(backend.catalog.messages(application, chat))) == 10


def test_a_client_that_goes_away_changes_nothing_for_the_others(
    watched: Watched, backend: Backend, application: str
) -> None:
    """Cancelled while its batch is under way: it may be accepted, and the rest is answered."""
    chat = chat_of(backend, application)

    async def go() -> list[Any]:
        gatherer = Gatherer(watched, watched.logs())  # type: ignore[arg-type]
        watched.gate.clear()
        tasks = [
            asyncio.ensure_future(gatherer.accept(accept.messages(application, chat, [f"{i}"])))
            for i in range(5)
        ]
        while not watched.batches:
            await asyncio.sleep(0.001)
        tasks[2].cancel()
        watched.gate.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await gatherer.close()
        return found

    answers = asyncio.run(go())
    assert isinstance(answers.pop(2), asyncio.CancelledError)
    assert [answer.first for answer in answers] == [1, 2, 4, 5]


def test_a_fault_of_ours_is_every_requests_answer(watched: Watched, application: str) -> None:
    """Nobody waits for ever, whatever is raised; and the next batch is taken."""

    def broken(_: Sequence[Request]) -> list[Accepted | InstaChatError | None]:
        raise ZeroDivisionError

    watched.faulty = broken

    async def go() -> None:
        gatherer = Gatherer(watched, watched.logs())  # type: ignore[arg-type]
        request = accept.chats(application)
        with pytest.raises(ZeroDivisionError):
            await gatherer.accept(request)
        watched.faulty = None
        assert (await gatherer.accept(request)).first == 1
        await gatherer.close()

    asyncio.run(go())


def test_one_that_can_not_be_told_keeps_no_other_from_its_answer(
    watched: Watched, backend: Backend, application: str
) -> None:
    """A connection that has just gone, for instance."""
    chat = chat_of(backend, application)

    def broken(_: object) -> None:
        raise RuntimeError("closed")

    async def go() -> int:
        gatherer = Gatherer(watched, watched.logs())  # type: ignore[arg-type]
        gatherer.submit(accept.messages(application, chat, ["a"]), broken)
        answer = await gatherer.accept(accept.messages(application, chat, ["b"]))
        await gatherer.close()
        return answer.first

    assert asyncio.run(go()) == 2


def test_one_that_was_told_that_it_takes_too_long_is_told_nothing_else(
    watched: Watched, backend: Backend, application: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread's answer comes later: by then its connection may wait for another request's."""
    monkeypatch.setattr(group_commit, "MEND_SECONDS", 0.1)
    chat = chat_of(backend, application)
    backend.drainer.drain_all()
    shard = backend.counters.shard(application)
    backend.log.redis.delete(backend.log.counter_key(shard, Parent(application, chat)))
    real = watched.accept_batch

    def slowly(requests: Sequence[Request]) -> list[Accepted | InstaChatError]:
        time.sleep(0.4)
        return real(requests)

    watched.accept_batch = slowly  # type: ignore[method-assign]
    told: list[object] = []

    async def go() -> None:
        gatherer = Gatherer(watched, watched.logs())  # type: ignore[arg-type]
        gatherer.submit(accept.messages(application, chat, ["a"]), told.append)
        while gatherer.waiting or not told:
            await asyncio.sleep(0.01)
        await gatherer.close()

    asyncio.run(go())
    assert [type(answer) for answer in told] == [Unconfirmed]


def test_who_waits_behind_a_redis_that_is_away_is_told_with_the_first(
    watched: Watched, application: str
) -> None:
    """Not one batch after the other, each as long again."""

    def away(requests: Sequence[Request]) -> list[Accepted | InstaChatError | None]:
        time.sleep(0.3)
        return [EngineDown("away")] * len(requests)

    watched.faulty = away

    async def go() -> list[Any]:
        gatherer = Gatherer(watched, watched.logs())  # type: ignore[arg-type]
        first = asyncio.ensure_future(gatherer.accept(accept.chats(application)))
        await asyncio.sleep(0.05)
        rest = [gatherer.accept(accept.chats(application)) for _ in range(5)]
        found = await asyncio.gather(first, *rest, return_exceptions=True)
        await gatherer.close()
        return found

    assert all(isinstance(answer, EngineDown) for answer in asyncio.run(go()))
    assert watched.batches == [1]


def test_requests_of_many_shards_are_one_round_trip(watched: Watched, backend: Backend) -> None:
    """Each shard by a call of its own, each application's numbers its own; forgotten scripts included."""
    tokens = [backend.catalog.create_application("x").token for _ in range(20)]
    shards = {backend.counters.shard(token) for token in tokens}
    assert len(shards) > 1
    for number in (1, 2, 3):
        if number == 2:
            backend.log.redis.script_flush()
        answers = asyncio.run(gathered(watched, [accept.chats(token) for token in tokens]))
        assert [answer.first for answer in answers] == [number] * len(tokens)
    assert watched.batches == [20, 20, 20]
    assert not watched.mended


def test_a_shard_that_refuses_takes_no_other_with_it(watched: Watched, backend: Backend) -> None:
    """One shard's life is lost and another's log foreign: only their requests are mended or fail."""
    tokens = [backend.catalog.create_application("x").token for _ in range(30)]
    by_shard = {backend.counters.shard(token): token for token in tokens}
    lost, foreign, fine = list(by_shard)[:3]
    log = backend.log
    log.redis.delete(log.key(lost, "life"))
    log.redis.delete(log.key(foreign, "log"))
    log.redis.set(log.key(foreign, "log"), "another program's")
    requests = [accept.chats(by_shard[shard]) for shard in (lost, foreign, fine)]
    answers = asyncio.run(gathered(watched, requests))
    assert answers[0].first == 1
    assert isinstance(answers[1], Failed)
    assert answers[2].first == 1
    assert watched.mended == [1]  # the one that needed a new life
