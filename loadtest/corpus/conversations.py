"""Real conversations to load: the `chatterbot-corpus` package, and Arabic and emoji of our own."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_LINE = 10_000
"""Longer lines are left out: a message can't be longer."""

_OUR_OWN = Path(__file__).with_name("conversations.yml")


@dataclass(frozen=True)
class Conversation:
    """What was said on one topic in one language; each line is valid as a message's text."""

    language: str
    topic: str
    lines: list[str]


def conversations() -> Iterator[Conversation]:
    """All conversations, one a language and topic, ordered by the two; always the same.

    They are read one file at a time, so a caller may begin before the last is read.
    """
    # Imported here, as few commands need them and all should start quickly.
    from chatterbot_corpus.corpus import DATA_DIRECTORY

    languages: dict[str, dict[str, Any]] = {
        language.name: {file.stem: file for file in language.glob("*.yml")}
        for language in Path(DATA_DIRECTORY).iterdir()
        if language.is_dir()
    }
    for language, ours in _parsed(_OUR_OWN).items():
        languages[language] = languages.get(language, {}) | ours
    for language, topics in sorted(languages.items()):
        for topic, source in sorted(topics.items()):
            spoken = _parsed(source)["conversations"] if isinstance(source, Path) else source
            if lines := [line for line in _lines(spoken) if line.strip() and _is_valid(line)]:
                yield Conversation(language, topic, lines)


def _parsed(file: Path) -> Any:
    import yaml

    # The base loader keeps what is written as it is written: a line that reads `No`, `1945` or
    # `1.10` is no truth value and no number. In C it is ten times as fast as in Python.
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    return yaml.load(file.read_text(encoding="utf-8"), loader)


def _lines(spoken: Any) -> Iterator[str]:
    """The strings in lists of lists, as some of the files have fewer levels than the others."""
    if isinstance(spoken, str):
        yield spoken
    elif isinstance(spoken, dict):  # an unquoted line with a colon in it
        for key, value in spoken.items():
            yield f"{key}: {value}"
    else:
        for part in spoken:
            yield from _lines(part)


def _is_valid(line: str) -> bool:
    return len(line) <= MAX_LINE and "\0" not in line
