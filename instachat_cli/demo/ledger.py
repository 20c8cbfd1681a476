"""The demo's own record of every answer, and its comparison with the stored messages."""

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from backend.catalog.catalog import Catalog


class LedgerComparison(NamedTuple):
    """How the stored messages differ from the answers, in messages."""

    lost: int
    doubled: int
    changed: int


@dataclass
class DemoLedger:
    """What the demo has created: tokens by language, chats by token and topic, answers by token and chat."""

    tokens: dict[str, str] = field(default_factory=dict)
    chats: dict[tuple[str, str], int] = field(default_factory=dict)
    answers: dict[tuple[str, int], dict[int, str]] = field(default_factory=dict)
    accepted: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def record(self, token: str, chat: int, number: int, text: str) -> None:
        """Record an answer; AssertionError if the number was answered before. Thread-safe."""
        with self.lock:
            numbers = self.answers.setdefault((token, chat), {})
            assert number not in numbers, f"number {number} was answered twice"
            numbers[number] = text
            self.accepted += 1

    def compare(self, catalog: "Catalog") -> LedgerComparison:
        """Compare every answer with the stored messages. A chat whose numbers have a gap counts as a loss."""
        lost = doubled = changed = 0
        for (token, chat), answers in self.answers.items():
            stored = [(m.number, m.text) for m in catalog.messages.list(token, chat)]
            numbers = [number for number, _ in stored]
            doubled += len(numbers) - len(set(numbers))
            lost += len(answers.keys() - set(numbers))
            changed += sum(answers.get(number) != text for number, text in stored)
            if numbers != sorted(numbers) or set(numbers) != set(range(1, len(answers) + 1)):
                lost += 1
        return LedgerComparison(lost, doubled, changed)
