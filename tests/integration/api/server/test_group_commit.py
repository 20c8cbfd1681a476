"""Group commit: requests of the same moment share one call, and no request suffers from another's failure."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy.event import listen

from backend.api.server import group_commit
from backend.api.server.group_commit import GroupCommit
from backend.bootstrap import Backend
from backend.domain.errors import Busy, EngineDown, Failed, InstaChatError, NotFound, Unconfirmed
from backend.domain.model import Accepted, Parent
from backend.ingest.accept import Acceptor, ReceiveAnswers
from backend.ingest.requests import AcceptRequest
from backend.storage.redis import accept
from backend.storage.redis.accept_async import AsyncAcceptClient
from backend.storage.redis.log import Log
from tests.support.waiting import PATIENCE_SECONDS


class RecordingAcceptor:
    """An acceptor that records its calls, and blocks in one while `gate` is not set."""

    def __init__(self, real: Acceptor, redis: Log, *, awaits: bool) -> None:
        self.real = real
        self.redis = redis
        self.awaits = awaits
        self.faulty: (
            Callable[[Sequence[AcceptRequest]], list[Accepted | InstaChatError | None]] | None
        )
        self.faulty = None
        self.batches: list[int] = []
        self.retried: list[int] = []
        self.is_ready = real.is_ready
        self.loads = 0
        self.gate = threading.Event()
        self.gate.set()
        self.waiting: list[asyncio.Future[None]] = []

    def refresh(self) -> None:
        """See Acceptor."""
        self.loads += 1
        self.gate.wait(PATIENCE_SECONDS)
        self.real.refresh()
        self.is_ready = True

    def logs(self) -> list[AsyncAcceptClient]:
        """The clients for a GroupCommit on the running event loop."""
        return (
            [AsyncAcceptClient(self.redis) for _ in range(group_commit.MAX_CONCURRENT_CALLS)]
            if self.awaits
            else []
        )

    def try_accept(
        self, requests: Sequence[AcceptRequest]
    ) -> list[Accepted | InstaChatError | None]:
        """See Acceptor."""
        self.batches.append(len(requests))
        self.gate.wait(PATIENCE_SECONDS)
        return self.faulty(requests) if self.faulty else self.real.try_accept(requests)

    def try_accept_soon(
        self, requests: Sequence[AcceptRequest], client: AsyncAcceptClient, receive: ReceiveAnswers
    ) -> None:
        """See Acceptor."""
        self.batches.append(len(requests))
        if self.gate.is_set() and not self.faulty:
            self.real.try_accept_soon(requests, client, receive)
            return

        async def wait() -> None:
            await asyncio.to_thread(self.gate.wait, PATIENCE_SECONDS)
            if not self.faulty:
                self.real.try_accept_soon(requests, client, receive)
                return
            try:
                receive(self.faulty(requests))
            except ZeroDivisionError as error:
                receive(error)

        self.waiting.append(asyncio.ensure_future(wait()))

    def accept_batch(self, requests: Sequence[AcceptRequest]) -> list[Accepted | InstaChatError]:
        """See Acceptor."""
        self.retried.append(len(requests))
        return self.real.accept_batch(requests)


@pytest.fixture(params=["awaited", "by a thread"])
def recording_acceptor(
    request: pytest.FixtureRequest, backend: Backend, application: str
) -> RecordingAcceptor:
    """An acceptor on real engines that has accepted before; called on the event loop, or by a thread."""
    backend.acceptor.try_accept(
        [AcceptRequest.messages(application, 1, ["of a chat that is not there"])]
    )
    assert backend.acceptor.is_ready
    return RecordingAcceptor(backend.acceptor, backend.log, awaits=request.param == "awaited")


def chat_of(backend: Backend, token: str) -> int:
    """Create a chat; returns its number."""
    return backend.acceptor.accept(AcceptRequest.chats(token)).first


async def accept_all(
    recording_acceptor: RecordingAcceptor, requests: Sequence[AcceptRequest]
) -> list[Any]:
    """Submit all requests at once; returns the result or exception of each."""
    group_commit = GroupCommit(recording_acceptor, recording_acceptor.logs())  # type: ignore[arg-type]  # has the methods that are called
    try:
        return await asyncio.gather(*map(group_commit.accept, requests), return_exceptions=True)
    finally:
        await group_commit.close()


def test_it_is_accepting_from_a_request_to_its_answer(
    recording_acceptor: RecordingAcceptor, backend: Backend, application: str
) -> None:
    """Before its call is sent, and while it runs: reads give way then."""
    chat = chat_of(backend, application)

    async def scenario() -> None:
        commit = GroupCommit(recording_acceptor, recording_acceptor.logs())  # type: ignore[arg-type]  # as above
        assert not commit.is_accepting
        answered = asyncio.get_running_loop().create_future()
        recording_acceptor.gate.clear()
        commit.submit(AcceptRequest.messages(application, chat, ["x"]), answered.set_result)
        assert commit.is_accepting
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not recording_acceptor.batches:
                await asyncio.sleep(0)
        assert commit.is_accepting
        recording_acceptor.gate.set()
        await answered
        assert not commit.is_accepting
        await commit.close()

    asyncio.run(scenario())


def test_requests_of_one_moment_are_one_call(
    recording_acceptor: RecordingAcceptor, backend: Backend, application: str
) -> None:
    """Few requests make one batch, in their order, and each gets its own number."""
    chat = chat_of(backend, application)
    few = group_commit.FULL_BATCH - 1
    requests = [AcceptRequest.messages(application, chat, [f"text {i}"]) for i in range(few)]
    answers = asyncio.run(accept_all(recording_acceptor, requests))
    assert [answer.first for answer in answers] == list(range(1, few + 1))
    assert recording_acceptor.batches == [few]
    assert not recording_acceptor.retried


@pytest.mark.parametrize("strict", [False, True])
def test_full_batches_are_sent_while_more_requests_arrive(
    recording_acceptor: RecordingAcceptor, backend: Backend, application: str, strict: bool
) -> None:
    """The event loop sends each at once, so that Redis works; a thread accepts all requests together.

    They are larger where each call costs an fsync.
    """
    chat = chat_of(backend, application)
    full = group_commit.STRICT_BATCH if strict else group_commit.FULL_BATCH
    arrived: list[int] = []

    async def go() -> list[Any]:
        clients = recording_acceptor.logs()
        commit = GroupCommit(recording_acceptor, clients, strict=strict)  # type: ignore[arg-type]  # has the methods that are called
        answers: list[Any] = []
        for number in range(100):
            commit.submit(AcceptRequest.messages(application, chat, [f"{number}"]), answers.append)
            if len(arrived) < len(recording_acceptor.batches):
                arrived.append(number + 1)
        await commit.close()
        return answers

    answers = asyncio.run(go())
    assert sorted(answer.first for answer in answers) == list(range(1, 101))
    if recording_acceptor.awaits:
        assert recording_acceptor.batches == [full, full, 100 - 2 * full]
        assert arrived == [full, 2 * full]
    else:
        assert recording_acceptor.batches == [100]


def _until_echo(commands: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The commands of clients, not of scripts, before the ECHO."""
    for each in commands:
        if each["command"].upper().startswith("ECHO"):
            return
        if each["client_type"] != "lua":
            yield each


def test_accepting_calls_one_script_and_nothing_else(
    recording_acceptor: RecordingAcceptor,
    backend: Backend,
    application: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With verified counters, a batch is one call of Redis and none of SQL, also for many applications.

    New connections also send a greeting, and the memory is read once a second.
    """
    monkeypatch.setattr(accept, "NOTIFY_AGAIN_MICROSECONDS", 10**12)
    tokens = [backend.catalog.applications.create(f"{n}").token for n in range(16)]
    assert len(set(map(backend.counters.shard, tokens))) > 1
    chats = [(token, chat_of(backend, token)) for token in [application, *tokens]]
    requests = [AcceptRequest.messages(*chat, ["text"]) for chat in chats]
    assert len(requests) < group_commit.FULL_BATCH
    asyncio.run(accept_all(recording_acceptor, requests))
    statements: list[str] = []
    listen(backend.database.engine, "before_cursor_execute", lambda *a: statements.append(a[2]))

    monitoring: Any = backend.log.redis
    with monitoring.monitor() as monitor:
        asyncio.run(accept_all(recording_acceptor, requests))
        backend.log.redis.echo("the end")
        commands = iter(monitor.next_command, None)
        names = [each["command"].split()[0].upper() for each in _until_echo(commands)]
    assert [name for name in names if name not in {"HELLO", "CLIENT", "INFO"}] == ["EVALSHA"]
    assert statements == []


def test_the_next_batch_collects_while_a_call_is_running(
    recording_acceptor: RecordingAcceptor, backend: Backend, application: str
) -> None:
    """The event loop makes a second call for a large batch, and no third; a thread makes one at a time."""
    chat = chat_of(backend, application)

    async def go() -> list[Accepted]:
        group_commit = GroupCommit(recording_acceptor, recording_acceptor.logs())  # type: ignore[arg-type]
        recording_acceptor.gate.clear()
        first = asyncio.ensure_future(
            group_commit.accept(AcceptRequest.messages(application, chat, ["a"]))
        )
        while not recording_acceptor.batches:
            await asyncio.sleep(0.001)
        more = []
        for i in range(50):
            request = AcceptRequest.messages(application, chat, [f"b {i}"])
            more.append(asyncio.ensure_future(group_commit.accept(request)))
            await asyncio.sleep(0)
        assert not first.done()  # no answer before the call has returned
        recording_acceptor.gate.set()
        found = await asyncio.gather(first, *more)
        await group_commit.close()
        return found

    assert sorted(answer.first for answer in asyncio.run(go())) == list(range(1, 52))
    another = group_commit.MIN_CONCURRENT_BATCH
    assert recording_acceptor.batches == (
        [1, another, 50 - another] if recording_acceptor.awaits else [1, 50]
    )


def test_messages_of_a_chat_in_one_batch_are_one_entry(
    recording_acceptor: RecordingAcceptor, backend: Backend, application: str
) -> None:
    """Except after a creation of another kind, and with an idempotency key. The order is kept."""
    chat, other = chat_of(backend, application), chat_of(backend, application)
    backend.drainer.drain_all()

    def message(chat: int, *texts: str, key: str | None = None) -> AcceptRequest:
        return AcceptRequest.messages(application, chat, texts, key=key)

    requests = [
        *(message(chat, "a"), message(other, "x"), message(chat, "b", "c"), message(other, "y")),
        *(message(chat, "d", key="key"), message(chat, "e")),
        *(AcceptRequest.chats(application), message(chat, "f"), message(chat, "g")),
    ]
    answers = asyncio.run(accept_all(recording_acceptor, requests))
    assert [(a.first, a.last) for a in answers] == [
        *((1, 1), (1, 1), (2, 3), (2, 2)),
        *((4, 4), (5, 5)),
        *((3, 3), (6, 6), (7, 7)),
    ]
    shard = backend.counters.shard(application)
    assert backend.log.waiting([shard]) == 6
    backend.drainer.drain_all()
    for number, texts in ((chat, "abcdefg"), (other, "xy")):
        assert "".join(m.text for m in backend.catalog.messages.list(application, number)) == texts


def test_each_request_gets_its_own_result(
    recording_acceptor: RecordingAcceptor, backend: Backend, application: str
) -> None:
    """Requests for an unknown application or chat get NotFound; the others are accepted."""
    chat = chat_of(backend, application)
    requests = [
        AcceptRequest.messages(application, chat, ["a"]),
        AcceptRequest.messages("A" * 32, 1, ["b"]),
        AcceptRequest.messages(application, chat + 1, ["c"]),
        AcceptRequest.messages(application, chat, ["d"]),
    ]
    answers = asyncio.run(accept_all(recording_acceptor, requests))
    assert [answers[0].first, answers[3].first] == [1, 2]
    assert isinstance(answers[1], NotFound)
    assert isinstance(answers[2], NotFound)


def test_an_unverified_counter_delays_only_its_own_requests(
    recording_acceptor: RecordingAcceptor, backend: Backend, application: str
) -> None:
    """They go to another thread, and later requests are accepted before them."""
    chat = chat_of(backend, application)
    other = backend.catalog.applications.create("other").token
    chat_of(backend, other)
    backend.drainer.drain_all()
    shard = backend.counters.shard(other)
    backend.log.redis.delete(backend.log.counter_key(shard, Parent(other, 1)))
    hold = threading.Event()
    real = recording_acceptor.accept_batch

    def slowly(requests: Sequence[AcceptRequest]) -> list[Accepted | InstaChatError]:
        hold.wait(PATIENCE_SECONDS)
        return real(requests)

    recording_acceptor.accept_batch = slowly  # type: ignore[method-assign]

    async def go() -> None:
        group_commit = GroupCommit(recording_acceptor, recording_acceptor.logs())  # type: ignore[arg-type]
        slow = asyncio.ensure_future(
            group_commit.accept(AcceptRequest.messages(other, 1, ["slow"]))
        )
        for number in range(1, 6):
            quick = await group_commit.accept(AcceptRequest.messages(application, chat, ["quick"]))
            assert quick.first == number
        assert not slow.done()
        hold.set()
        assert (await slow).first == 1
        await group_commit.close()

    asyncio.run(go())


def test_requests_before_the_cursors_are_read_wait_for_a_limited_time(
    recording_acceptor: RecordingAcceptor,
    backend: Backend,
    application: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are refused then, also later ones, while one thread reads; once it has read, they are accepted."""
    monkeypatch.setattr(group_commit, "LOAD_TIMEOUT_SECONDS", 0.1)
    chat = chat_of(backend, application)
    recording_acceptor.is_ready = False
    recording_acceptor.gate.clear()

    async def go() -> list[Any]:
        group_commit = GroupCommit(recording_acceptor, recording_acceptor.logs())  # type: ignore[arg-type]
        request = AcceptRequest.messages(application, chat, ["a"])
        answers: list[Any] = []
        for _ in range(2):
            accepting = map(group_commit.accept, [request] * 3)
            answers += await asyncio.gather(*accepting, return_exceptions=True)
        recording_acceptor.gate.set()
        while not recording_acceptor.is_ready:
            await asyncio.sleep(0.001)
        answers.append(await group_commit.accept(request))
        await group_commit.close()
        return answers

    *refused, accepted = asyncio.run(go())
    assert [type(answer) for answer in refused] == [EngineDown] * 6
    assert accepted.first == 1
    assert recording_acceptor.loads == 1


def test_requests_before_the_cursors_are_read_are_one_call_afterwards(
    recording_acceptor: RecordingAcceptor,
    backend: Backend,
    application: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In their order."""
    monkeypatch.setattr(group_commit, "LOAD_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    chat = chat_of(backend, application)
    recording_acceptor.is_ready = False
    recording_acceptor.gate.clear()

    async def go() -> list[Accepted]:
        group_commit = GroupCommit(recording_acceptor, recording_acceptor.logs())  # type: ignore[arg-type]
        request = AcceptRequest.messages(application, chat, ["a"])
        accepting = [asyncio.ensure_future(group_commit.accept(request)) for _ in range(3)]
        while not recording_acceptor.loads:
            await asyncio.sleep(0.001)
        recording_acceptor.gate.set()
        answers = await asyncio.gather(*accepting)
        await group_commit.close()
        return answers

    assert [answer.first for answer in asyncio.run(go())] == [1, 2, 3]
    assert recording_acceptor.batches == [3]


def test_a_request_beyond_the_limit_is_refused_at_once(
    recording_acceptor: RecordingAcceptor,
    backend: Backend,
    application: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It gets Busy and is not accepted; the waiting requests are."""
    monkeypatch.setattr(group_commit, "MAX_WAITING_REQUESTS", 20)  # an application has half
    chat = chat_of(backend, application)
    requests = [AcceptRequest.messages(application, chat, [f"{i}"]) for i in range(25)]
    answers = asyncio.run(accept_all(recording_acceptor, requests))
    accepted = [answer for answer in answers if isinstance(answer, Accepted)]
    assert len(accepted) == 10
    assert all(isinstance(answer, Busy) for answer in answers if answer not in accepted)
    backend.drainer.drain_all()
    assert len(list(backend.catalog.messages.list(application, chat))) == 10


def test_an_applications_requests_leave_places_to_others(
    recording_acceptor: RecordingAcceptor, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has at most half of the places of the requests that wait, those that are retried included.

    Once they are sent, it has its places again.
    """
    monkeypatch.setattr(group_commit, "MAX_WAITING_REQUESTS", 10)
    greedy, other = (backend.catalog.applications.create("one of two").token for _ in range(2))
    chat = Parent(greedy, chat_of(backend, greedy))
    backend.drainer.drain_all()
    # So that its next message is retried, once its counter is verified.
    backend.log.redis.delete(backend.log.counter_key(backend.counters.shard(greedy), chat))

    async def go() -> tuple[list[Any], list[Any]]:
        commit = GroupCommit(recording_acceptor, recording_acceptor.logs())  # type: ignore[arg-type]
        blocked = threading.Event()
        accept_batch = recording_acceptor.accept_batch

        def wait_and_accept(requests: Sequence[AcceptRequest]) -> list[Accepted | InstaChatError]:
            assert blocked.wait(PATIENCE_SECONDS)
            return accept_batch(requests)

        monkeypatch.setattr(recording_acceptor, "accept_batch", wait_and_accept)

        def accept(token: str) -> asyncio.Future[Accepted]:
            return asyncio.ensure_future(commit.accept(AcceptRequest.chats(token)))

        message = AcceptRequest.message(chat, "of an unverified chat")
        retried = asyncio.ensure_future(commit.accept(message))
        while not commit.waiting_requests or commit._queue:
            await asyncio.sleep(0.001)
        waiting = [accept(token) for token in [greedy] * 7 + [other] * 7]
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        blocked.set()
        answers += await asyncio.gather(retried, accept(greedy))
        await commit.close()
        return answers[:7], answers[7:]

    greedys, others = asyncio.run(go())
    assert [isinstance(answer, Accepted) for answer in greedys] == [True] * 4 + [False] * 3
    assert {type(answer) for answer in greedys[4:]} == {Busy}
    assert [isinstance(answer, Accepted) for answer in others] == [
        *[True] * 5,
        *[False] * 2,
        True,
        True,
    ]


def test_an_applications_retries_leave_threads_to_others(
    recording_acceptor: RecordingAcceptor, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that need SQL first: PostgreSQL may hang, and one application may have any number of chats."""
    monkeypatch.setattr(group_commit, "RETRY_THREADS", 4)
    greedy, other = (backend.catalog.applications.create("one of two").token for _ in range(2))
    for token in (greedy, other):
        backend.acceptor.accept(AcceptRequest.chats(token, 4))
    backend.drainer.drain_all()
    chats = [Parent(token, chat) for token in (greedy, other) for chat in range(1, 5)]
    for chat in chats:
        shard = backend.counters.shard(chat.token)
        backend.log.redis.delete(backend.log.counter_key(shard, chat))
    *of_greedy, of_other = [AcceptRequest.message(chat, "the first") for chat in chats[:5]]
    blocked = threading.Event()
    begun: list[str] = []
    accept_batch = recording_acceptor.accept_batch

    def wait_and_accept(requests: Sequence[AcceptRequest]) -> list[Accepted | InstaChatError]:
        token = requests[0].parent.token
        begun.append(token)
        assert token == other or blocked.wait(PATIENCE_SECONDS)
        return accept_batch(requests)

    monkeypatch.setattr(recording_acceptor, "accept_batch", wait_and_accept)

    async def go() -> list[Accepted]:
        commit = GroupCommit(recording_acceptor, recording_acceptor.logs())  # type: ignore[arg-type]
        waiting = [asyncio.ensure_future(commit.accept(request)) for request in of_greedy]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(begun) < 2:
                await asyncio.sleep(0.001)
            await commit.accept(of_other)
        assert begun == [greedy, greedy, other]
        blocked.set()
        answers = await asyncio.gather(*waiting)
        await commit.close()
        return answers

    assert [answer.first for answer in asyncio.run(go())] == [1] * 4
    assert begun.count(greedy) == 4


def test_a_cancelled_request_does_not_affect_the_others(
    recording_acceptor: RecordingAcceptor, backend: Backend, application: str
) -> None:
    """Cancelled while its batch is sent: it may be accepted, and the others get their results."""
    chat = chat_of(backend, application)

    async def go() -> list[Any]:
        group_commit = GroupCommit(recording_acceptor, recording_acceptor.logs())  # type: ignore[arg-type]
        recording_acceptor.gate.clear()
        tasks = [
            asyncio.ensure_future(
                group_commit.accept(AcceptRequest.messages(application, chat, [f"{i}"]))
            )
            for i in range(5)
        ]
        while not recording_acceptor.batches:
            await asyncio.sleep(0.001)
        tasks[2].cancel()
        recording_acceptor.gate.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await group_commit.close()
        return found

    answers = asyncio.run(go())
    assert isinstance(answers.pop(2), asyncio.CancelledError)
    assert [answer.first for answer in answers] == [1, 2, 4, 5]


def test_an_internal_error_answers_every_request(
    recording_acceptor: RecordingAcceptor, application: str
) -> None:
    """Every request gets the exception, and the next batch is accepted."""

    def broken(_: Sequence[AcceptRequest]) -> list[Accepted | InstaChatError | None]:
        raise ZeroDivisionError

    recording_acceptor.faulty = broken

    async def go() -> None:
        group_commit = GroupCommit(recording_acceptor, recording_acceptor.logs())  # type: ignore[arg-type]
        request = AcceptRequest.chats(application)
        with pytest.raises(ZeroDivisionError):
            await group_commit.accept(request)
        recording_acceptor.faulty = None
        assert (await group_commit.accept(request)).first == 1
        await group_commit.close()

    asyncio.run(go())


def test_a_failing_callback_does_not_affect_the_others(
    recording_acceptor: RecordingAcceptor, backend: Backend, application: str
) -> None:
    """For example, the connection has just been closed."""
    chat = chat_of(backend, application)

    def broken(_: object) -> None:
        raise RuntimeError("closed")

    async def go() -> int:
        group_commit = GroupCommit(recording_acceptor, recording_acceptor.logs())  # type: ignore[arg-type]
        group_commit.submit(AcceptRequest.messages(application, chat, ["a"]), broken)
        answer = await group_commit.accept(AcceptRequest.messages(application, chat, ["b"]))
        await group_commit.close()
        return answer.first

    assert asyncio.run(go()) == 2


def test_a_timed_out_request_is_answered_once(
    recording_acceptor: RecordingAcceptor,
    backend: Backend,
    application: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The later result of the thread is dropped: its connection may wait for another request by then."""
    monkeypatch.setattr(group_commit, "RETRY_TIMEOUT_SECONDS", 0.1)
    chat = chat_of(backend, application)
    backend.drainer.drain_all()
    shard = backend.counters.shard(application)
    backend.log.redis.delete(backend.log.counter_key(shard, Parent(application, chat)))
    real = recording_acceptor.accept_batch
    too_late = threading.Event()

    def slowly(requests: Sequence[AcceptRequest]) -> list[Accepted | InstaChatError]:
        too_late.wait(PATIENCE_SECONDS)
        return real(requests)

    recording_acceptor.accept_batch = slowly  # type: ignore[method-assign]
    results: list[object] = []

    async def go() -> None:
        group_commit = GroupCommit(recording_acceptor, recording_acceptor.logs())  # type: ignore[arg-type]
        group_commit.submit(AcceptRequest.messages(application, chat, ["a"]), results.append)
        while not results:
            await asyncio.sleep(0.01)
        too_late.set()
        while group_commit.waiting_requests:
            await asyncio.sleep(0.01)
        await group_commit.close()

    asyncio.run(go())
    assert [type(answer) for answer in results] == [Unconfirmed]


def test_requests_waiting_behind_an_unavailable_redis_fail_with_the_first(
    recording_acceptor: RecordingAcceptor, application: str
) -> None:
    """They do not wait for further calls, each of which would take as long."""

    def away(requests: Sequence[AcceptRequest]) -> list[Accepted | InstaChatError | None]:
        return [EngineDown("away")] * len(requests)

    recording_acceptor.faulty = away
    recording_acceptor.gate.clear()

    async def go() -> list[Any]:
        group_commit = GroupCommit(recording_acceptor, recording_acceptor.logs())  # type: ignore[arg-type]
        first = asyncio.ensure_future(group_commit.accept(AcceptRequest.chats(application)))
        while not recording_acceptor.batches:
            await asyncio.sleep(0.001)
        rest = [
            asyncio.ensure_future(group_commit.accept(AcceptRequest.chats(application)))
            for _ in range(5)
        ]
        await asyncio.sleep(0)  # each of them is waiting then
        recording_acceptor.gate.set()
        found = await asyncio.gather(first, *rest, return_exceptions=True)
        await group_commit.close()
        return found

    assert all(isinstance(answer, EngineDown) for answer in asyncio.run(go()))
    assert recording_acceptor.batches == [1]


def test_requests_of_many_shards_are_one_round_trip(
    recording_acceptor: RecordingAcceptor, backend: Backend
) -> None:
    """One call a shard, and own numbers for each application, also if Redis has lost the scripts."""
    tokens = [backend.catalog.applications.create("x").token for _ in range(20)]
    shards = {backend.counters.shard(token) for token in tokens}
    assert len(shards) > 1
    for number in (1, 2, 3):
        if number == 2:
            backend.log.redis.script_flush()
        answers = asyncio.run(
            accept_all(recording_acceptor, [AcceptRequest.chats(token) for token in tokens])
        )
        assert [answer.first for answer in answers] == [number] * len(tokens)
    assert recording_acceptor.batches == [20, 20, 20]
    assert not recording_acceptor.retried


def test_a_failing_shard_does_not_affect_the_others(
    recording_acceptor: RecordingAcceptor, backend: Backend
) -> None:
    """One shard has lost its epoch, another has a foreign log: only their requests are retried or fail."""
    tokens = [backend.catalog.applications.create("x").token for _ in range(30)]
    by_shard = {backend.counters.shard(token): token for token in tokens}
    lost, foreign, fine = list(by_shard)[:3]
    log = backend.log
    log.redis.delete(log.key(lost, "epoch"))
    log.redis.delete(log.key(foreign, "log"))
    log.redis.set(log.key(foreign, "log"), "another program's")
    requests = [AcceptRequest.chats(by_shard[shard]) for shard in (lost, foreign, fine)]
    answers = asyncio.run(accept_all(recording_acceptor, requests))
    assert answers[0].first == 1
    assert isinstance(answers[1], Failed)
    assert answers[2].first == 1
    assert recording_acceptor.retried == [1]  # the request whose shard needed a new epoch


@pytest.mark.parametrize(("calls_elsewhere", "batches"), [(0, [2, 3, 2]), (1, [2, 5])])
def test_while_another_node_works_a_batch_grows_by_what_the_responses_bring(
    recording_acceptor: RecordingAcceptor,
    backend: Backend,
    application: str,
    calls_elsewhere: int,
    batches: list[int],
) -> None:
    """Without another node, Redis would be idle while the responses are written."""
    chat = chat_of(backend, application)
    request = AcceptRequest.messages(application, chat, ["text"])
    answers: list[Accepted | Exception] = []

    async def scenario() -> None:
        calls = group_commit.RunningCalls()
        calls.count = calls_elsewhere
        commit = GroupCommit(recording_acceptor, recording_acceptor.logs(), all_calls=calls)  # type: ignore[arg-type]  # has the methods that are called

        def answer_and_send(answer: Accepted | Exception) -> None:
            answers.append(answer)
            commit.submit(request, answers.append)

        recording_acceptor.gate.clear()
        for _ in range(2):
            commit.submit(request, answer_and_send)
        while not recording_acceptor.batches:
            await asyncio.sleep(0)
        for _ in range(3):
            commit.submit(request, answers.append)
        recording_acceptor.gate.set()
        await commit.close()
        assert calls.count == calls_elsewhere

    asyncio.run(scenario())
    assert recording_acceptor.batches == batches
    assert sorted(answer.first for answer in answers if isinstance(answer, Accepted)) == [
        *range(1, 8)
    ]
