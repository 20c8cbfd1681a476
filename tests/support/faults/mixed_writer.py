"""A writer of a mixed load: sends, edits, deletes, cascades and searches, and keeps a ledger of all requests.

It records each request before it sends it, and the answer before the next request. So it may be killed at any
moment: a request without an answer was executed once or not at all. It changes only its own messages, so its
ledger alone determines the required state of each of them.

    python -m tests.support.faults.mixed_writer FOLDER NAME TOKEN…

The variables INSTACHAT_…_URL name the engines.
"""

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import EngineDown, Unavailable
from backend.ingest.requests import AcceptRequest
from backend.settings import load
from tests.support.faults.pace import pause
from tests.support.program_logs import MARKER

CHATS = 4  # of each application, at the start; they are never deleted
PAUSE_SECONDS = 0.02  # after a refusal
Key = tuple[str, int, int]  # token, chat, number
OPERATIONS = {"send": 60, "edit": 14, "delete": 10, "search": 10, "open": 4, "cascade": 2}  # in 100


class Writer:
    """Sends one request after another until it is told to stop."""

    def __init__(self, backend: Backend, folder: Path, name: str, tokens: list[str]) -> None:
        self._backend = backend
        self._stop = folder / "stop"
        self._book = (folder / f"ledger-{name}").open("a", encoding="utf-8")
        self._name = name
        self._dice = random.Random(name)
        self._chats = [(token, chat) for token in tokens for chat in range(1, CHATS + 1)]
        self._own_chats: list[tuple[str, int]] = []  # chats that no other writer writes to
        self._texts: dict[Key, str] = {}
        self._count = 0

    def run(self) -> None:
        """Run until the file `stop` exists; an error that is not temporary ends the writer and the soak."""
        operations, weights = zip(*OPERATIONS.items(), strict=True)
        while not self._stop.exists():
            pause()
            operation = self._dice.choices(operations, weights)[0]
            try:
                getattr(self, f"_{operation}")()
            except Unavailable:
                time.sleep(PAUSE_SECONDS)

    def _do(self, act: Callable[[], Any], **what: object) -> Any:
        """Record a request, send it, and record the answer."""
        self._count += 1
        self._write({"id": self._count, **what})
        answer = act()
        self._write({"id": self._count, "answer": answer})
        return answer

    def _write(self, line: dict[str, object]) -> None:
        self._book.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._book.flush()

    def _send(self) -> None:
        token, chat = self._dice.choice(self._chats + self._own_chats)
        count = self._dice.randint(1, 5)
        texts = [f"{MARKER}/{self._name}/{self._count} {n} سلام" for n in range(count)]
        request = AcceptRequest.messages(token, chat, texts)
        first = self._do(
            lambda: self._backend.acceptor.accept(request).first,
            operation="send",
            chat=[token, chat],
            texts=texts,
        )
        self._texts |= {(token, chat, first + n): text for n, text in enumerate(texts)}

    def _edit(self) -> None:
        if key := self._pick():
            text = f"{self._texts[key]} {self._dice.getrandbits(32):x}"
            edit = self._backend.catalog.messages.edit
            self._do(
                lambda: edit(*key, {"text": text}).number, operation="edit", key=key, text=text
            )
            self._texts[key] = text

    def _delete(self) -> None:
        if key := self._pick():
            del self._texts[key]  # whatever the result, this chat is not used any more
            self._do(
                lambda: self._backend.catalog.messages.delete(*key), operation="delete", key=key
            )

    def _search(self) -> None:
        if key := self._pick():
            keyword = self._texts[key].partition(" ")[0]
            for match in self._backend.catalog.messages.search(*key[:2], keyword):
                assert keyword in match.message.text, "found what does not contain the keyword"

    def _open(self) -> None:
        token, _ = self._dice.choice(self._chats)
        request = AcceptRequest.chats(token)
        self._own_chats.append((token, self._backend.acceptor.accept(request).first))

    def _cascade(self) -> None:
        if self._own_chats:
            chat = self._own_chats.pop(self._dice.randrange(len(self._own_chats)))
            self._texts = {key: text for key, text in self._texts.items() if key[:2] != chat}
            cascade = self._backend.catalog.chats.delete
            self._do(lambda: cascade(*chat, cascade=True), operation="cascade", chat=chat)

    def _pick(self) -> Key | None:
        return self._dice.choice(list(self._texts)) if self._texts else None


@dataclass
class ExpectedState:
    """What ledgers require: for each message that was answered, the texts that it may have now."""

    allowed: dict[Key, set[str | None]] = field(default_factory=dict)
    sent: dict[Key, str] = field(default_factory=dict)  # its first text
    unanswered: Counter[str] = field(default_factory=Counter)  # texts
    dropped: dict[tuple[str, int], bool] = field(default_factory=dict)  # True if it is certain
    repeated: list[Key] = field(default_factory=list)

    def read(self, path: Path) -> None:
        """Add one ledger."""
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        answers = {line["id"]: line["answer"] for line in lines if "answer" in line}
        for line in lines:
            if "operation" in line:
                getattr(self, f"_{line['operation']}")(line, line["id"] in answers, answers)

    def _send(self, line: dict[str, Any], answered: bool, answers: dict[int, Any]) -> None:
        if not answered:
            self.unanswered.update(line["texts"])
            return
        token, chat = line["chat"]
        for number, text in enumerate(line["texts"], answers[line["id"]]):
            key = token, chat, number
            if key in self.sent:
                self.repeated.append(key)
            self.sent[key] = text
            self.allowed[key] = {text}

    def _edit(self, line: dict[str, Any], answered: bool, _: object) -> None:
        self._change(tuple(line["key"]), line["text"], answered)

    def _delete(self, line: dict[str, Any], answered: bool, _: object) -> None:
        self._change(tuple(line["key"]), None, answered)

    def _change(self, key: Any, text: str | None, answered: bool) -> None:
        self.allowed[key] = {text} if answered else {*self.allowed[key], text}

    def _cascade(self, line: dict[str, Any], answered: bool, _: object) -> None:
        self.dropped[tuple(line["chat"])] = answered


def faults(ledgers: Iterable[Path], stored: dict[Key, str | None]) -> Iterator[str]:
    """The differences between the ledgers and all stored messages (None: removed)."""
    expected = ExpectedState()
    for path in ledgers:
        expected.read(path)
    yield from (f"{key} was answered twice" for key in expected.repeated)
    for key, allowed in expected.allowed.items():
        dropped = expected.dropped.get(key[:2])
        if dropped:
            if key in stored:
                yield f"{key} is there, and its chat was dropped"
        elif key not in stored:
            if dropped is None:
                yield f"{key} is lost"
        elif stored[key] not in allowed:
            yield f"{key} is {stored[key]!r}, not one of {allowed}"
    for key in stored.keys() - expected.allowed.keys():
        text = stored[key] or ""
        expected.unanswered[text] -= 1
        if expected.unanswered[text] < 0:
            yield f"{key} is {text!r}, which was not requested, or only once"


def main(folder: str, name: str, *tokens: str) -> None:
    """Write until it is told to stop."""
    while True:
        try:
            with open_backend(load()) as backend:
                Writer(backend, Path(folder), name, list(tokens)).run()
        except EngineDown:  # the engine may be down at the start, too
            time.sleep(PAUSE_SECONDS)
        else:
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
