"""What a run's users talk on: applications of its own, their chats, and what was said there before.

Each run makes its own, so that no run meets another's messages and every number can be accounted for.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from loadtest.corpus.texts import Tongue, digest, mark, tongues
from loadtest.errors import Unusable
from loadtest.recording import Recorder, What
from loadtest.web import Web, messages

AT_ONCE = 8  # requests, while it is made
BATCH = 500
STORED_WITHIN = 60.0
STRIDE = 4  # from an application's first language to the next one's


@dataclass(frozen=True)
class Layout:
    """How many applications and chats a scenario has, and how many messages each chat begins with."""

    applications: int
    chats: int  # in all
    messages: int = 0

    def with_chats(self, chats: int | None) -> "Layout":
        """The same with so many chats."""
        if chats is None:
            return self
        return Layout(min(self.applications, chats), chats, self.messages)


@dataclass(frozen=True)
class Ground:
    """The applications by their tokens, and the chats as (application, number)."""

    tokens: list[str]
    chats: list[tuple[int, int]]

    def tongue(self, application: int, chat: int) -> Tongue:
        """The language that is spoken in a chat; a few chats of a few applications speak them all."""
        spoken = tongues()
        return spoken[(application * STRIDE + chat) % len(spoken)]

    @classmethod
    def load(cls, data: dict[str, Any]) -> "Ground":
        """From what `asdict` gives, also by way of JSON."""
        return cls(data["tokens"], [(application, chat) for application, chat in data["chats"]])


def make(web: Web, layout: Layout, seed: int, recorder: Recorder) -> Ground:
    """Create it. Raises Unreachable or Unusable where the server does not do so."""
    with ThreadPoolExecutor(AT_ONCE) as pool:

        def each(do: Callable[[int], Any], count: int) -> list[Any]:
            return list(pool.map(do, range(count)))

        tokens: list[str] = each(partial(_application, web), layout.applications)
        chats: list[tuple[int, int]] = each(partial(_chat, web, tokens), layout.chats)
        for application, chat in chats:
            recorder.fate(What.CHAT_CREATED, application, chat)
        ground = Ground(tokens, sorted(chats))
        if layout.messages:
            fill = partial(_fill, web, ground, layout.messages, seed, recorder)
            each(lambda place: fill(*ground.chats[place]), layout.chats)
    return ground


def _application(web: Web, place: int) -> str:
    body = web.need("POST", "/applications", {"application": {"name": f"load {place + 1}"}})
    return str(body["token"])


def _chat(web: Web, tokens: list[str], place: int) -> tuple[int, int]:
    application = place % len(tokens)
    body = web.need("POST", f"/applications/{tokens[application]}/chats")
    return application, int(body["number"])


def _fill(
    web: Web,
    ground: Ground,
    count: int,
    seed: int,
    recorder: Recorder,
    application: int,
    chat: int,
) -> None:
    """Say so many lines, and wait until they can be read."""
    token = ground.tokens[application]
    speaker = f"f{application}.{chat}"
    chance, tongue = Random(f"{seed}/{speaker}"), ground.tongue(application, chat)
    texts = [tongue.text(chance, mark(seed, speaker, n)) for n in range(count)]
    last = 0
    for start in range(0, count, BATCH):
        some = texts[start : start + BATCH]
        body = {"messages": [{"text": text} for text in some]}
        first = int(web.need("POST", f"{messages(token, chat)}/batch", body)["first"])
        for number, text in enumerate(some, first):
            recorder.fate(What.CREATED, application, chat, number, digest(text))
            last = number
    deadline = time.monotonic() + STORED_WITHIN
    while web.ask("GET", messages(token, chat, last)).status != 200:
        if time.monotonic() > deadline:
            raise Unusable(f"{web.host} does not store what the scenario begins with")
        time.sleep(0.05)
