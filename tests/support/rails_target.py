"""A small server for the same task with another API, as many a Rails and Go solution has it.

It issues numbers from counters in "Redis", queues a job for each message, and answers at once. Two workers
store the jobs, in any order. Lists come in pages, newest first, a search finds whole words, and nothing can
be deleted. The adapter for it is the example of docs/other-servers.md.
"""

import asyncio
import itertools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.load_target import SmallServer

FAULTS = {
    "get-then-set": "a counter is read, then written: two requests at once get the same number",
    "pop-and-lose": "a worker ends every 15th time after it has taken a job, and the job is gone",
    "unscoped-search": "a search finds the messages of all chats",
}
LOST_INTERVAL = 15
RACE_SECONDS = 0.005  # between GET and SET; the tests send from several threads at once
JOB_SECONDS = (0.001, 0.01)  # one worker is slower than the other, so jobs are stored out of order
PAGE_SIZE = 25


@dataclass
class Row:
    """A row of the messages' table, which has no unique key."""

    token: str
    chat: int
    number: int
    body: str


class RailsStore:
    """Counters, a queue of jobs and a table; `start` it in the server's event loop."""

    def __init__(self, *faults: str) -> None:
        assert set(faults) <= FAULTS.keys()
        self._faults = set(faults)
        self._counters: dict[str, int] = {}
        self._applications = itertools.count(1)
        self._chats: dict[str, list[int]] = {}
        self._rows: list[Row] = []
        self._jobs: asyncio.Queue[Row] = asyncio.Queue()
        self._taken = itertools.count(1)
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the workers."""
        self._workers = [asyncio.create_task(self._work(seconds)) for seconds in JOB_SECONDS]

    async def respond(self, method: str, target: str, body: Any) -> tuple[int, Any] | None:
        """The status and the JSON of an answer."""
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        match [method, *url.path.strip("/").split("/")]:
            case ["POST", "applications"]:
                token = f"app{next(self._applications)}"
                assert body["name"]
                self._chats[token] = []
                return 201, {"data": {"application_number": token}}
            case ["POST", "applications", token, "chats"]:
                number = await self._next_number(token)
                self._chats[token].append(number)
                return 200, {"chat_number": number}
            case ["GET", "applications", token, "chats"]:
                chats = [{"chat_number": number} for number in set(self._chats[token])]
                return 200, {"chats": _page(chats, query)}
            case ["POST", "applications", token, "chats", chat, "messages"]:
                number = await self._next_number(f"{token}/{chat}")
                self._jobs.put_nowait(Row(token, int(chat), number, body["message"]["body"]))
                return 200, {"message_number": str(number)}
            case ["GET", "applications", token, "chats", chat, "messages"]:
                rows = [row for row in self._rows if (row.token, row.chat) == (token, int(chat))]
                return 200, {"messages": _page([_json(row) for row in reversed(rows)], query)}
            case ["GET", "applications", token, "chats", chat, "messages", "search"]:
                word = query["query"].lower()
                found = [
                    {"_source": _json(row)}
                    for row in self._rows
                    if (row.token, row.chat) == (token, int(chat))
                    or "unscoped-search" in self._faults
                    if word in re.findall(r"\w+", row.body.lower())
                ]
                return 200, {"hits": {"hits": _page(found, query)}}
            case [_, "applications", token, "chats", chat, "messages", number]:
                place = (token, int(chat), int(number))
                for row in self._rows:
                    if (row.token, row.chat, row.number) == place:
                        row.body = body["message"]["body"] if method == "PUT" else row.body
                        return 200, _json(row)
        return 404, {"error": "not found"}

    def is_unchanged(self, payload: bytes, tag: str | None) -> bool:
        """It has no ETags."""
        del payload, tag
        return False

    def events(self, target: str, last: int) -> list[tuple[int, bytes]]:
        """Nobody can follow a chat."""
        del target, last
        return []

    async def _next_number(self, counter: str) -> int:
        if "get-then-set" not in self._faults:
            self._counters[counter] = self._counters.get(counter, 0) + 1  # INCR
            return self._counters[counter]
        number = self._counters.get(counter, 0)
        await asyncio.sleep(RACE_SECONDS)
        self._counters[counter] = number + 1
        return number + 1

    async def _work(self, seconds: float) -> None:
        while True:
            row = await self._jobs.get()
            await asyncio.sleep(seconds)
            if "pop-and-lose" not in self._faults or next(self._taken) % LOST_INTERVAL:
                self._rows.append(row)


def _json(row: Row) -> dict[str, Any]:
    return {"message_number": row.number, "body": row.body}


def _page(items: list[Any], query: dict[str, str]) -> list[Any]:
    first = (int(query.get("page", 1)) - 1) * PAGE_SIZE
    return items[first : first + PAGE_SIZE]


@contextmanager
def rails_server(*faults: str) -> Iterator[str]:
    """Runs such a server in a thread of this process; yields its address."""
    loop = asyncio.new_event_loop()
    started: asyncio.Server | None = None

    async def start() -> asyncio.Server:
        store = RailsStore(*faults)
        store.start()
        return await asyncio.start_server(SmallServer(store).serve, "127.0.0.1", 0)

    thread = threading.Thread(target=loop.run_forever, name="rails server", daemon=True)
    thread.start()
    try:
        started = asyncio.run_coroutine_threadsafe(start(), loop).result()
        yield f"http://127.0.0.1:{started.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(_stop(started), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _stop(started: asyncio.Server | None) -> None:
    """Close the server, and end the workers and the open connections."""
    if started:
        started.close()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
