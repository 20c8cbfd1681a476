"""A simulated user: its requests, each named by its route and recorded in the ledger."""

import json
import time
from collections import deque
from random import Random
from typing import Any

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
    ROUTES,
    SEARCH,
    SEND,
    RecordedOutcome,
)
from loadtest.users.coordination import coordinator
from loadtest.web import messages_path

MAX_OWN_MESSAGES = 50  # a user edits or deletes one of the newest that it has sent
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}
_NAMES = [route.partition(" ")[2] for route in ROUTES]

languages()  # read before Locust forks, so that its processes share it and no first request waits for it


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
        application, chat = self._random_chat()
        text = self._next_text(application, chat)
        path = messages_path(self._token(application), chat)
        status, body = self._request(SEND, path, (202, 201), {"message": {"text": text}})
        self._record_creation(status, application, chat, body and body.get("number"), [text])

    def send_many(self, count: int) -> None:
        """Send `count` messages in one request."""
        application, chat = self._random_chat()
        texts = [self._next_text(application, chat) for _ in range(count)]
        path = f"{messages_path(self._token(application), chat)}/batch"
        body = {"messages": [{"text": text} for text in texts]}
        status, answer = self._request(BATCH, path, (202, 201), body)
        self._record_creation(status, application, chat, answer and answer.get("first"), texts)

    def list_newest(self) -> None:
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
        status, _ = self._request(EDIT, path, (200,), {"message": {"text": text}})
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
        status, _ = self._request(DELETE, path, (204,))
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
        status, body = self._request(NEW_CHAT, path, (202, 201), {})
        if number := body and body.get("number"):
            self._coordinator.recorder.record_outcome(
                RecordedOutcome.CHAT_CREATED, application, number
            )
        elif _is_unknown(status):
            self._coordinator.recorder.record_outcome(
                RecordedOutcome.CHAT_CREATION_UNKNOWN, application, 0
            )

    # -- shared steps ------------------------------------------------------------------------------

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
            self.list_newest()

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
        self, status: int, application: int, chat: int, first: int | None, texts: list[str]
    ) -> None:
        record_outcome = self._coordinator.recorder.record_outcome
        if first is not None:
            for number, text in enumerate(texts, first):
                record_outcome(RecordedOutcome.CREATED, application, chat, number, digest(text))
            self._own_messages.append((application, chat, first))
        elif _is_unknown(status):
            for text in texts:
                record_outcome(RecordedOutcome.CREATION_UNKNOWN, application, chat, 0, digest(text))

    def _request(
        self, route: int, path: str, expected: tuple[int, ...], body: Any = None
    ) -> tuple[int, Any]:
        """Send and record one request; returns its status and, if that is expected, the JSON.

        Without an answer the status is 0. The latency counts from the time at which the request was due, in
        Locust's statistics, too.
        """
        method = ROUTES[route].partition(" ")[0]
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        begin = self._coordinator.now or 0.0
        intended, self._intended = begin if self._intended is None else self._intended, None
        late = max(begin - intended, 0.0)
        started = time.perf_counter()
        with self.client.request(
            method,
            f"/api/v1{path}",
            name=_NAMES[route],
            data=data,  # type: ignore[arg-type]  # Locust sends bytes unchanged
            headers=_JSON if data else None,
            catch_response=True,
        ) as response:
            micros = int((time.perf_counter() - started + late) * 1e6)
            response.request_meta["response_time"] = micros / 1000
            answer = _read(response) if response.status_code in expected else None
            failed = response.status_code not in expected or answer is _UNREADABLE
            self._coordinator.recorder.record_request(
                intended, micros, route, response.status_code, failed
            )
            if failed:
                response.failure(f"answered {response.status_code or 'nothing'}")
            else:
                response.success()
        return response.status_code, None if failed else answer


_UNREADABLE = object()


def _read(response: ResponseContextManager) -> Any:
    try:
        return json.loads(response.content) if response.content else None
    except ValueError:
        return _UNREADABLE


def _is_unknown(status: int) -> bool:
    """Whether the server may or may not have done the work."""
    return status == 0 or status >= 500
