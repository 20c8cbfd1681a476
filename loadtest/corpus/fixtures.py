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

from loadtest.corpus.texts import Language, digest, languages, mark
from loadtest.errors import Unusable
from loadtest.recording import Outcome, Recorder
from loadtest.web import ApiClient, messages_path

CONCURRENT_REQUESTS = 8  # requests, while it is made
BATCH_SIZE = 500
STORED_TIMEOUT_SECONDS = 60.0
LANGUAGE_STRIDE = 4  # from an application's first language to the next one's


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
class Fixtures:
    """The applications by their tokens, and the chats as (application, number)."""

    tokens: list[str]
    chats: list[tuple[int, int]]

    def language(self, application: int, chat: int) -> Language:
        """The language that is available in a chat; a few chats of a few applications speak them all."""
        available = languages()
        return available[(application * LANGUAGE_STRIDE + chat) % len(available)]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Fixtures":
        """From what `asdict` gives, also by way of JSON."""
        return cls(data["tokens"], [(application, chat) for application, chat in data["chats"]])


def create(client: ApiClient, layout: Layout, seed: int, recorder: Recorder) -> Fixtures:
    """Create it. Raises Unreachable or Unusable where the server does not do so."""
    with ThreadPoolExecutor(CONCURRENT_REQUESTS) as pool:

        def each(do: Callable[[int], Any], count: int) -> list[Any]:
            return list(pool.map(do, range(count)))

        tokens: list[str] = each(partial(_application, client), layout.applications)
        chats: list[tuple[int, int]] = each(partial(_chat, client, tokens), layout.chats)
        for application, chat in chats:
            recorder.record_outcome(Outcome.CHAT_CREATED, application, chat)
        fixtures = Fixtures(tokens, sorted(chats))
        if layout.messages:
            send_first = partial(
                _send_first_messages, client, fixtures, layout.messages, seed, recorder
            )
            each(lambda place: send_first(*fixtures.chats[place]), layout.chats)
    return fixtures


def _application(client: ApiClient, place: int) -> str:
    body = client.request_ok(
        "POST", "/applications", {"application": {"name": f"load {place + 1}"}}
    )
    return str(body["token"])


def _chat(client: ApiClient, tokens: list[str], place: int) -> tuple[int, int]:
    application = place % len(tokens)
    body = client.request_ok("POST", f"/applications/{tokens[application]}/chats")
    return application, int(body["number"])


def _send_first_messages(
    client: ApiClient,
    fixtures: Fixtures,
    count: int,
    seed: int,
    recorder: Recorder,
    application: int,
    chat: int,
) -> None:
    """Say so many lines, and wait until they can be read."""
    token = fixtures.tokens[application]
    sender = f"f{application}.{chat}"
    rng, language = Random(f"{seed}/{sender}"), fixtures.language(application, chat)
    texts = [language.text(rng, mark(seed, sender, n)) for n in range(count)]
    last = 0
    for start in range(0, count, BATCH_SIZE):
        batch = texts[start : start + BATCH_SIZE]
        body = {"messages": [{"text": text} for text in batch]}
        first = int(client.request_ok("POST", f"{messages_path(token, chat)}/batch", body)["first"])
        for number, text in enumerate(batch, first):
            recorder.record_outcome(Outcome.CREATED, application, chat, number, digest(text))
            last = number
    deadline = time.monotonic() + STORED_TIMEOUT_SECONDS
    while client.request("GET", messages_path(token, chat, last)).status != 200:
        if time.monotonic() > deadline:
            raise Unusable(f"{client.host} does not store what the scenario begins with")
        time.sleep(0.05)
