"""A small server in memory with the routes that the load tool uses; correct, or with chosen faults.

    python -m tests.support.load_target [FAULT…] [--log FILE]

It prints its port, and ends with its standard input. A fault of "a message" affects every 20th message.
"""

import argparse
import asyncio
import hashlib
import itertools
import json
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol
from urllib.parse import parse_qs, urlsplit

FAULT_INTERVAL = 20
FAULTS = {
    "lose": "a message is answered but never stored",
    "double": "a message is stored twice, the second time under the next number",
    "repeat": "a number is answered to two messages; the second one is stored",
    "skip": "a number is never assigned",
    "garble": "a message is stored with another text",
    "hide": "a message is stored but never found",
    "deaf": "no message is ever found",
    "undead": "a deletion is answered but not done",
    "forget": "an edit is answered but not done",
    "invent": "a message that was never sent is stored under the next number",
    "lose-chat": "a chat is answered but never stored",
    "double-chat": "a chat is stored twice, the second time under the next number",
    "repeat-chat": "a number is answered to two chats, but stored once",
    "skip-chat": "a number of a chat is never assigned",
    "break": "a message is stored, and the connection is closed without an answer",
    "err": "a message is stored, and answered with 500",
    "refuse": "a message is not stored, and answered with 503",
    "slow": "every answer takes 80 ms",
    "uneven": "about half of the answers, chosen at random, take 100 ms",
    "stall": "3 s after the first message the server does not answer for a second",
    "lag": "a message is stored 150 ms after its answer, and found after 300 ms",
    "stale-page": "a page of the newest messages lacks its newest one",
    "stale-tag": "a request with an ETag is answered with 304, whatever has changed",
    "unsent": "followers are not told of a message",
    "mangle": "followers are told of a message with another text",
}
SLOW_SECONDS, UNEVEN_SECONDS, STALL_AFTER_SECONDS, STALL_SECONDS = 0.08, 0.1, 3.0, 1.0
STORED_AFTER_SECONDS, FOUND_AFTER_SECONDS = 0.15, 0.3
STREAM_POLL_SECONDS = 0.02


@dataclass
class StoredMessage:
    """The message that is stored under a number."""

    text: str
    at: float
    hidden: bool = False


@dataclass
class StoredChat:
    """The highest issued number, and the stored messages by number."""

    issued: int = 0
    messages: dict[int, StoredMessage] = field(default_factory=dict)


class Store(Protocol):
    """What a small server answers, and to whom it sends what."""

    async def respond(self, method: str, target: str, body: Any) -> tuple[int, Any] | None:
        """The status and the JSON of an answer; None closes the connection."""

    def is_unchanged(self, payload: bytes, tag: str | None) -> bool:
        """Whether the answer to a request with this `If-None-Match` is 304."""

    def events(self, target: str, last: int) -> list[tuple[int, bytes]]:
        """The events that a follower gets after a number, each with its number."""


class FaultyStore:
    """The applications, chats and messages, and the faults that affect them."""

    def __init__(self, faults: set[str]) -> None:
        self.faults = faults
        self.applications: dict[str, dict[int, StoredChat]] = {}
        self.chats_issued: dict[str, int] = {}
        self.sent = itertools.count(1)
        self.chats_created = itertools.count(1)
        self.deleted = itertools.count(1)
        self.edited = itertools.count(1)
        self.pages = itertools.count(1)
        self.first_message: float | None = None

    async def respond(self, method: str, target: str, body: Any) -> tuple[int, Any] | None:
        """The answer, after the delay of a fault."""
        answer = self._answer(method, target, body)
        if delay := self._delay():
            await asyncio.sleep(delay)
        return answer

    def _answer(self, method: str, target: str, body: Any) -> tuple[int, Any] | None:
        """The status and the JSON of an answer; None closes the connection."""
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        match [method, *url.path.removeprefix("/api/v1/").split("/")]:
            case ["POST", "applications"]:
                name = body["application"]["name"]
                token = name.replace(" ", "-")  # so that runs on two servers get equal tokens
                while token in self.applications:
                    token += "+"
                self.applications[token] = {}
                return 201, {"token": token, "name": name}
            case ["DELETE", "applications", token]:
                self.applications.pop(token, None)
                return 202, {}
            case ["POST", "applications", token, "chats"]:
                return self._new_chat(token)
            case ["GET", "applications", token, "chats"]:
                numbers = sorted(self.applications[token])
                return 200, _page([{"number": number} for number in numbers], query)
            case [_, "applications", token, "chats", number, *rest]:
                chat = self.applications.get(token, {}).get(int(number))
                if chat is None:
                    return 404, {"status": 404}
                return self._in_chat(chat, method, rest, query, body)
        return 404, {"status": 404}

    def is_unchanged(self, payload: bytes, tag: str | None) -> bool:
        """Whether the answer to a request with this `If-None-Match` is 304."""
        if tag is None:
            return False
        return "stale-tag" in self.faults or tag == etag(payload)

    def events(self, target: str, last: int) -> list[tuple[int, bytes]]:
        """The events that a follower gets after a number, each with its number."""
        _, token, _, number, *_ = urlsplit(target).path.removeprefix("/api/v1/").split("/")
        found = []
        for item in self._listed(self.applications[token][int(number)], None):
            place = item["number"] % FAULT_INTERVAL
            if item["number"] <= last or ("unsent" in self.faults and place == 1):
                continue
            if "mangle" in self.faults and place == 2:
                item["text"] += "?"
            event = f"event: message\ndata: {json.dumps(item)}\nid: {item['number']}\n\n"
            found.append((item["number"], event.encode()))
        return found

    def _delay(self) -> float:
        """The delay of an answer, in seconds."""
        if "stall" in self.faults and self.first_message is not None:
            since = time.monotonic() - self.first_message
            if STALL_AFTER_SECONDS <= since < STALL_AFTER_SECONDS + STALL_SECONDS:
                return STALL_AFTER_SECONDS + STALL_SECONDS - since
        if "uneven" in self.faults:
            return random.choice((0.0, UNEVEN_SECONDS))
        return SLOW_SECONDS if "slow" in self.faults else 0.0

    def _new_chat(self, token: str) -> tuple[int, Any]:
        chats, issued = self.applications[token], self.chats_issued.get(token, 0)
        active_faults = self.faults if next(self.chats_created) % FAULT_INTERVAL == 0 else set()
        if not ("repeat-chat" in active_faults and issued):
            issued += 2 if "skip-chat" in active_faults else 1
        number = issued
        if "lose-chat" not in active_faults:
            chats.setdefault(number, StoredChat())
        if "double-chat" in active_faults:
            issued += 1
            chats[issued] = StoredChat()
        self.chats_issued[token] = issued
        return 202, {"number": number}

    def _in_chat(
        self, chat: StoredChat, method: str, rest: list[str], query: dict[str, str], body: Any
    ) -> tuple[int, Any] | None:
        match [method, *rest]:
            case ["POST", "messages"]:
                return self._send(chat, body["message"]["text"])
            case ["POST", "messages", "batch"]:
                first = chat.issued + 1
                for message in body["messages"]:
                    self._send(chat, message["text"])
                return 202, {"first": first, "last": chat.issued}
            case ["GET", "messages"]:
                listed = self._listed(chat, query.get("keyword"))
                if (
                    query.get("order") == "desc"
                    and "stale-page" in self.faults
                    and next(self.pages) % FAULT_INTERVAL == 0
                ):
                    listed = listed[:-1]
                return 200, _page(listed, query)
            case ["GET", "messages", number]:
                message = chat.messages.get(int(number))
                if message is None:
                    return 404, {"status": 404}
                if self._seconds_stored(message) < STORED_AFTER_SECONDS:
                    return 202, {"number": int(number), "status": "accepted"}
                return 200, {"number": int(number), "text": message.text}
            case ["PATCH", "messages", number] if int(number) in chat.messages:
                text = body["message"]["text"]
                if not ("forget" in self.faults and next(self.edited) % FAULT_INTERVAL == 0):
                    chat.messages[int(number)].text = text
                return 200, {"number": int(number), "text": text}
            case ["DELETE", "messages", number] if int(number) in chat.messages:
                if not ("undead" in self.faults and next(self.deleted) % FAULT_INTERVAL == 0):
                    del chat.messages[int(number)]
                return 204, None
        return 404, {"status": 404}

    def _send(self, chat: StoredChat, text: str) -> tuple[int, Any] | None:
        if self.first_message is None:
            self.first_message = time.monotonic()
        active_faults = self.faults if next(self.sent) % FAULT_INTERVAL == 0 else set()
        if "refuse" in active_faults:
            return 503, {"status": 503}
        if not ("repeat" in active_faults and chat.issued):
            chat.issued += 2 if "skip" in active_faults else 1
        number = chat.issued
        message = StoredMessage(text, time.monotonic(), "hide" in active_faults)
        if "garble" in active_faults:
            message.text = text[:-5] + "?" + text[-4:]
        if "lose" not in active_faults:
            chat.messages[number] = message
        if "double" in active_faults:
            chat.issued += 1
            chat.messages[chat.issued] = message
        if "invent" in active_faults:
            chat.issued += 1
            chat.messages[chat.issued] = StoredMessage("never sent", time.monotonic())
        if "break" in active_faults:
            return None
        return (500, {"status": 500}) if "err" in active_faults else (202, {"number": number})

    def _listed(self, chat: StoredChat, keyword: str | None) -> list[dict[str, Any]]:
        return [
            {"number": number, "text": message.text}
            for number, message in sorted(chat.messages.items())
            if (keyword is None and self._seconds_stored(message) >= STORED_AFTER_SECONDS)
            or (
                keyword is not None
                and "deaf" not in self.faults
                and keyword in message.text
                and not message.hidden
                and self._seconds_stored(message) >= FOUND_AFTER_SECONDS
            )
        ]

    def _seconds_stored(self, message: StoredMessage) -> float:
        return time.monotonic() - message.at if "lag" in self.faults else FOUND_AFTER_SECONDS


def _page(items: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
    after, before = int(query.get("after", 0)), int(query.get("before", sys.maxsize))
    limit = int(query.get("limit", 50))
    behind = [item for item in items if after < item["number"] < before]
    if query.get("order") == "desc":
        behind.reverse()
    more = len(behind) > limit
    return {"items": behind[:limit], "next": behind[limit - 1]["number"] if more else None}


class SmallServer:
    """A minimal HTTP/1.1 server."""

    def __init__(self, store: Store, log: Path | None = None) -> None:
        self.store = store
        self.log = log.open("a", encoding="utf-8") if log else None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").split("\r\n")
                method, target, _ = lines[0].split(" ")
                headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
                data = await reader.readexactly(int(headers.get("content-length", 0)))
                if self.log:
                    self.log.write(json.dumps([method, target, data.decode()]) + "\n")
                    self.log.flush()
                if urlsplit(target).path.endswith("/messages/stream"):
                    last = int(headers.get("last-event-id", 0))
                    await self._stream(reader, writer, target, last)
                body = json.loads(data) if data else None
                answer = await self.store.respond(method, target, body)
                if answer is None:
                    break
                status, found = answer
                payload = b"" if found is None else json.dumps(found).encode()
                tag = etag(payload)
                if self.store.is_unchanged(payload, headers.get("if-none-match")):
                    status, payload = 304, b""
                writer.write(
                    f"HTTP/1.1 {status} x\r\ncontent-type: application/json\r\netag: {tag}\r\n"
                    f"content-length: {len(payload)}\r\n\r\n".encode()
                    + payload
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _stream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str, last: int
    ) -> NoReturn:
        """Send what is stored to a follower until it leaves, then raise ConnectionResetError."""
        writer.write(
            b"HTTP/1.1 200 x\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        while not reader.at_eof():
            for number, event in self.store.events(target, last):
                writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                last = number
            await writer.drain()
            await asyncio.sleep(STREAM_POLL_SECONDS)
        raise ConnectionResetError


def etag(payload: bytes) -> str:
    """The ETag of a body."""
    return f'"{hashlib.sha256(payload).hexdigest()[:16]}"'


async def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("faults", nargs="*", choices=[[], *FAULTS])
    parser.add_argument("--log", type=Path)
    chosen = parser.parse_args()
    serving = SmallServer(FaultyStore(set(chosen.faults)), chosen.log)
    listening = await asyncio.start_server(serving.serve, "127.0.0.1", 0, limit=1 << 22)
    sys.stdout.write(f"{listening.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
