"""The texts and keywords of the load: real lines in many languages, each made unique by a mark.

A text is a line of the corpus followed by a mark such as `~7.u12.3.`: the seed, the sender, and the sender's
count of texts. The mark shows when a text is stored twice or under a wrong number, and a search for what all
marks of a run share finds every text of the run. Marks use no random numbers.
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
LANGUAGE_STRIDE = 4  # from an application's first language to the next one's
MIN_LINES = 20  # a language with fewer lines is left out
MAX_SPACED_WORD_LENGTH = 12  # a longer word is taken for a script without spaces
# Marks, and Arabic tatweel. The API rejects a keyword that has only such characters.
IGNORED_CATEGORIES = ("Mn", "Lm")


@dataclass(frozen=True)
class Language:
    """A language: its lines, and its keywords from the most frequent to the rarest."""

    name: str
    lines: Sequence[str]
    keywords: Sequence[str]
    cumulative_weights: Sequence[float]  # of the keywords, by Zipf's law

    def text(self, rng: Random, mark: str) -> str:
        """A random line followed by the mark. It takes exactly one number from `rng` in every language."""
        return f"{self.lines[int(rng.random() * len(self.lines))]} {mark}"

    def keyword(self, rng: Random) -> str:
        """A random keyword; the k-th most frequent one comes 1/k as often as the most frequent one."""
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


def language_of(application: int, chat: int) -> Language:
    """The language of a chat; a few chats of a few applications are enough to use every language."""
    available = languages()
    return available[(application * LANGUAGE_STRIDE + chat) % len(available)]


@dataclass(frozen=True)
class Marks:
    """The marks of a run's texts, for a server that finds any part of a text, or only whole words."""

    seed: int
    as_words: bool = False

    @property
    def keyword(self) -> str:
        """A keyword that finds every text of the run, and no other."""
        return f"loadrun{self._seed_word}x" if self.as_words else f"~{self.seed}."

    def keyword_of(self, sender: str, number: int) -> str:
        """A keyword that finds one text; none contains another."""
        if self.as_words:
            return f"{self.keyword}{sender.replace('.', 'd')}n{number}z"
        return f"{self.keyword}{sender}.{number}."

    def mark(self, sender: str, number: int) -> str:
        """The mark of one text."""
        own = self.keyword_of(sender, number)
        return f"{self.keyword} {own}" if self.as_words else own

    @property
    def _seed_word(self) -> str:
        return str(self.seed).replace("-", "m")


def digest(text: str) -> bytes:
    """Eight bytes that identify a text in the ledger."""
    return blake2b(text.encode(), digest_size=8).digest()


def _language(name: str, lines: list[str]) -> Language:
    counts = Counter(word for line in lines for word in _words(line))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[:MAX_KEYWORDS]
    shares = list(accumulate(1 / rank for rank in range(1, len(ranked) + 1)))
    return Language(name, lines, ranked, shares)


def _words(line: str) -> list[str]:
    """The searchable words of a line, or pieces of two characters in scripts without spaces."""
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
