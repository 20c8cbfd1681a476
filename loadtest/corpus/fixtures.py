"""The fixtures of a run: its applications, their chats, and the messages that the chats begin with.

Each run creates its own, so that no other run's messages are in them and the audit can explain every number.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from random import Random
from typing import Any

from loadtest.adapter.operations import Operation
from loadtest.corpus.preload import NO_PRELOAD, Preload
from loadtest.corpus.texts import Language, Marks, digest, language_of
from loadtest.errors import Unusable
from loadtest.polling import wait_until
from loadtest.recording import RecordedOutcome, Recorder
from loadtest.web import ApiClient

CONCURRENT_REQUESTS = 8  # while the fixtures are created
BATCH_SIZE = 500
STORED_TIMEOUT_SECONDS = 60.0


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
    """The tokens of the applications, and the chats as (index of the application, number).

    The applications of the preload have the indices behind these.
    """

    tokens: list[str]
    chats: list[tuple[int, int]]
    preload: Preload = NO_PRELOAD

    @cached_property
    def readable_chats(self) -> list[tuple[int, int]]:
        """The chats that users read and search: those of the run, and those of the preload."""
        return [*self.chats, *self._preloaded]

    def preloaded_messages(self, application: int, chat: int) -> int | None:
        """How many messages a chat of the preload has; None for a chat of the run."""
        return self._preloaded.get((application, chat))

    def token(self, application: int) -> str:
        """The token of an application of the run, or of the preload."""
        place = application - len(self.tokens)
        return self.tokens[application] if place < 0 else self.preload.tokens[place]

    def language(self, application: int, chat: int) -> Language:
        """The language of a chat."""
        place = application - len(self.tokens)
        return language_of(application if place < 0 else place, chat)

    @cached_property
    def _preloaded(self) -> dict[tuple[int, int], int]:
        own = len(self.tokens)
        return {(own + c.application, c.number): c.messages for c in self.preload.chats}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Fixtures":
        """The fixtures from the output of `asdict`, which may have been through JSON."""
        return cls(
            data["tokens"],
            [(application, chat) for application, chat in data["chats"]],
            Preload.from_json(data["preload"]),
        )


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


def remove(client: ApiClient, fixtures: Fixtures) -> int:
    """Delete the applications with everything in them; returns how many the server has not deleted.

    The server deletes what is in them afterwards.
    """
    if Operation.DELETE_APPLICATION not in client.adapter:
        return len(fixtures.tokens)
    with ThreadPoolExecutor(CONCURRENT_REQUESTS) as pool:
        answers = list(
            pool.map(
                lambda token: client.request(Operation.DELETE_APPLICATION, {"token": token}),
                fixtures.tokens,
            )
        )
    done = client.adapter.endpoint(Operation.DELETE_APPLICATION).status
    return sum(answer.status not in done for answer in answers)


def _application(client: ApiClient, place: int) -> str:
    answer = client.request_done(Operation.CREATE_APPLICATION, name=f"load {place + 1}")
    return client.adapter.endpoint(Operation.CREATE_APPLICATION).token(answer)


def _chat(client: ApiClient, tokens: list[str], place: int) -> tuple[int, int]:
    application = place % len(tokens)
    answer = client.request_done(Operation.CREATE_CHAT, token=tokens[application])
    return application, client.adapter.endpoint(Operation.CREATE_CHAT).number(answer)


def _send_first_messages(
    client: ApiClient,
    fixtures: Fixtures,
    count: int,
    seed: int,
    recorder: Recorder,
    application: int,
    chat: int,
) -> None:
    """Send a chat's first messages, and wait until all of them are stored."""
    adapter, token = client.adapter, fixtures.tokens[application]
    marks = Marks(seed, adapter.finds_words)
    sender = f"f{application}.{chat}"
    rng, language = Random(f"{seed}/{sender}"), fixtures.language(application, chat)
    texts = [language.text(rng, marks.mark(sender, n)) for n in range(count)]
    last, size = 0, min(BATCH_SIZE, adapter.batch_size)
    for start in range(0, count, size):
        batch = texts[start : start + size]
        if size > 1:
            operation = Operation.SEND_BATCH
            answer = client.request_done(operation, token=token, chat=chat, texts=batch)
        else:
            operation = Operation.SEND
            answer = client.request_done(operation, token=token, chat=chat, text=batch[0])
        for number, text in enumerate(batch, adapter.endpoint(operation).number(answer)):
            recorder.record_outcome(
                RecordedOutcome.CREATED, application, chat, number, digest(text)
            )
            last = number

    def is_stored() -> bool:
        if adapter.waits_by_reading:
            answer = client.request(Operation.READ, {"token": token, "chat": chat, "number": last})
            return answer.status in adapter.endpoint(Operation.READ).status
        listed = client.list_all(Operation.LIST, lambda _: False, token=token, chat=chat)
        return sum(1 for _ in listed) >= count

    deadline = time.monotonic() + STORED_TIMEOUT_SECONDS
    if not wait_until(is_stored, deadline, pause=0.05):
        raise Unusable(
            f"{client.host} did not store the scenario's first messages within"
            f" {STORED_TIMEOUT_SECONDS:.0f} s"
        )
