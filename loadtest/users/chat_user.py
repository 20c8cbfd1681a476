"""A user of the load: what people do with a chat, each request named by its route and kept in the ledger."""

import json
import time
from collections import deque
from random import Random
from typing import Any

from locust import FastHttpUser, TaskSet
from locust.contrib.fasthttp import ResponseContextManager
from locust.env import Environment
from locust.exception import StopUser

from loadtest.corpus.fixtures import Layout
from loadtest.corpus.texts import digest, mark, tongues
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
    What,
)
from loadtest.users.coordination import swarm
from loadtest.web import messages

OWN = 50  # messages of its own that a user may edit or delete
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}
_NAMES = [route.partition(" ")[2] for route in ROUTES]

tongues()  # read now: Locust's processes then share it, and no user's first request waits for it


class Acts(TaskSet):
    """What a scenario's users do: as Locust's own, but chosen by the user's own seeded chance."""

    user: "Chatter"

    def get_next_task(self) -> Any:
        """One of the tasks, by their weights."""
        return self.user.chance.choice(self.tasks)


class Chatter(FastHttpUser):
    """Sends requests one after another, without a pause (closed model) or as arrivals come (open)."""

    abstract = True
    layout: Layout
    concurrency = 1
    connection_timeout = 10.0
    network_timeout = 20.0  # the server lets an edit wait for 5 s

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._swarm = swarm()
        self._speaker = f"u{self._swarm.next_user()}"
        self._said = 0
        self._intended: float | None = None
        self._own: deque[tuple[int, int, int]] = deque(maxlen=OWN)
        self.chance = Random(f"{self._swarm.seed}/{self._speaker}")

    def on_start(self) -> None:
        """In the open model, wait for an arrival before the first request, too."""
        if self._swarm.arrivals is not None:
            self.wait()  # type: ignore[no-untyped-call]

    def wait_time(self) -> float:
        """Seconds until the next request is due: none, or until the next arrival of this process.

        What an arrival does follows from its number, whichever user is free to do it.
        """
        if self._swarm.over:
            raise StopUser
        if self._swarm.arrivals is None:
            return 0.0
        number, at = next(self._swarm.arrivals, (0, None))
        if at is None:
            raise StopUser
        self._speaker, self._said, self._intended = f"a{number}", 0, at
        self.chance.seed(f"{self._swarm.seed}/{self._speaker}")
        return max(at - (self._swarm.now or 0), 0.0)

    # -- what users do -----------------------------------------------------------------------------

    def send(self) -> None:
        """Say something in a chat."""
        application, chat = self._somewhere()
        text = self._text(application, chat)
        path = messages(self._token(application), chat)
        status, body = self._ask(SEND, path, (202, 201), {"message": {"text": text}})
        self._created(status, application, chat, body and body.get("number"), [text])

    def send_many(self, count: int) -> None:
        """Say several things at once."""
        application, chat = self._somewhere()
        texts = [self._text(application, chat) for _ in range(count)]
        path = f"{messages(self._token(application), chat)}/batch"
        asked = {"messages": [{"text": text} for text in texts]}
        status, body = self._ask(BATCH, path, (202, 201), asked)
        self._created(status, application, chat, body and body.get("first"), texts)

    def list_newest(self) -> None:
        """Read the first page of a chat, or one from somewhere within."""
        application, chat = self._somewhere()
        after = self.chance.choice((0, 0, 50, 100))
        self._ask(LIST, messages(self._token(application), chat, limit=50, after=after), (200,))

    def read(self) -> None:
        """Read a message of its own."""
        if not self._own:
            return self._without_own()
        application, chat, number = self._own[-1]
        self._ask(READ, messages(self._token(application), chat, number), (200, 202))
        return None

    def search(self) -> None:
        """Search a chat for a word of its language, frequent ones more often."""
        application, chat = self._somewhere()
        keyword = self._swarm.ground.tongue(application, chat).keyword(self.chance)
        path = messages(self._token(application), chat, keyword=keyword, limit=50)
        self._ask(SEARCH, path, (200,))

    def edit(self) -> None:
        """Change a message of its own."""
        if not self._own:
            return self._without_own()
        application, chat, number = self._own[self._place()]
        text = self._text(application, chat)
        path = messages(self._token(application), chat, number)
        status, _ = self._ask(EDIT, path, (200,), {"message": {"text": text}})
        what = {200: What.EDITED}.get(status, What.EDIT_UNKNOWN if _unknown(status) else None)
        if what:
            self._swarm.recorder.fate(what, application, chat, number, digest(text))
        return None

    def delete(self) -> None:
        """Delete a message of its own."""
        if not self._own:
            return self._without_own()
        place = self._place()
        application, chat, number = self._own[place]
        del self._own[place]
        path = messages(self._token(application), chat, number)
        status, _ = self._ask(DELETE, path, (204,))
        what = {204: What.DELETED}.get(status, What.DELETION_UNKNOWN if _unknown(status) else None)
        if what:
            self._swarm.recorder.fate(what, application, chat, number)
        return None

    def new_chat(self) -> None:
        """Create a chat."""
        application = self.chance.randrange(len(self._swarm.ground.tokens))
        path = f"/applications/{self._token(application)}/chats"
        status, body = self._ask(NEW_CHAT, path, (202, 201), {})
        if number := body and body.get("number"):
            self._swarm.recorder.fate(What.CHAT_CREATED, application, number)
        elif _unknown(status):
            self._swarm.recorder.fate(What.CHAT_CREATION_UNKNOWN, application, 0)

    # -- how ---------------------------------------------------------------------------------------

    def _without_own(self) -> None:
        """Instead of what takes a message of its own, by a user that has sent none yet.

        In the open model it is chance who is free for an arrival, and what is said must not depend on that:
        it reads a page. But if there are tasks that `--tags` has left out, nobody else may say anything.
        """
        options = self._swarm.environment.parsed_options
        chosen = options and (options.tags or options.exclude_tags)
        if self._swarm.arrivals is None or chosen:
            self.send()
        else:
            self.list_newest()

    def _place(self) -> int:
        """One of its own messages; that takes one number of the chance, however many of them there are."""
        return int(self.chance.random() * len(self._own))

    def _somewhere(self) -> tuple[int, int]:
        return self.chance.choice(self._swarm.ground.chats)

    def _token(self, application: int) -> str:
        return self._swarm.ground.tokens[application]

    def _text(self, application: int, chat: int) -> str:
        self._said += 1
        tongue = self._swarm.ground.tongue(application, chat)
        return tongue.text(self.chance, mark(self._swarm.seed, self._speaker, self._said))

    def _created(
        self, status: int, application: int, chat: int, first: int | None, texts: list[str]
    ) -> None:
        fate = self._swarm.recorder.fate
        if first is not None:
            for number, text in enumerate(texts, first):
                fate(What.CREATED, application, chat, number, digest(text))
            self._own.append((application, chat, first))
        elif _unknown(status):
            for text in texts:
                fate(What.CREATION_UNKNOWN, application, chat, 0, digest(text))

    def _ask(
        self, route: int, path: str, expected: tuple[int, ...], body: Any = None
    ) -> tuple[int, Any]:
        """One request; its status (0 without an answer), and of an expected one the JSON.

        Its time counts from when it was to start, in Locust's statistics as in ours.
        """
        method = ROUTES[route].partition(" ")[0]
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        begin = self._swarm.now or 0.0
        intended, self._intended = begin if self._intended is None else self._intended, None
        late = max(begin - intended, 0.0)
        started = time.perf_counter()
        with self.client.request(
            method,
            f"/api/v1{path}",
            name=_NAMES[route],
            data=data,  # type: ignore[arg-type]  # bytes are taken as they are
            headers=_JSON if data else None,
            catch_response=True,
        ) as response:
            micros = int((time.perf_counter() - started + late) * 1e6)
            response.request_meta["response_time"] = micros / 1000
            answer = _read(response) if response.status_code in expected else None
            failed = response.status_code not in expected or answer is _UNREADABLE
            self._swarm.recorder.request(intended, micros, route, response.status_code, failed)
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


def _unknown(status: int) -> bool:
    """Whether what was asked for may have been done, or not."""
    return status == 0 or status >= 500
