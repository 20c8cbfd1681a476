"""A ledger outside the program: every answer is recorded before the next request is sent.

After each fault the audit checks that every answered number is stored once with its text, that no number
was answered twice, and that there is no gap. A request whose answer was lost is recorded as uncertain: it
may have been given numbers once, or not at all.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backend.bootstrap import Backend
from backend.domain.errors import NotFound


class Ledger:
    """Appends answers to a file. Each reaches the kernel before the call returns, so no kill loses it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def record_answer(
        self, token: str, chat: int, first: int, texts: Sequence[str], begin: int = 0, end: int = 0
    ) -> None:
        """Record that a request from time `begin` to `end` gave these texts the numbers from `first` on."""
        line = {"token": token, "chat": chat, "first": first, "texts": list(texts)}
        self._write({**line, "begin": begin, "end": end})

    def record_uncertain(self, token: str, chat: int, texts: Sequence[str]) -> None:
        """Record that the answer for these texts was lost."""
        self._write({"token": token, "chat": chat, "first": None, "texts": list(texts)})

    def _write(self, line: dict[str, object]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()


@dataclass
class Audit:
    """The differences between ledgers and stores, each as (chat, number); all empty after a clean run."""

    answered: int = 0
    repeated: list[tuple[int, int]] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)
    wrong: list[tuple[int, int]] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    unexpected: list[tuple[int, int]] = field(default_factory=list)

    @property
    def faults(self) -> dict[str, list[tuple[int, int]]]:
        """The non-empty kinds of difference."""
        kinds = ("repeated", "lost", "wrong", "gaps", "unexpected")
        return {kind: found for kind in kinds if (found := getattr(self, kind))}


def audit(backend: Backend, paths: Sequence[Path]) -> Audit:
    """Compare ledgers with the stored messages; the log must have been drained."""
    result = Audit()
    answered: dict[tuple[str, int], dict[int, str]] = {}
    uncertain: dict[tuple[str, int], Counter[str]] = {}
    for path in paths:
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            parent = entry["token"], entry["chat"]
            numbers = answered.setdefault(parent, {})
            if entry["first"] is None:
                uncertain.setdefault(parent, Counter()).update(entry["texts"])
                continue
            for number, text in enumerate(entry["texts"], entry["first"]):
                if number in numbers:
                    result.repeated.append((parent[1], number))
                numbers[number] = text
                result.answered += 1
    for (token, chat), numbers in answered.items():
        try:
            stored = {m.number: m.text for m in backend.catalog.messages.list(token, chat)}
        except NotFound:
            stored = {}
        possible = uncertain.get((token, chat), Counter())
        for number, text in numbers.items():
            if number not in stored:
                result.lost.append((chat, number))
            elif stored[number] != text:
                result.wrong.append((chat, number))
        for number in stored.keys() - numbers.keys():
            possible[stored[number]] -= 1
            if possible[stored[number]] < 0:
                result.unexpected.append((chat, number))
        result.gaps += [(chat, n) for n in range(1, max(stored, default=0) + 1) if n not in stored]
    return result
