"""A simulated user: its requests, each named by its route and recorded in the ledger."""

import json
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import Any, NamedTuple, TypeVar

from locust import FastHttpUser, TaskSet
from locust.contrib.fasthttp import ResponseContextManager
from locust.env import Environment
from locust.exception import StopUser

from loadtest.adapter.answers import NO_ANSWER, ApiAnswer, ListedItem
from loadtest.adapter.endpoint import Endpoint
from loadtest.adapter.operations import Operation
from loadtest.corpus.fixtures import ScenarioLayout
from loadtest.corpus.texts import digest, languages
from loadtest.errors import UnexpectedAnswer
from loadtest.recording import RecordedOutcome
from loadtest.run.choices import Scenario
from loadtest.users.coordination import coordinator
from loadtest.users.requests import name_of, record_answer

MAX_OWN_MESSAGES = 50  # a user edits or deletes one of the newest that it has sent
LISTED = 50  # messages of a page
_NOT_MODIFIED = 304
_Task = TypeVar("_Task", bound=Callable[..., None])

languages()  # read before Locust forks, so that its processes share it and no first request waits for it


class SentMessage(NamedTuple):
    """The chat that a message was sent to, and its number; None without one."""

    application: int
    chat: int
    number: int | None


def sends(operation: Operation) -> Callable[[_Task], _Task]:
    """Marks a task that is left out if the server can't do the operation."""

    def mark(task: _Task) -> _Task:
        task.operation = operation  # type: ignore[attr-defined]
        return task

    return mark


class ChatTasks(TaskSet):
    """The tasks of a scenario, chosen by the user's seeded random numbers instead of Locust's."""

    user: "ChatUser"

    def __init__(self, parent: "ChatUser") -> None:
        super().__init__(parent)
        adapter = coordinator().adapter
        self._possible = [
            task
            for task in self.tasks
            if (operation := getattr(task, "operation", None)) is None or operation in adapter
        ]

    def get_next_task(self) -> Any:
        """A random task, by weight, of those that the server can do."""
        return self.user.rng.choice(self._possible)


class ChatUser(FastHttpUser):
    """Sends requests one after another: without a pause (closed model) or at each arrival (open model)."""

    abstract = True
    scenario: Scenario
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
        self._send()

    def send_many(self, count: int) -> None:
        """Send `count` messages in one request, or as many as the server takes."""
        application, chat = self._random_chat()
        count = min(count, self._coordinator.adapter.batch_size)
        texts = [self._next_text(application, chat) for _ in range(count)]
        answer = self._request_in(application, chat, Operation.SEND_BATCH, texts=texts)
        self._record_creation(answer, application, chat, texts)

    def list_page(self) -> None:
        """List the first page of a chat, or a later one."""
        application, chat = self._random_chat_to_read()
        after = self.rng.choice((0, 0, 1, 2)) * LISTED
        self._request_in(
            application,
            chat,
            Operation.LIST,
            limit=LISTED,
            after=after,
            offset=after,
            page=after // LISTED + 1,
        )

    def read(self) -> None:
        """Read the newest message that this user has sent."""
        if not self._own_messages:
            return self._act_without_own_message()
        application, chat, number = self._own_messages[-1]
        self._request_in(
            *(application, chat, Operation.READ),
            also=self._coordinator.adapter.pending,
            number=number,
        )
        return None

    def search(self) -> None:
        """Search a chat for a word of its language; frequent words come more often."""
        application, chat = self._random_chat_to_read()
        keyword = self._coordinator.fixtures.language(application, chat).keyword(self.rng)
        self._request_in(
            application,
            chat,
            Operation.SEARCH,
            keyword=keyword,
            limit=LISTED,
            after=0,
            offset=0,
            page=1,
        )

    def edit(self) -> None:
        """Edit a message that this user has sent."""
        if not self._own_messages:
            return self._act_without_own_message()
        application, chat, number = self._own_messages[self._random_own_index()]
        text = self._next_text(application, chat)
        answer = self._request_in(application, chat, Operation.EDIT, number=number, text=text)
        if answer.done or answer.is_unknown:
            outcome = RecordedOutcome.EDITED if answer.done else RecordedOutcome.EDIT_UNKNOWN
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
        answer = self._request_in(application, chat, Operation.DELETE, number=number)
        if answer.done or answer.is_unknown:
            outcome = RecordedOutcome.DELETED if answer.done else RecordedOutcome.DELETION_UNKNOWN
            self._coordinator.recorder.record_outcome(outcome, application, chat, number)
        return None

    def new_chat(self) -> None:
        """Create a chat."""
        application = self.rng.randrange(len(self._coordinator.fixtures.tokens))
        answer = self._request(Operation.CREATE_CHAT, token=self._token(application))
        if answer.number is not None:
            self._coordinator.recorder.record_outcome(
                RecordedOutcome.CHAT_CREATED, application, answer.number
            )
        elif answer.is_unknown:
            self._coordinator.recorder.record_outcome(
                RecordedOutcome.CHAT_CREATION_UNKNOWN, application, 0
            )

    # -- shared steps ------------------------------------------------------------------------------

    def _send(self) -> SentMessage:
        """Send a message to a random chat, and record the answer."""
        application, chat = self._random_chat()
        text = self._next_text(application, chat)
        answer = self._request_in(application, chat, Operation.SEND, text=text)
        self._record_creation(answer, application, chat, [text])
        return SentMessage(application, chat, answer.number)

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

    def _random_chat_to_read(self) -> tuple[int, int]:
        return self.rng.choice(self._coordinator.fixtures.readable_chats)

    def _token(self, application: int) -> str:
        return self._coordinator.fixtures.token(application)

    def _next_text(self, application: int, chat: int) -> str:
        self._sent_count += 1
        language = self._coordinator.fixtures.language(application, chat)
        return language.text(self.rng, self._coordinator.marks.mark(self._sender, self._sent_count))

    def _record_creation(
        self, answer: "UserAnswer", application: int, chat: int, texts: list[str]
    ) -> None:
        """Record the answer to a creation, which has the first number."""
        record_outcome = self._coordinator.recorder.record_outcome
        if (first := answer.number) is not None:
            for number, text in enumerate(texts, first):
                record_outcome(RecordedOutcome.CREATED, application, chat, number, digest(text))
            self._own_messages.append((application, chat, first))
        elif answer.is_unknown:
            for text in texts:
                record_outcome(RecordedOutcome.CREATION_UNKNOWN, application, chat, 0, digest(text))

    def _request_in(
        self,
        application: int,
        chat: int,
        operation: Operation,
        *,
        also: Collection[int] = (),
        tag: str = "",
        **values: object,
    ) -> "UserAnswer":
        """Send and record one request that concerns a chat."""
        token = self._token(application)
        return self._request(operation, also=also, tag=tag, token=token, chat=chat, **values)

    def _request(
        self, operation: Operation, *, also: Collection[int] = (), tag: str = "", **values: object
    ) -> "UserAnswer":
        """Send and record one request.

        It is expected to be done, to be answered by a status of `also`, or with the ETag `tag` by 304. A
        creation also needs a number that can be read. The latency counts from the time at which the request
        was due, in Locust's statistics, too.
        """
        endpoint = self._coordinator.adapter.endpoint(operation)
        method, path, headers, data = endpoint.prepare(values)
        if tag:
            headers["If-None-Match"] = tag
        begin = self._coordinator.now or 0.0
        intended, self._intended = begin if self._intended is None else self._intended, None
        late = max(begin - intended, 0.0)
        started = time.perf_counter()
        with self.client.request(
            method,
            path,
            name=name_of(operation),
            data=data,  # type: ignore[arg-type]  # Locust sends bytes unchanged
            headers=headers,
            catch_response=True,
        ) as response:
            micros = int((time.perf_counter() - started + late) * 1e6)
            answer = _read(endpoint, response)
            expected = answer.done or response.status_code in also
            expected = expected or bool(tag and response.status_code == _NOT_MODIFIED)
            record_answer(
                self._coordinator.recorder, operation, intended, micros, response, not expected
            )
        return answer


class UserAnswer(NamedTuple):
    """What a user has been answered."""

    status: int
    done: bool
    """The server says that it was done."""
    number: int | None = None
    """Of a creation that is done."""
    items: Sequence[ListedItem] = ()
    """Of a page of the newest messages."""
    tag: str = ""

    @property
    def is_unknown(self) -> bool:
        """Whether the server may or may not have done the work."""
        return self.status == NO_ANSWER or self.status >= 500 or (200 <= self.status < 300)


_CREATIONS = frozenset((Operation.CREATE_CHAT, Operation.SEND, Operation.SEND_BATCH))
# The audit reads what other lists have: to read it here, too, would only make the generator slower.
_RECORDED_PAGES = frozenset((Operation.LIST_NEWEST, Operation.LIST_BEFORE))


def _read(endpoint: Endpoint, response: ResponseContextManager) -> UserAnswer:
    """The answer; done only if its JSON has what the operation is for."""
    status = response.status_code
    if status not in endpoint.status:
        return UserAnswer(status, done=False)
    try:
        body = json.loads(response.content) if response.content else None
        answer = ApiAnswer(status, body, response.headers or {})
        if endpoint.operation in _CREATIONS:
            return UserAnswer(status, True, endpoint.number(answer))
        if endpoint.operation in _RECORDED_PAGES:
            return UserAnswer(status, True, None, endpoint.items(answer), answer.tag or "")
    except (ValueError, UnexpectedAnswer):
        return UserAnswer(status, done=False)
    return UserAnswer(status, done=True)
