"""A simulated user: its requests, each named by its route and recorded in the ledger."""

import json
import time
from collections import deque
from collections.abc import Mapping
from random import Random
from typing import Any, NamedTuple

from locust import FastHttpUser, TaskSet
from locust.contrib.fasthttp import ResponseContextManager
from locust.env import Environment
from locust.exception import StopUser

from loadtest.corpus.fixtures import ScenarioLayout
from loadtest.corpus.texts import digest, languages, mark
from loadtest.recording import (
    BATCH,
    DELETE,
    EDIT,
    LIST,
    NEW_CHAT,
    READ,
    SEARCH,
    SEND,
    RecordedOutcome,
)
from loadtest.users.coordination import coordinator
from loadtest.users.requests import method_of, name_of, record_answer
from loadtest.web import ApiAnswer, messages_path

MAX_OWN_MESSAGES = 50  # a user edits or deletes one of the newest that it has sent
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}

languages()  # read before Locust forks, so that its processes share it and no first request waits for it


class SentMessage(NamedTuple):
    """The chat that a message was sent to, and the answer."""

    application: int
    chat: int
    answer: ApiAnswer


class ChatTasks(TaskSet):
    """The tasks of a scenario, chosen by the user's seeded random numbers instead of Locust's."""

    user: "ChatUser"

    def get_next_task(self) -> Any:
        """A random task, by weight."""
        return self.user.rng.choice(self.tasks)


class ChatUser(FastHttpUser):
    """Sends requests one after another: without a pause (closed model) or at each arrival (open model)."""

    abstract = True
    layout: ScenarioLayout
    concurrency = 1
    connection_timeout = 10.0
    network_timeout = 20.0  # the server may delay an edit for 5 s

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._coordinator = coordinator()
        self._sender = f"u{self._coordinator.next_user_number()}"
        self._sent_count = 0
        self._intended: float | None = None
        self._own_messages: deque[tuple[int, int, int]] = deque(maxlen=MAX_OWN_MESSAGES)
        self.rng = Random(f"{self._coordinator.seed}/{self._sender}")

    def on_start(self) -> None:
        """In the open model, wait for an arrival before the first request."""
        if self._coordinator.arrivals is not None:
            self.wait()  # type: ignore[no-untyped-call]

    def wait_time(self) -> float:
        """Seconds until the next request: 0, or in the open model until the next arrival of this process.

        The number of an arrival determines its request, independent of the user that takes it.
        """
        if self._coordinator.is_over:
            raise StopUser
        if self._coordinator.arrivals is None:
            return 0.0
        number, at = next(self._coordinator.arrivals, (0, None))
        if at is None:
            raise StopUser
        self._sender, self._sent_count, self._intended = f"a{number}", 0, at
        self.rng.seed(f"{self._coordinator.seed}/{self._sender}")
        return max(at - (self._coordinator.now or 0), 0.0)

    # -- requests ----------------------------------------------------------------------------------

    def send(self) -> None:
        """Send a message to a random chat."""
        self._send(SEND)

    def send_many(self, count: int) -> None:
        """Send `count` messages in one request."""
        application, chat = self._random_chat()
        texts = [self._next_text(application, chat) for _ in range(count)]
        path = f"{messages_path(self._token(application), chat)}/batch"
        body = {"messages": [{"text": text} for text in texts]}
        answer = self._request(BATCH, path, (202, 201), body)
        self._record_creation(answer, application, chat, "first", texts)

    def list_page(self) -> None:
        """List the first page of a chat, or a later one."""
        application, chat = self._random_chat()
        after = self.rng.choice((0, 0, 50, 100))
        self._request(
            LIST, messages_path(self._token(application), chat, limit=50, after=after), (200,)
        )

    def read(self) -> None:
        """Read the newest message that this user has sent."""
        if not self._own_messages:
            return self._act_without_own_message()
        application, chat, number = self._own_messages[-1]
        self._request(READ, messages_path(self._token(application), chat, number), (200, 202))
        return None

    def search(self) -> None:
        """Search a chat for a word of its language; frequent words come more often."""
        application, chat = self._random_chat()
        keyword = self._coordinator.fixtures.language(application, chat).keyword(self.rng)
        path = messages_path(self._token(application), chat, keyword=keyword, limit=50)
        self._request(SEARCH, path, (200,))

    def edit(self) -> None:
        """Edit a message that this user has sent."""
        if not self._own_messages:
            return self._act_without_own_message()
        application, chat, number = self._own_messages[self._random_own_index()]
        text = self._next_text(application, chat)
        path = messages_path(self._token(application), chat, number)
        status = self._request(EDIT, path, (200,), {"message": {"text": text}}).status
        outcome = {200: RecordedOutcome.EDITED}.get(
            status, RecordedOutcome.EDIT_UNKNOWN if _is_unknown(status) else None
        )
        if outcome:
            self._coordinator.recorder.record_outcome(
                outcome, application, chat, number, digest(text)
            )
        return None

    def delete(self) -> None:
        """Delete a message that this user has sent."""
        if not self._own_messages:
            return self._act_without_own_message()
        place = self._random_own_index()
        application, chat, number = self._own_messages[place]
        del self._own_messages[place]
        path = messages_path(self._token(application), chat, number)
        status = self._request(DELETE, path, (204,)).status
        outcome = {204: RecordedOutcome.DELETED}.get(
            status, RecordedOutcome.DELETION_UNKNOWN if _is_unknown(status) else None
        )
        if outcome:
            self._coordinator.recorder.record_outcome(outcome, application, chat, number)
        return None

    def new_chat(self) -> None:
        """Create a chat."""
        application = self.rng.randrange(len(self._coordinator.fixtures.tokens))
        path = f"/applications/{self._token(application)}/chats"
        status, body, _ = self._request(NEW_CHAT, path, (202, 201), {})
        if number := body and body.get("number"):
            self._coordinator.recorder.record_outcome(
                RecordedOutcome.CHAT_CREATED, application, number
            )
        elif _is_unknown(status):
            self._coordinator.recorder.record_outcome(
                RecordedOutcome.CHAT_CREATION_UNKNOWN, application, 0
            )

    # -- shared steps ------------------------------------------------------------------------------

    def _send(self, route: int, **query: object) -> SentMessage:
        """Send a message to a random chat, and record the answer."""
        application, chat = self._random_chat()
        text = self._next_text(application, chat)
        path = messages_path(self._token(application), chat, None, **query)
        answer = self._request(route, path, (202, 201), {"message": {"text": text}})
        self._record_creation(answer, application, chat, "number", [text])
        return SentMessage(application, chat, answer)

    def _act_without_own_message(self) -> None:
        """The request of a user that should edit, read or delete a message but has sent none yet.

        In the open model it lists a page: which user is free for an arrival is random, and the texts that a
        run sends must not depend on that. With `--tags`, when sending may not be among the tasks, it sends a
        message.
        """
        options = self._coordinator.environment.parsed_options
        chosen = options and (options.tags or options.exclude_tags)
        if self._coordinator.arrivals is None or chosen:
            self.send()
        else:
            self.list_page()

    def _random_own_index(self) -> int:
        """A random index into its own messages; takes exactly one number from `rng`."""
        return int(self.rng.random() * len(self._own_messages))

    def _random_chat(self) -> tuple[int, int]:
        return self.rng.choice(self._coordinator.fixtures.chats)

    def _token(self, application: int) -> str:
        return self._coordinator.fixtures.tokens[application]

    def _next_text(self, application: int, chat: int) -> str:
        self._sent_count += 1
        language = self._coordinator.fixtures.language(application, chat)
        return language.text(self.rng, mark(self._coordinator.seed, self._sender, self._sent_count))

    def _record_creation(
        self, answer: ApiAnswer, application: int, chat: int, field: str, texts: list[str]
    ) -> None:
        """Record the answer to a creation, which has the first number in a field of its body."""
        record_outcome = self._coordinator.recorder.record_outcome
        if first := answer.body and answer.body.get(field):
            for number, text in enumerate(texts, first):
                record_outcome(RecordedOutcome.CREATED, application, chat, number, digest(text))
            self._own_messages.append((application, chat, first))
        elif _is_unknown(answer.status):
            for text in texts:
                record_outcome(RecordedOutcome.CREATION_UNKNOWN, application, chat, 0, digest(text))

    def _request(
        self,
        route: int,
        path: str,
        expected: tuple[int, ...],
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> ApiAnswer:
        """Send and record one request; the answer has the JSON if its status is expected.

        Without an answer the status is 0. The latency counts from the time at which the request was due, in
        Locust's statistics, too.
        """
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        begin = self._coordinator.now or 0.0
        intended, self._intended = begin if self._intended is None else self._intended, None
        late = max(begin - intended, 0.0)
        started = time.perf_counter()
        with self.client.request(
            method_of(route),
            f"/api/v1{path}",
            name=name_of(route),
            data=data,  # type: ignore[arg-type]  # Locust sends bytes unchanged
            headers={**(_JSON if data else {}), **(headers or {})},
            catch_response=True,
        ) as response:
            micros = int((time.perf_counter() - started + late) * 1e6)
            answer = _read(response) if response.status_code in expected else None
            failed = response.status_code not in expected or answer is _UNREADABLE
            record_answer(self._coordinator.recorder, route, intended, micros, response, failed)
        tag = response.headers.get("etag") if response.headers else None
        return ApiAnswer(response.status_code, None if failed else answer, tag)


_UNREADABLE = object()


def _read(response: ResponseContextManager) -> Any:
    try:
        return json.loads(response.content) if response.content else None
    except ValueError:
        return _UNREADABLE


def _is_unknown(status: int) -> bool:
    """Whether the server may or may not have done the work."""
    return status == 0 or status >= 500
