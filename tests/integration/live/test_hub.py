"""The hub: one read for all followers of a chat, and what a follower that lags behind is told."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text

from backend.bootstrap import Backend
from backend.domain.model import Message
from backend.live import feed as feed_module
from backend.live.events import ChatKey, Created, Deleted, Edited, Event, Gone
from backend.live.hub import Follower, Hub
from backend.live.reader import LiveReader, News, Position
from backend.storage.postgres.messages import edit_message
from tests.support.faults.shortcuts import send
from tests.support.waiting import PATIENCE_SECONDS


class CountingReader(LiveReader):
    """Records the positions of each read."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend.database, backend.counters)
        self.reads: list[Mapping[ChatKey, Position]] = []
        self.let_pages_return = threading.Event()
        """Until this is set, what was read from the beginning of a chat is not returned."""
        self.let_pages_return.set()

    def read(self, positions: Mapping[ChatKey, Position]) -> dict[ChatKey, News]:
        """See LiveReader."""
        self.reads.append(dict(positions))
        found = super().read(positions)
        if any(place.after == 0 for place in positions.values()):
            self.let_pages_return.wait(PATIENCE_SECONDS)
        return found

    def places(self, after: int) -> int:
        """How often a chat was read after that number."""
        return sum(place.after == after for read in self.reads for place in read.values())


def encode(event: Event) -> bytes:
    """Such as `message 1 one;`."""
    match event:
        case Created(message) | Edited(message):
            name = "message" if isinstance(event, Created) else "edited"
            return f"{name} {message.number} {message.text};".encode()
        case Gone(_, number, _) | Deleted(number):
            return f"{type(event).__name__.lower()} {number};".encode()
        case _:
            return f"{type(event).__name__.lower()};".encode()


class World:
    """A hub and its chat, for one scenario."""

    def __init__(self, backend: Backend, chat: str) -> None:
        self.backend = backend
        self.token = chat
        self.key = (chat, 1)
        self.reader = CountingReader(backend)
        self.hub = Hub(self.reader, backend.log.url, encode, b"keepalive;")

    def follow(self, after: int | None = None) -> Follower:
        """A new follower."""
        return self.hub.follow(self.key, self.reader.start(self.key), after)

    async def store(self, *texts: str) -> None:
        """Create messages, and store them."""

        def run() -> None:
            send(self.backend, self.token, *texts)
            self.backend.drainer.drain_all()

        await asyncio.to_thread(run)

    async def quiet(self) -> None:
        """Wait until the hub listens, and has nothing to look at."""
        while (
            not self.hub.is_listening
            or self.hub._woken
            or not (self.hub._looking is None or self.hub._looking.done())
        ):
            await asyncio.sleep(0.01)


async def take(chunks: AsyncIterator[bytes], last: str) -> str:
    """What comes, through the event that ends so."""
    told = ""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not told.endswith(f"{last};"):
            told += (await anext(chunks)).decode()
    return told


async def take_any(chunks: AsyncIterator[bytes]) -> str:
    """What comes first."""
    return (await anext(chunks)).decode()


def run(backend: Backend, chat: str, scenario: Callable[[World], Awaitable[None]]) -> None:
    """Run a scenario in an event loop."""

    @asynccontextmanager
    async def world() -> AsyncIterator[World]:
        world = World(backend, chat)
        try:
            yield world
        finally:
            world.hub.close()

    async def main() -> None:
        async with world() as made:
            await scenario(made)

    asyncio.run(main())


def test_many_followers_cost_one_read(backend: Backend, chat: str) -> None:
    """Each notification has the hub read the chat once; a follower that lags takes from the window."""

    async def scenario(world: World) -> None:
        followers = [world.follow() for _ in range(50)]
        chunks = [follower.chunks() for follower in followers]
        await asyncio.gather(*(take(each, "started") for each in chunks))
        await world.quiet()
        await world.store("one")
        assert await take(chunks[0], "one") == "message 1 one;"
        await world.quiet()
        before = len(world.reader.reads)
        waiting = [asyncio.create_task(take(each, "two")) for each in chunks[:49]]
        await world.store("two")
        assert {told[-14:] for told in await asyncio.gather(*waiting)} == {"message 2 two;"}
        await world.quiet()
        looks_at_intervals = 2  # a slow machine may look by itself meanwhile
        assert len(world.reader.reads) - before <= 1 + looks_at_intervals
        assert await take(chunks[49], "two") == "message 1 one;message 2 two;"

    run(backend, chat, scenario)


def test_a_follower_that_lags_is_told_the_present_state(backend: Backend, chat: str) -> None:
    """Edits and deletions of what it has not taken change these events; others come behind them."""

    async def scenario(world: World) -> None:
        lagging, other = world.follow().chunks(), world.follow().chunks()
        await world.store("one", "two", "three")
        assert (await take(other, "three")).startswith("started;")
        await take(lagging, "started")
        messages = world.backend.catalog.messages
        await asyncio.to_thread(messages.edit, world.token, 1, 1, {"text": "another"})
        await asyncio.to_thread(messages.delete, world.token, 1, 2)
        assert await take(other, "deleted 2") == "edited 1 another;deleted 2;"
        told = await take(lagging, "deleted 2")
        assert told.startswith("message 1 another;gone 2;message 3 three;")

    run(backend, chat, scenario)


def test_a_follower_beyond_the_window_reads_pages(
    backend: Backend, chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told everything once."""
    monkeypatch.setattr(feed_module, "MAX_WINDOW_EVENTS", 2)

    async def scenario(world: World) -> None:
        lagging, other = world.follow().chunks(), world.follow().chunks()
        await take(lagging, "started")
        await world.store(*(f"text {n}" for n in range(1, 8)))
        await take(other, "7")
        told = await take(lagging, "7")
        assert told == "".join(f"message {n} text {n};" for n in range(1, 8))

    run(backend, chat, scenario)


def test_followers_at_the_same_place_share_a_page(backend: Backend, chat: str) -> None:
    """As after a restart of the server, when all clients connect again."""

    async def scenario(world: World) -> None:
        await world.store("one", "two", "three")
        followers = [world.follow(0).chunks() for _ in range(50)]
        told = await asyncio.gather(*(take(chunks, "three") for chunks in followers))
        assert told == ["message 1 one;message 2 two;message 3 three;"] * 50
        assert world.reader.places(0) == 1

    run(backend, chat, scenario)


def test_a_page_that_was_read_before_an_edit_is_not_shared_after_it(
    backend: Backend, chat: str
) -> None:
    """Only followers that asked for it before are told of the edit afterwards."""

    async def scenario(world: World) -> None:
        await world.store("one", "two")
        other, early = world.follow().chunks(), world.follow(0).chunks()
        await take(other, "started")
        await world.quiet()
        world.reader.let_pages_return.clear()
        taking = asyncio.create_task(take(early, "edited 1 another"))
        while not world.reader.places(0):
            await asyncio.sleep(0.01)
        edit = world.backend.catalog.messages.edit
        await asyncio.to_thread(edit, world.token, 1, 1, {"text": "another"})
        await take(other, "edited 1 another")
        late = world.follow(0).chunks()
        asyncio.get_running_loop().call_later(0.1, world.reader.let_pages_return.set)
        assert await take(late, "two") == "message 1 another;message 2 two;"
        assert (await taking).startswith("message 1 ")

    run(backend, chat, scenario)


def test_a_page_does_not_pass_what_the_hub_has_read(
    backend: Backend, chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edit of a number after that is not told as one: the followers are told the number as it is."""

    async def scenario(world: World) -> None:
        await world.store("one")
        other = world.follow().chunks()
        await take(other, "started")
        await world.quiet()
        monkeypatch.setattr(world.hub, "wake", lambda _: None)  # what is stored is announced later
        await world.store("two")
        chunks = world.follow(0).chunks()
        assert await take(chunks, "one") == "message 1 one;"
        edit = world.backend.catalog.messages.edit
        await asyncio.to_thread(edit, world.token, 1, 2, {"text": "another"})
        monkeypatch.undo()
        world.hub.wake([world.key])
        assert await take(chunks, "another") == "message 2 another;"

    run(backend, chat, scenario)


def test_a_follower_that_would_miss_a_change_is_let_go(
    backend: Backend, chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client connects again, and reads the messages that matter to it."""
    monkeypatch.setattr(feed_module, "MAX_CHANGES", 1)

    async def scenario(world: World) -> None:
        await world.store("one", "two")
        lagging, other = world.follow(0).chunks(), world.follow(0).chunks()
        for chunks in (lagging, other):
            await take(chunks, "two")
        messages = world.backend.catalog.messages
        for number in (1, 2):
            await asyncio.to_thread(messages.edit, world.token, 1, number, {"text": "another"})
            assert await take(other, "another") == f"edited {number} another;"
        with pytest.raises(StopAsyncIteration):
            await anext(lagging)

    run(backend, chat, scenario)


def test_after_a_lost_subscription_nothing_is_told_from_memory(backend: Backend, chat: str) -> None:
    """An edit that nobody announced meanwhile is read from SQL by a follower that begins later."""

    async def scenario(world: World) -> None:
        first = world.follow(0).chunks()
        await world.store("one")
        assert await take(first, "one") == "message 1 one;"
        await world.quiet()
        stored = backend.catalog.messages.get(chat, 1, 1)
        assert isinstance(stored, Message)
        edit_unannounced(backend, stored, "edited")
        world.hub._on_connected()
        await asyncio.sleep(0)
        assert await take(world.follow(0).chunks(), "edited") == "message 1 edited;"

    run(backend, chat, scenario)


def test_a_follower_is_told_nothing_that_was_read_before_it_began(
    backend: Backend, chat: str
) -> None:
    """The notification of an edit may be on its way, and so may the page of another follower."""

    async def scenario(world: World) -> None:
        first = world.follow(0).chunks()
        await world.store("one")
        assert await take(first, "one") == "message 1 one;"
        await world.quiet()
        stored = backend.catalog.messages.get(chat, 1, 1)
        assert isinstance(stored, Message)
        world.reader.let_pages_return.clear()
        reads = world.reader.places(0)
        chunks = world.follow(0).chunks()
        early = asyncio.create_task(take_any(chunks))
        while world.reader.places(0) == reads:
            await asyncio.sleep(0.01)
        edit_unannounced(backend, stored, "edited")
        late = asyncio.create_task(take(world.follow(0).chunks(), "edited"))
        asyncio.get_running_loop().call_later(0.1, world.reader.let_pages_return.set)
        assert await late == "message 1 edited;"
        assert (await early).startswith("message 1 ")

    run(backend, chat, scenario)


def edit_unannounced(backend: Backend, stored: Message, new: str) -> None:
    """Edit a message of the only chat, and tell nobody."""
    with backend.database.begin() as tx:
        chat_id = tx.scalar(text("SELECT id FROM chat"))
        edit_message(tx, chat_id, stored, {"text": new})


def test_what_nobody_announced_is_found(
    backend: Backend, chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every few seconds the hub looks at all chats."""
    monkeypatch.setattr(type(backend.log), "notify_changes", lambda *_: None)

    async def scenario(world: World) -> None:
        chunks = world.follow().chunks()
        await take(chunks, "started")
        await world.quiet()
        await world.store("one")
        assert await take(chunks, "one") == "message 1 one;"

    run(backend, chat, scenario)


def test_the_last_follower_takes_the_chat_with_it(backend: Backend, chat: str) -> None:
    """Nothing is kept of a chat that nobody follows."""

    async def scenario(world: World) -> None:
        followers = [world.follow() for _ in range(2)]
        for follower in followers:
            assert world.hub.is_followed(world.key)
            follower.close()
            follower.close()
        assert not world.hub.is_followed(world.key)
        assert world.hub.open_followers == 0

    run(backend, chat, scenario)
