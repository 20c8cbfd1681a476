"""The messages that are indexed, and the keywords that are searched for."""

import random
from collections.abc import Iterator

from backend.domain.folding import fold
from instachat_cli.bench.harness.messages import random_text
from loadtest.corpus.conversations import conversations

SEED = 20_261_124
SIZES = {"5k": 5_000, "100k": 100_000}  # the two chats that are searched, numbers 1 and 2
LENGTHS = (1, 2, 3, 5, 20)  # of keywords
KEYWORDS = 8  # of each length and kind, in each chat


def chats(messages: int) -> Iterator[tuple[int, list[str]]]:
    """The chats with their folded texts, each chat in one language; the two large ones in English."""
    rng = random.Random(SEED)
    lines: dict[str, list[str]] = {}
    for conversation in conversations():
        lines.setdefault(conversation.language, []).extend(map(fold, conversation.lines))
    languages = sorted(lines)
    left, number = messages, 0
    sizes = list(SIZES.values())
    while left > 0:
        size = sizes[number] if number < len(sizes) else int(rng.lognormvariate(5, 1.5)) + 1
        size = min(size, left)
        spoken = lines["english" if number < len(sizes) else rng.choice(languages)]
        number, left = number + 1, left - size
        yield number, [random_text(spoken, rng) for _ in range(size)]


def keywords(texts: list[str], rng: random.Random) -> dict[tuple[int, str], list[str]]:
    """Keywords by length and kind: of many substrings, those in the fewest and in the most texts."""
    sample = rng.sample(texts, min(len(texts), 5_000))
    chosen = {}
    for length in LENGTHS:
        pool = set()
        for _ in range(400):
            line = rng.choice(texts)
            if len(line) >= length:
                at = rng.randrange(len(line) - length + 1)
                pool.add(line[at : at + length])
        ranked = sorted(pool, key=lambda word: (sum(word in line for line in sample), word))
        chosen[length, "rare"] = ranked[:KEYWORDS]
        chosen[length, "frequent"] = ranked[-KEYWORDS:]
    return chosen
