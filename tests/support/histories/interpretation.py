"""What a history's exchanges mean: operations on keys, readings of counts, and what no order could explain.

A key is a message, or a chat, which is a register with an empty text. Every text of a history is written once
only, so a text names the request that wrote it, also one whose answer was lost.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from tests.support.histories.exchanges import Exchange
from tests.support.histories.register import NEVER, Act, Operation
from tests.support.histories.violations import Kind, Violation

PATH = re.compile(
    r"/api/v1/applications/(?P<token>[^/]+)"
    r"(?:/(?P<chats>chats)(?:/(?P<chat>\d+)(?:/(?P<messages>messages)(?:/(?P<rest>\w+))?)?)?)?$"
)
CREATED = (HTTPStatus.CREATED, HTTPStatus.ACCEPTED)


class Key(NamedTuple):
    """A message, or a chat if `number` is None."""

    token: str
    chat: int
    number: int | None = None


class Parent(NamedTuple):
    """A chat, or an application if `chat` is None: what has a count."""

    token: str
    chat: int | None = None


class CountChange(NamedTuple):
    """What raises or lowers a count by so many, at a moment within the operation, or perhaps never."""

    by: int
    sent: float
    answered: float


class CountReading(NamedTuple):
    """A count that an answer has shown."""

    shown: int
    exchange: Exchange


class Interpretation:
    """The meaning of a history."""

    def __init__(self) -> None:
        self.operations: dict[Key, list[Operation]] = defaultdict(list)
        self.changes: dict[Parent, list[CountChange]] = defaultdict(list)
        self.readings: dict[Parent, list[CountReading]] = defaultdict(list)
        self.violations: list[Violation] = []

    def report(self, kind: Kind, exchange: Exchange, detail: str) -> None:
        """Report what is wrong whatever else has happened."""
        asked = f"{exchange.method} {exchange.path} {exchange.query or ''}".rstrip()
        self.violations.append(Violation(kind, f"{asked} at {exchange.sent:.3f}: {detail}"))


class _Creation(NamedTuple):
    """One creating request, however often it was sent, and what it was answered with."""

    exchange: Exchange
    """The first attempt."""
    answered: float
    first: int | None
    is_stored: bool


def interpret(history: Sequence[Exchange]) -> Interpretation:
    """Take a history apart."""
    return _Interpreter(history).run()


class _Interpreter:
    def __init__(self, history: Sequence[Exchange]) -> None:
        self.history = history
        self.found = Interpretation()
        self.writes: dict[str, tuple[Key, Exchange]] = {}
        """The key of each text, of an answered write or one that was shown, and its request."""
        self.tags: dict[tuple[Key, str], str] = {}
        """The text of each version of a message that was shown with an entity tag."""
        self.unknown: dict[str, tuple[Parent, Exchange]] = {}
        """The chat of each text whose number nobody was told, and its request."""
        self.gone_at: dict[Key, float] = {}
        self.created_at: dict[Key, float] = {}
        self.numbers_below: dict[Parent, list[int]] = defaultdict(list)

    def run(self) -> Interpretation:
        for creation in self._creations():
            self._create(creation)
        for exchange in self.history:
            self._learn(exchange)
        for exchange in self.history:
            if exchange.method in ("PATCH", "DELETE"):
                self._change(exchange)
        for chat in self.numbers_below.values():
            chat.sort()
        for exchange in self.history:
            if exchange.method == "GET":
                self._read(exchange)
        return self.found

    # -- creations ---------------------------------------------------------------------------------

    def _creations(self) -> Iterator[_Creation]:
        by_key: dict[str, list[Exchange]] = defaultdict(list)
        for nth, exchange in enumerate(self.history):
            if exchange.method == "POST" and _path(exchange):
                by_key[exchange.key or f"only {nth}"].append(exchange)
        for attempts in by_key.values():
            answers = [one for one in attempts if one.status in CREATED]
            numbers = {_first_number(one.answer) for one in answers}
            if len(numbers) > 1:
                self.found.report(
                    Kind.KEY_NOT_HONOURED, attempts[0], f"its key was answered with {numbers}"
                )
            answered = min((one.answered or NEVER for one in answers), default=NEVER)
            stored = any(one.status == HTTPStatus.CREATED for one in answers)
            yield _Creation(attempts[0], answered, next(iter(numbers), None), stored)
            for attempt in attempts:
                if attempt.status == HTTPStatus.NOT_FOUND:
                    self._say_parent_missing(attempt)

    def _create(self, creation: _Creation) -> None:
        exchange = creation.exchange
        token, chat, texts = _parent_and_texts(exchange)
        parent = Parent(token, chat)
        self._change_count(parent, len(texts), exchange.sent, creation.answered)
        act = Act.CREATE_STORED if creation.is_stored else Act.CREATE
        for nth, text in enumerate(texts):
            if creation.first is None:
                if chat is not None:
                    self.unknown[text] = parent, exchange
                continue
            number = creation.first + nth
            key = Key(token, number) if chat is None else Key(token, chat, number)
            self._add_key(key, text, exchange)
            if any(
                one.act in (Act.CREATE, Act.CREATE_STORED) for one in self.found.operations[key]
            ):
                self.found.report(Kind.NUMBER_GIVEN_TWICE, exchange, f"{key}")
                continue
            self._add(key, act, exchange, "create", text, answered=creation.answered)

    def _add_key(self, key: Key, text: str, exchange: Exchange) -> None:
        if key.number is not None:
            self.writes[text] = key, exchange
        if key not in self.created_at:
            parent = Parent(key.token, None if key.number is None else key.chat)
            self.numbers_below[parent].append(key.chat if key.number is None else key.number)
            self.created_at[key] = exchange.sent

    # -- what was shown ----------------------------------------------------------------------------

    def _learn(self, exchange: Exchange) -> None:
        """Find the numbers of creations whose answers were lost, and the texts of entity tags."""
        at = _path(exchange)
        if at is None or at["messages"] is None:
            return
        if exchange.method == "PATCH":
            key = Key(at["token"], int(at["chat"]), int(at["rest"]))
            text = exchange.body["message"]["text"]
            self.writes[text] = key, exchange
            if exchange.status == HTTPStatus.OK and exchange.etag:
                self.tags[key, exchange.etag] = text
        for message in _shown_messages(exchange):
            key = Key(at["token"], int(at["chat"]), message["number"])
            text = message["text"]
            if text in self.unknown:
                parent, request = self.unknown.pop(text)
                if parent == Parent(key.token, key.chat):
                    self._add_key(key, text, request)
                    self._add(key, Act.CREATE, request, "create", text, answered=NEVER)
            if exchange.method == "GET" and at["rest"] and exchange.etag:
                self.tags[key, exchange.etag] = text

    # -- changes -----------------------------------------------------------------------------------

    def _change(self, exchange: Exchange) -> None:
        at = _path(exchange)
        if at is None or at["chat"] is None:
            return
        chat = Key(at["token"], int(at["chat"]))
        if at["messages"] is None:
            self._delete_chat(chat, exchange)
            return
        key = chat._replace(number=int(at["rest"]))
        status, expected = exchange.status, None
        if exchange.if_match is not None:
            expected = self.tags[key, exchange.if_match]
        is_edit = exchange.method == "PATCH"
        source = "edit" if is_edit else "delete"
        text = exchange.body["message"]["text"] if is_edit else ""
        act = Act.EDIT if is_edit else Act.DELETE
        if status in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):
            self._add(key, act, exchange, source, text, expected)
            if not is_edit:
                self._remove(key, exchange)
        elif status == HTTPStatus.NOT_FOUND:
            self._add(key, Act.SAY_MISSING, exchange, source)
        elif status == HTTPStatus.CONFLICT:
            if expected is not None:
                self._add(key, Act.REFUSE_STALE, exchange, source, "", expected)
        elif status is None or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._add(key, act, exchange, source, text, expected, answered=NEVER)
            if not is_edit:
                self._change_count(Parent(key.token, key.chat), -1, exchange.sent, NEVER)
        else:
            self.found.report(Kind.UNEXPECTED_ANSWER, exchange, f"{status}")

    def _remove(self, key: Key, exchange: Exchange) -> None:
        """An answered deletion of a message."""
        assert exchange.answered is not None
        self.gone_at[key] = min(self.gone_at.get(key, NEVER), exchange.answered)
        self._change_count(Parent(key.token, key.chat), -1, exchange.sent, exchange.answered)

    def _delete_chat(self, chat: Key, exchange: Exchange) -> None:
        status = exchange.status
        if status in (HTTPStatus.NO_CONTENT, HTTPStatus.ACCEPTED):
            answered = exchange.answered or NEVER
        elif status is None or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            answered = NEVER
        else:
            if status == HTTPStatus.NOT_FOUND:
                self._add(chat, Act.SAY_MISSING, exchange, "cascade")
            return
        self._change_count(Parent(chat.token), -1, exchange.sent, answered)
        keys = [chat._replace(number=n) for n in self.numbers_below[Parent(chat.token, chat.chat)]]
        for key in (chat, *keys):
            self._add(key, Act.CASCADE, exchange, "cascade", answered=answered)
            if answered < NEVER:
                self.gone_at[key] = min(self.gone_at.get(key, NEVER), answered)

    # -- reads -------------------------------------------------------------------------------------

    def _read(self, exchange: Exchange) -> None:
        at = _path(exchange)
        if at is None or exchange.status is None:
            return
        if exchange.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return
        if at["chat"] is None:
            if exchange.status == HTTPStatus.OK:
                self._read_application(at, exchange)
            return
        chat = Key(at["token"], int(at["chat"]))
        if at["messages"] is None:
            self._read_chat(chat, exchange)
        elif at["rest"] == "stream":
            self._follow(chat, exchange)
        elif at["rest"] is not None:
            self._read_message(chat._replace(number=int(at["rest"])), exchange)
        elif exchange.status == HTTPStatus.OK:
            self._read_page(chat, exchange)
        elif exchange.status == HTTPStatus.NOT_FOUND:
            self._add(chat, Act.SAY_MISSING, exchange, "page")

    def _read_application(self, at: re.Match[str], exchange: Exchange) -> None:
        answer, application = exchange.answer, Parent(at["token"])
        if at["chats"] is None:
            self.found.readings[application].append(CountReading(answer["chats_count"], exchange))
            return
        self.found.readings[application].append(CountReading(answer["total"], exchange))
        for chat in answer["items"]:
            key = Key(at["token"], chat["number"])
            self._show(key, "", exchange, "page")
            parent = Parent(key.token, key.chat)
            self.found.readings[parent].append(CountReading(chat["messages_count"], exchange))
        self._omit(application, exchange, [chat["number"] for chat in answer["items"]])

    def _read_chat(self, chat: Key, exchange: Exchange) -> None:
        match exchange.status:
            case HTTPStatus.OK:
                self._show(chat, "", exchange, "read")
                count = CountReading(exchange.answer["messages_count"], exchange)
                self.found.readings[Parent(chat.token, chat.chat)].append(count)
            case HTTPStatus.ACCEPTED:
                self._add(chat, Act.SAY_ACCEPTED, exchange, "read")
            case HTTPStatus.NOT_FOUND:
                self._add(chat, Act.SAY_MISSING, exchange, "read")

    def _read_message(self, key: Key, exchange: Exchange) -> None:
        match exchange.status:
            case HTTPStatus.OK:
                self._show(key, exchange.answer["text"], exchange, "read")
            case HTTPStatus.ACCEPTED:
                self._add(key, Act.SAY_ACCEPTED, exchange, "read")
            case HTTPStatus.NOT_FOUND:
                self._add(key, Act.SAY_MISSING, exchange, "read")
            case HTTPStatus.GONE:
                self.found.report(Kind.UNEXPECTED_ANSWER, exchange, "its creation was rejected")

    def _read_page(self, chat: Key, exchange: Exchange) -> None:
        answer, parent = exchange.answer, Parent(chat.token, chat.chat)
        keyword = exchange.query.get("keyword", "")
        source = "search" if keyword else "page"
        numbers = [message["number"] for message in answer["items"]]
        for message in answer["items"]:
            self._show(chat._replace(number=message["number"]), message["text"], exchange, source)
            if keyword not in message["text"]:
                self.found.report(
                    Kind.SEARCH_SHOWS_NO_MATCH, exchange, f"number {message['number']}"
                )
        if "total" in answer:
            self.found.readings[parent].append(CountReading(answer["total"], exchange))
        if answer.get("complete", True):
            self._omit(parent, exchange, numbers, keyword)

    def _omit(
        self, parent: Parent, exchange: Exchange, shown: Sequence[int], keyword: str = ""
    ) -> None:
        """Each number in the range of a page that it does not show."""
        asked, more = exchange.query, exchange.answer["next"] is not None
        known = self.numbers_below[parent]
        first, last = int(asked.get("after", 0)) + 1, int(asked.get("before", 1 << 60)) - 1
        is_descending = asked.get("order") == "desc"
        if list(shown) != sorted(set(shown), reverse=is_descending):
            self.found.report(Kind.PAGE_DISORDERED, exchange, f"{shown}")
        if "numbers" in asked:
            wanted: Iterable[int] = map(int, asked["numbers"].split(","))
        else:
            if more and is_descending:
                first = shown[-1] if shown else last + 1
            elif more:
                last = shown[-1] if shown else first - 1
            wanted = (number for number in known if first <= number <= last)
            if any(not first <= number <= last for number in shown):
                self.found.report(Kind.PAGE_DISORDERED, exchange, f"{shown}")
        source = "search" if keyword else "page"
        assert exchange.answered is not None
        for number in set(wanted).difference(shown):
            key = Key(parent.token, number)
            if parent.chat is not None:
                key = Key(parent.token, parent.chat, number)
            is_created = self.created_at.get(key, NEVER) <= exchange.answered
            if is_created and self.gone_at.get(key, NEVER) > exchange.sent:
                self._add(key, Act.OMIT, exchange, source, keyword)

    def _follow(self, chat: Key, exchange: Exchange) -> None:
        """The events of a stream."""
        if exchange.status == HTTPStatus.NOT_FOUND:
            self._add(chat, Act.SAY_MISSING, exchange, "stream")
            return
        last: int | None = int(exchange.query["after"])
        for event in exchange.events:
            number = event.data.get("number") if event.data else None
            if event.id is not None and event.name in ("message", "gone"):
                first = event.data.get("first", event.id)
                if last is not None and first != last + 1:
                    kind = Kind.STREAM_REPEATS if first <= last else Kind.STREAM_SKIPS
                    self.found.report(kind, exchange, f"{first} follows {last}")
                last = event.id
            if number is None:
                continue
            key = chat._replace(number=number)
            match event.name:
                case "message" | "edited":
                    self._show(key, event.data["text"], exchange, "stream", answered=event.at)
                case "deleted":
                    self._add(key, Act.SAY_DELETED, exchange, "stream", answered=event.at)
                case "gone":
                    self._tell_gone(chat, event.data, exchange, event.at)

    def _tell_gone(self, chat: Key, data: Any, exchange: Exchange, at: float) -> None:
        act = Act.SAY_DELETED if data["reason"] == "removed" else Act.SAY_LOST
        for number in range(data.get("first", data["number"]), data["number"] + 1):
            key = chat._replace(number=number)
            if key in self.created_at:
                self._add(key, act, exchange, "stream", answered=at)

    # -- helpers -----------------------------------------------------------------------------------

    def _show(
        self, key: Key, text: str, exchange: Exchange, source: str, *, answered: float | None = None
    ) -> None:
        written = self.writes.get(text)
        if key.number is not None and (written is None or written[0] != key):
            kind = Kind.STORED_TWICE if written else Kind.TEXT_NOBODY_WROTE
            self.found.report(kind, exchange, f"{key}: {text!r}")
            return
        if key not in self.created_at:
            self.found.report(Kind.TEXT_NOBODY_WROTE, exchange, f"{key}: {text!r}")
            return
        self._add(key, Act.SHOW, exchange, source, text, answered=answered)

    def _say_parent_missing(self, exchange: Exchange) -> None:
        at = _path(exchange)
        assert at is not None
        if at["chat"] is not None:
            self._add(Key(at["token"], int(at["chat"])), Act.SAY_MISSING, exchange, "create")

    def _change_count(self, parent: Parent, by: int, sent: float, answered: float) -> None:
        self.found.changes[parent].append(CountChange(by, sent, answered))

    def _add(
        self,
        key: Key,
        act: Act,
        exchange: Exchange,
        source: str,
        text: str = "",
        expected: str | None = None,
        *,
        answered: float | None = None,
    ) -> None:
        if answered is None:
            assert exchange.answered is not None
            answered = exchange.answered
        self.found.operations[key].append(
            Operation(act, exchange.sent, answered, source, exchange.server, text, expected)
        )


def _path(exchange: Exchange) -> re.Match[str] | None:
    return PATH.match(exchange.path)


def _parent_and_texts(exchange: Exchange) -> tuple[str, int | None, list[str]]:
    """The application, the chat, and the texts of a creating request; a chat has an empty text."""
    at = _path(exchange)
    assert at is not None
    if at["chat"] is None:
        return at["token"], None, [""]
    if at["rest"] == "batch":
        return at["token"], int(at["chat"]), [one["text"] for one in exchange.body["messages"]]
    return at["token"], int(at["chat"]), [exchange.body["message"]["text"]]


def _first_number(answer: Any) -> int:
    number: int = answer.get("first", answer.get("number"))
    return number


def _shown_messages(exchange: Exchange) -> Iterator[dict[str, Any]]:
    """The messages that an answer, or the events of a stream, show."""
    if exchange.status != HTTPStatus.OK:
        return
    if exchange.events:
        yield from (one.data for one in exchange.events if one.name in ("message", "edited"))
    elif isinstance(exchange.answer, dict):
        yield from exchange.answer.get("items", [exchange.answer])
