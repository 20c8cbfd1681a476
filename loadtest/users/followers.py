"""Clients that follow chats by Server-Sent Events, and record what they receive for the audit.

Each process of the generator runs its share of the followers, beside its users. Now and then a follower drops
its connection, and resumes with `Last-Event-ID` after a short pause. The time from answered to delivered is
measured where both happen in one process, so that the clocks of several machines need not agree.
"""

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from random import Random
from typing import Any

import gevent
from locust import events
from locust.contrib.fasthttp import FAILURE_EXCEPTIONS, FastHttpSession
from locust.env import Environment
from locust.runners import MasterRunner

from loadtest.adapter.operations import Operation
from loadtest.corpus.texts import digest
from loadtest.users.coordination import Coordinator, coordinator
from loadtest.users.requests import name_of, record_answer

CONNECTED_SECONDS = (1.0, 8.0)  # after which a follower drops its connection at the next event
MAX_AWAY_SECONDS = 1.0  # until it connects again
RECONNECT_SECONDS = 1.0  # after a connection that failed or was ended by the server
SILENCE_SECONDS = 30.0  # the server sends a comment after 15 s: the connection is broken
CONNECT_SECONDS = 10.0
CATCH_UP_SECONDS = 40.0  # at the end, for what was answered to be delivered; Locust waits longer
POLL_SECONDS = 0.02


class Followers:
    """The followers that run in this process."""

    def __init__(self, state: Coordinator) -> None:
        self.state = state
        self._of_chat: defaultdict[tuple[int, int], list[_Follower]] = defaultdict(list)
        self._awaited: defaultdict[tuple[int, int], dict[int, float]] = defaultdict(dict)
        """When each number was answered that a follower of its chat has not passed yet."""
        places = [
            (application, chat, place)
            for application, chat in state.fixtures.chats
            for place in range(state.layout.followers_per_chat)
        ]
        for application, chat, place in state.share(places):
            self._of_chat[application, chat].append(_Follower(self, application, chat, place))
        self._greenlets = [
            gevent.spawn(follower.run) for chat in self._of_chat.values() for follower in chat
        ]

    def stop(self) -> None:
        """Close all connections."""
        gevent.killall(self._greenlets)

    def answered(self, application: int, chat: int, number: int) -> None:
        """A creation was answered with this number."""
        now = self.state.now or 0.0
        followers = self._of_chat.get((application, chat), [])
        for follower in followers:
            if follower.last >= number:
                self.state.recorder.record_delivery(now, 0)
        if any(follower.last < number for follower in followers):
            self._awaited[application, chat][number] = now

    def delivered(self, follower: "_Follower", number: int) -> None:
        """A follower has received a message."""
        answered = self._awaited[follower.application, follower.chat].get(number)
        if answered is not None and answered >= follower.connected_at:
            now = self.state.now or 0.0
            self.state.recorder.record_delivery(answered, int((now - answered) * 1e6))

    def passed(self, follower: "_Follower") -> None:
        """A follower has passed another number, which may hold no message."""
        awaited = self._awaited[follower.application, follower.chat]
        passed = min(other.last for other in self._of_chat[follower.application, follower.chat])
        while awaited and (oldest := next(iter(awaited))) <= passed:
            del awaited[oldest]

    def wait_caught_up(self) -> None:
        """Wait until the followers have passed every number that was answered, but not for ever."""
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while any(self._awaited.values()) and time.monotonic() < deadline:
            gevent.sleep(POLL_SECONDS)


class _Follower:
    """One client that follows one chat, from the chat's first message on."""

    def __init__(self, followers: Followers, application: int, chat: int, place: int) -> None:
        self.application, self.chat = application, chat
        self.last = 0
        """The last number that it has passed."""
        self.connected_at = math.inf
        """When its connection began, in seconds of the run; infinite while it has none."""
        self._followers, self._state, self._place = followers, followers.state, place
        self._rng = Random(f"{self._state.seed}/follower/{application}.{chat}.{place}")
        self._endpoint = self._state.adapter.endpoint(Operation.FOLLOW)
        environment = self._state.environment
        self._session = FastHttpSession(
            environment.host,
            environment.events.request,
            None,
            network_timeout=SILENCE_SECONDS,
            connection_timeout=CONNECT_SECONDS,
            max_retries=0,
        )

    def run(self) -> None:
        """Follow the chat until the greenlet is killed."""
        self._state.recorder.record_shown(self.application, self.chat, self._place, 0)
        while True:
            pause = RECONNECT_SECONDS
            with self._stream() as stream:
                if stream is not None and self._read(stream):
                    pause = self._rng.uniform(0, MAX_AWAY_SECONDS)
            gevent.sleep(pause)

    @contextmanager
    def _stream(self) -> Iterator[Any]:
        """A new connection that resumes after the last number; None if it is refused."""
        token = self._state.fixtures.tokens[self.application]
        values = {"token": token, "chat": self.chat, "after": self.last}
        method, path, headers, _ = self._endpoint.prepare(values)
        headers = {**headers, "Accept": "text/event-stream"}
        if self.last:
            headers["Last-Event-ID"] = str(self.last)
        at_s, started = self._state.now or 0.0, time.perf_counter()
        with self._session.request(
            *(method, path, name_of(Operation.FOLLOW)),
            headers=headers,
            stream=True,
            catch_response=True,
        ) as response:
            micros = int((time.perf_counter() - started) * 1e6)
            failed = response.status_code not in self._endpoint.status
            record_answer(self._state.recorder, Operation.FOLLOW, at_s, micros, response, failed)
        if failed:
            yield None
            return
        self.connected_at = self._state.now or 0.0
        try:
            yield response.stream
        finally:
            self.connected_at = math.inf
            response.stream.release()

    def _read(self, stream: Any) -> bool:
        """Receive events until it is time to drop the connection; False if the server ends it before."""
        drop_at = time.monotonic() + self._rng.uniform(*CONNECTED_SECONDS)
        try:
            while block := stream.readline(b"\n\n"):
                self._receive(block)
                if time.monotonic() >= drop_at:
                    return True
        except FAILURE_EXCEPTIONS:
            pass  # the connection broke, or was silent for too long
        return False

    def _receive(self, block: bytes) -> None:
        fields = _fields(block)
        if fields.get("event") == self._endpoint.fields["event"]:
            number, text = self._endpoint.item_of(json.loads(fields["data"]))
            self._state.recorder.record_shown(
                self.application, self.chat, self._place, number, digest(text)
            )
            self._followers.delivered(self, number)
        if "id" in fields:
            self.last = int(fields["id"])
            self._followers.passed(self)


def _fields(block: bytes) -> Mapping[str, str]:
    """The fields of an event; none of a comment."""
    lines = (line.partition(": ") for line in block.decode().split("\n"))
    return {name: value for name, _, value in lines if name}


_running: list[Followers] = []


def followers() -> Followers:
    """The followers of this process in the run that goes on."""
    return _running[-1]


def _start(environment: Environment, **_: object) -> None:
    if not isinstance(environment.runner, MasterRunner):
        _running.append(Followers(coordinator()))


def _stop(**_: object) -> None:
    for running in _running:
        running.stop()


# After the listener of `coordination`, which creates the chats.
events.test_start.add_listener(_start)
events.test_stop.add_listener(_stop)
