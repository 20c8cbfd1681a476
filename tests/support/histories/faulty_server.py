"""A small server of chats in memory, which is right, or makes one kind of fault on purpose.

It has the routes that the clients of a history use. Every tenth answer or so is lost, so that histories have
requests whose outcome nobody knows.
"""

import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from tests.support.histories.exchanges import Exchange
from tests.support.histories.recorder import Answer, Client, Event, Recorder
from tests.support.histories.violations import Kind

LOST_ANSWERS = 0.1
FAULTS = 0.2  # of the answers in which the fault can be made
TEARING_SECONDS = 0.2  # how long a count that is to be torn waits for what tears it
API = "/api/v1/applications"
ROUTE = re.compile(rf"{API}(?:/token(?:/(chats)(?:/(\d+)(?:/(messages)(?:/(\w+))?)?)?)?)?$")


@dataclass
class _Message:
    number: int
    texts: list[str]
    is_deleted: bool = False

    @property
    def text(self) -> str:
        return self.texts[-1]

    @property
    def etag(self) -> str:
        return f'"{len(self.texts)}"'

    @property
    def body(self) -> dict[str, Any]:
        return {"number": self.number, "text": self.text}


@dataclass
class _Chat:
    number: int
    messages: list[_Message] = field(default_factory=list)
    is_deleted: bool = False

    @property
    def removed(self) -> int:
        return sum(message.is_deleted for message in self.messages)

    @property
    def count(self) -> int:
        return len(self.messages) - self.removed

    @property
    def body(self) -> dict[str, Any]:
        return {"number": self.number, "messages_count": self.count}


class _Problem(Exception):
    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status)
        self.status = status


class FaultyServer:
    """The server. Thread-safe. Each request has its effect at one moment."""

    def __init__(self, fault: Kind | None, seed: int = 1) -> None:
        self._fault = fault
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._chats: list[_Chat] = []
        self._answered_keys: dict[str, Answer] = {}

    def handle(self, asked: Exchange) -> Answer | None:
        """Answer a request; None if the answer is lost."""
        with self._lock:
            try:
                answer = self._handle(asked)
            except _Problem as problem:
                answer = Answer(problem.status, None, {})
            self._changed.notify_all()
            return None if self._dice.random() < LOST_ANSWERS else answer

    def events(self, asked: Exchange) -> list[Event] | None:
        """What a follower is told now; None if there is no such chat."""
        with self._lock:
            try:
                chat = self._chat(int(asked.path.split("/")[-3]))
            except _Problem:
                return None
            events: list[Event] = []
            for message in chat.messages[int(asked.query["after"]) :]:
                data: dict[str, Any] = message.body
                name = "message"
                if message.is_deleted:
                    name, data = "gone", {"number": message.number, "reason": "removed"}
                if not self._makes(Kind.STREAM_SKIPS):
                    events.append(Event(name, message.number, data))
                if self._makes(Kind.STREAM_REPEATS):
                    events.append(Event(name, message.number, data))
            return events

    def _makes(self, kind: Kind) -> bool:
        """Whether to make a fault of this kind now."""
        return kind is self._fault and self._dice.random() < FAULTS

    def _handle(self, asked: Exchange) -> Answer:
        found = ROUTE.match(asked.path)
        assert found
        chats, chat, messages, number = found.groups()
        match asked.method, bool(chats), chat, bool(messages), number:
            case "POST", _, _, _, _:
                return self._create_once(asked, chat)
            case "GET", False, _, _, _:
                return Answer(HTTPStatus.OK, None, {"chats_count": self._count_chats()})
            case "GET", True, None, _, _:
                shown = [one.body for one in self._chats if not one.is_deleted]
                return self._list(asked, shown, self._count_chats())
            case "GET", True, _, False, _:
                return Answer(HTTPStatus.OK, None, self._counted(self._chat(int(chat))))
            case "DELETE", True, _, False, _:
                return self._delete_chat(self._chat(int(chat)))
            case "GET", True, _, True, None:
                return self._page(asked, self._chat(int(chat)))
            case "GET", True, _, True, _:
                return self._read(self._chat(int(chat)), int(number))
            case _:
                return self._change(asked, self._chat(int(chat)), int(number))

    # -- creations ---------------------------------------------------------------------------------

    def _create_once(self, asked: Exchange, chat: str | None) -> Answer:
        known = self._answered_keys.get(asked.key or "")
        if known is not None and not self._makes(Kind.KEY_NOT_HONOURED):
            return known
        answer = self._create(asked, chat)
        if asked.key:
            self._answered_keys[asked.key] = answer
        return answer

    def _create(self, asked: Exchange, chat: str | None) -> Answer:
        status = HTTPStatus.CREATED if "wait" in asked.query else HTTPStatus.ACCEPTED
        if asked.path == API:
            return Answer(HTTPStatus.CREATED, None, {"token": "token"})
        if chat is None:
            self._chats.append(_Chat(len(self._chats) + 1))
            return Answer(status, None, {"number": len(self._chats)})
        if self._fault is Kind.CREATED_AFTER_DELETION:
            parent = self._chats[int(chat) - 1]
        else:
            parent = self._chat(int(chat))
        texts = [one["text"] for one in asked.body.get("messages") or [asked.body["message"]]]
        first = len(parent.messages) + 1
        if first > 1 and self._makes(Kind.NUMBER_GIVEN_TWICE):
            return Answer(status, None, {"number": 1})
        if self._makes(Kind.STORED_TWICE):
            texts.append(texts[-1])
        for text in texts:
            parent.messages.append(_Message(len(parent.messages) + 1, [text]))
        if "messages" in asked.body:
            last = first + len(asked.body["messages"]) - 1
            return Answer(status, None, {"first": first, "last": last})
        return Answer(status, None, {"number": first})

    # -- changes -----------------------------------------------------------------------------------

    def _change(self, asked: Exchange, chat: _Chat, number: int) -> Answer:
        message = self._message(chat, number)
        if message.is_deleted:
            if not self._makes(Kind.CHANGED_AFTER_DELETION):
                raise _Problem(HTTPStatus.NOT_FOUND)
            return Answer(HTTPStatus.OK, None, message.body)
        if self._makes(Kind.UNEXPECTED_ANSWER):
            raise _Problem(HTTPStatus.IM_A_TEAPOT)
        if asked.if_match is not None:
            is_stale = asked.if_match != message.etag
            if self._makes(Kind.LOST_UPDATE):
                is_stale = False
            elif self._makes(Kind.REFUSED_WITHOUT_REASON):
                is_stale = True
            if is_stale:
                raise _Problem(HTTPStatus.CONFLICT)
        if asked.method == "DELETE":
            message.is_deleted = True
            return Answer(HTTPStatus.NO_CONTENT, None, None)
        message.texts.append(asked.body["message"]["text"])
        return Answer(HTTPStatus.OK, message.etag, message.body)

    def _delete_chat(self, chat: _Chat) -> Answer:
        chat.is_deleted = True
        return Answer(HTTPStatus.ACCEPTED, None, None)

    # -- reads -------------------------------------------------------------------------------------

    def _read(self, chat: _Chat, number: int) -> Answer:
        message = self._message(chat, number)
        if self._makes(Kind.READS_GO_BACK):
            return Answer(HTTPStatus.ACCEPTED, None, {"number": number, "status": "accepted"})
        if self._makes(Kind.LOST) or (message.is_deleted and not self._makes(Kind.COMES_BACK)):
            raise _Problem(HTTPStatus.NOT_FOUND)
        body, etag = message.body, message.etag
        if self._makes(Kind.STALE_READ):
            body, etag = body | {"text": message.texts[0]}, '"1"'
        if self._makes(Kind.TEXT_NOBODY_WROTE):
            body = body | {"text": "of nobody"}
        return Answer(HTTPStatus.OK, etag, body)

    def _page(self, asked: Exchange, chat: _Chat) -> Answer:
        keyword = asked.query.get("keyword", "")
        shown = []
        for message in chat.messages:
            body = message.body
            if self._makes(Kind.SEARCH_SHOWS_EDITED) and keyword in message.texts[0]:
                body = body | {"text": message.texts[0]}
            elif keyword not in message.text and not self._makes(Kind.SEARCH_SHOWS_NO_MATCH):
                continue
            if not message.is_deleted:
                shown.append(body)
        return self._list(asked, shown, self._counted(chat)["messages_count"])

    def _list(self, asked: Exchange, items: list[dict[str, Any]], total: int) -> Answer:
        query = asked.query
        if "numbers" in query:
            wanted = set(map(int, query["numbers"].split(",")))
            items = [item for item in items if item["number"] in wanted]
        if query.get("order") == "desc":
            items = items[::-1]
        else:
            items = [item for item in items if item["number"] > int(query.get("after", 0))]
        limit = int(query.get("limit", 50))
        page = items[:limit]
        more = page[-1]["number"] if len(items) > limit else None
        if len(page) > 2:
            skips = Kind.SEARCH_MISSES if "keyword" in query else Kind.PAGE_SKIPS
            if self._makes(skips):
                del page[1]
            if self._makes(Kind.PAGE_DISORDERED):
                page[:2] = page[1::-1]
        return Answer(HTTPStatus.OK, None, {"items": page, "next": more, "total": total})

    # -- helpers -----------------------------------------------------------------------------------

    def _chat(self, number: int) -> _Chat:
        if not 1 <= number <= len(self._chats) or self._chats[number - 1].is_deleted:
            raise _Problem(HTTPStatus.NOT_FOUND)
        return self._chats[number - 1]

    def _message(self, chat: _Chat, number: int) -> _Message:
        if not 1 <= number <= len(chat.messages):
            raise _Problem(HTTPStatus.NOT_FOUND)
        return chat.messages[number - 1]

    def _counted(self, chat: _Chat) -> dict[str, Any]:
        """The body of a chat; a wrong count has the deleted messages, a torn one those deleted meanwhile."""
        body = chat.body
        if self._makes(Kind.COUNT_WRONG):
            body["messages_count"] = len(chat.messages)
        if self._makes(Kind.COUNT_TORN):
            removed = chat.removed
            self._wait_until(lambda: chat.removed > removed + 1)
            created = len(chat.messages)
            self._wait_until(lambda: len(chat.messages) > created)
            body["messages_count"] = len(chat.messages) - removed
        return body

    def _wait_until(self, is_so: Callable[[], bool]) -> None:
        """Let others change something, until it is so or takes too long."""
        self._changed.wait_for(is_so, TEARING_SECONDS)

    def _count_chats(self) -> int:
        return sum(not chat.is_deleted for chat in self._chats)


class DirectClient(Client):
    """A client of a faulty server in the same process, without a network between them."""

    def __init__(self, recorder: Recorder, number: int, server: FaultyServer) -> None:
        super().__init__(recorder, number)
        self._server = server

    def _send(self, asked: Exchange) -> Answer | None:
        return self._server.handle(asked)

    def _follow(self, asked: Exchange, is_over: Callable[[], bool]) -> Iterator[Event]:  # noqa: ARG002
        events = self._server.events(asked)
        asked.status = HTTPStatus.NOT_FOUND if events is None else HTTPStatus.OK
        yield from events or ()


@contextmanager
def http_server(server: FaultyServer, processes: int = 2) -> Iterator[list[str]]:
    """Serve a faulty server by HTTP; yields the URLs of its processes, which are threads here."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer is one packet

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length", 0))
            raw = self.rfile.read(length)
            asked = Exchange(
                0,
                0,
                self.command,
                parts.path,
                0.0,
                dict(parse_qsl(parts.query)),
                msgspec.json.decode(raw) if raw else None,
                self.headers.get("If-Match"),
                self.headers.get("Idempotency-Key"),
            )
            if parts.path.endswith("/stream"):
                self._stream(asked)
                return
            answer = server.handle(asked)
            if answer is None:
                self.close_connection = True
                return
            content = b"" if answer.content is None else msgspec.json.encode(answer.content)
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(content)))
            if answer.etag:
                self.send_header("ETag", answer.etag)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815
        do_PATCH = do_GET  # noqa: N815
        do_DELETE = do_GET  # noqa: N815

        def _stream(self, asked: Exchange) -> None:
            events = server.events(asked)
            self.close_connection = True
            self.send_response(HTTPStatus.NOT_FOUND if events is None else HTTPStatus.OK)
            self.send_header("Connection", "close")
            self.end_headers()
            for event in events or ():
                data = msgspec.json.encode(event.data).decode()
                lines = f"event: {event.name}\ndata: {data}\nid: {event.id}\n\n"
                self.wfile.write(lines.encode())

    listeners = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(processes)]
    threads = [threading.Thread(target=one.serve_forever, args=(0.05,)) for one in listeners]
    for thread in threads:
        thread.start()
    try:
        yield [f"http://127.0.0.1:{one.server_port}" for one in listeners]
    finally:
        for listener, thread in zip(listeners, threads, strict=True):
            listener.shutdown()
            listener.server_close()
            thread.join()
