"""The fixtures of a run: its applications, their chats, and the messages that the chats begin with.

Each run creates its own, so that no other run's messages are in them and the audit can explain every number.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any

from loadtest.corpus.texts import Language, digest, languages, mark
from loadtest.errors import Unusable
from loadtest.polling import wait_until
from loadtest.recording import RecordedOutcome, Recorder
from loadtest.web import ApiClient, messages_path

CONCURRENT_REQUESTS = 8  # while the fixtures are created
BATCH_SIZE = 500
STORED_TIMEOUT_SECONDS = 60.0
LANGUAGE_STRIDE = 4  # from an application's first language to the next one's


@dataclass(frozen=True)
class ScenarioLayout:
    """How many applications and chats a scenario uses, and what each chat begins with."""

    applications: int
    chats: int  # of all applications together
    messages_per_chat: int = 0
    followers_per_chat: int = 0

    def with_chats(self, chats: int | None) -> "ScenarioLayout":
        """The same layout with another number of chats; None changes nothing."""
        if chats is None:
            return self
        return replace(self, applications=min(self.applications, chats), chats=chats)


@dataclass(frozen=True)
class Fixtures:
    """The tokens of the applications, and the chats as (index of the application, number)."""

    tokens: list[str]
    chats: list[tuple[int, int]]

    def language(self, application: int, chat: int) -> Language:
        """The language of a chat; a few chats of a few applications are enough to use every language."""
        available = languages()
        return available[(application * LANGUAGE_STRIDE + chat) % len(available)]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Fixtures":
        """The fixtures from the output of `asdict`, which may have been through JSON."""
        return cls(data["tokens"], [(application, chat) for application, chat in data["chats"]])


def create(client: ApiClient, layout: ScenarioLayout, seed: int, recorder: Recorder) -> Fixtures:
    """Create the fixtures. Raises Unreachable or Unusable if the server does not create them."""
    with ThreadPoolExecutor(CONCURRENT_REQUESTS) as pool:

        def each(do: Callable[[int], Any], count: int) -> list[Any]:
            return list(pool.map(do, range(count)))

        tokens: list[str] = each(partial(_application, client), layout.applications)
        chats: list[tuple[int, int]] = each(partial(_chat, client, tokens), layout.chats)
        for application, chat in chats:
            recorder.record_outcome(RecordedOutcome.CHAT_CREATED, application, chat)
        fixtures = Fixtures(tokens, sorted(chats))
        if layout.messages_per_chat:
            send_first = partial(
                _send_first_messages, client, fixtures, layout.messages_per_chat, seed, recorder
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
    """Send a chat's first messages, and wait until the last one is stored."""
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
            recorder.record_outcome(
                RecordedOutcome.CREATED, application, chat, number, digest(text)
            )
            last = number
    path = messages_path(token, chat, last)
    deadline = time.monotonic() + STORED_TIMEOUT_SECONDS
    if not wait_until(lambda: client.request("GET", path).status == 200, deadline, pause=0.05):
        raise Unusable(
            f"{client.host} did not store the scenario's first messages within"
            f" {STORED_TIMEOUT_SECONDS:.0f} s"
        )
