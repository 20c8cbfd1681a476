"""What is said and searched for: real lines in many languages, and each text unlike any other.

A text is a line of the corpus with a mark behind it, such as `~7.u12.3.`: seed, who said it, which of
theirs. So a text that is stored twice, or under another's number, shows; and searching for what all marks
of a run begin with finds everything that was sent. The marks take no chance: they follow from seed and place.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import accumulate
from random import Random
from unicodedata import category

from loadtest.corpus.conversations import conversations

MAX_LINE_LENGTH = 9_900  # leaves room for a mark
MAX_KEYWORDS = 200  # of one language
MIN_LINES = 20  # of a language, to have its own chats
MAX_SPACED_WORD_LENGTH = 12  # a word longer than that is taken for a script that writes no spaces
IGNORED_CATEGORIES = (
    "Mn",
    "Lm",
)  # marks, and Arabic tatweel: searching for nothing else is refused


@dataclass(frozen=True)
class Language:
    """A language: its lines, and its keywords from the most frequent to the rarest."""

    name: str
    lines: Sequence[str]
    keywords: Sequence[str]
    cumulative_weights: Sequence[float]  # of the keywords, each with all before it: Zipf's law

    def text(self, rng: Random, mark: str) -> str:
        """A line, and behind it the mark. It takes one number of the rng, in whatever language."""
        return f"{self.lines[int(rng.random() * len(self.lines))]} {mark}"

    def keyword(self, rng: Random) -> str:
        """The k-th most frequent word one k-th as often as the first."""
        return rng.choices(self.keywords, cum_weights=self.cumulative_weights)[0]


@cache
def languages() -> list[Language]:
    """All languages of the corpus, always in the same order."""
    lines_by_language: dict[str, list[str]] = {}
    for conversation in conversations():
        lines = (line.strip() for line in conversation.lines if len(line) <= MAX_LINE_LENGTH)
        lines_by_language.setdefault(conversation.language, []).extend(lines)
    return [
        _language(name, lines)
        for name, lines in lines_by_language.items()
        if len(lines) >= MIN_LINES
    ]


def mark_prefix(seed: int) -> str:
    """What every mark of a run begins with, and nothing else does."""
    return f"~{seed}."


def mark(seed: int, sender: str, number: int) -> str:
    """The mark of one text; no mark contains another."""
    return f"{mark_prefix(seed)}{sender}.{number}."


def digest(text: str) -> bytes:
    """Eight bytes that stand for a text in the ledger."""
    return blake2b(text.encode(), digest_size=8).digest()


def _language(name: str, lines: list[str]) -> Language:
    counts = Counter(word for line in lines for word in _words(line))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[:MAX_KEYWORDS]
    shares = list(accumulate(1 / rank for rank in range(1, len(ranked) + 1)))
    return Language(name, lines, ranked, shares)


def _words(line: str) -> list[str]:
    """The words of a line; of scripts without spaces, pieces of two characters. Each can be searched for."""
    words = (word.strip(".,;:!?¿¡\"'()[]…。，！？、؟،।") for word in line.split())
    pieces = (
        word if len(word) <= MAX_SPACED_WORD_LENGTH else word[start : start + 2]
        for word in words
        for start in ([0] if len(word) <= MAX_SPACED_WORD_LENGTH else range(0, len(word) - 1, 2))
    )
    return [
        piece
        for piece in pieces
        if any(category(character) not in IGNORED_CATEGORIES for character in piece)
    ]
