"""Which engines do not answer, asked so that one that hangs holds up neither the asker nor the others."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from backend.errors import InstaChatError

SECONDS = 0.8  # an engine that takes longer counts as away


class EngineWatch:
    """Asks the engines. For one event loop; `asks` raise an InstaChatError where there is no answer."""

    def __init__(self, asks: Mapping[str, Callable[[], object]]) -> None:
        self._asks = asks
        self._threads = ThreadPoolExecutor(len(asks), "health")
        self._under_way: dict[str, asyncio.Future[bool]] = {}

    async def away(self) -> list[str]:
        """The names of those that do not answer; takes no longer than SECONDS."""
        asked = {name: self._ask(name) for name in self._asks}
        done, _ = await asyncio.wait(asked.values(), timeout=SECONDS)
        return [name for name, task in asked.items() if task not in done or not task.result()]

    def close(self) -> None:
        """Leave those that hang."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask(self, name: str) -> "asyncio.Future[bool]":
        """The question that is under way, or a new one: a hanging engine holds one thread, not more."""
        task = self._under_way.get(name)
        if task is None or task.done():
            loop = asyncio.get_running_loop()
            task = loop.run_in_executor(self._threads, _answers, self._asks[name])
            self._under_way[name] = task
        return task


def _answers(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except InstaChatError:
        return False
    return True
