"""Real conversations: the `chatterbot-corpus` package, and Arabic and emoji lines of this project."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_LINE = 10_000
"""The longest text of a message; longer lines are left out."""

_ADDITIONAL = Path(__file__).with_name("conversations.yml")


@dataclass(frozen=True)
class Conversation:
    """The lines of one topic in one language; each is valid as a message's text."""

    language: str
    topic: str
    lines: list[str]


def conversations() -> Iterator[Conversation]:
    """All conversations, ordered by language and topic; always the same.

    The files are read one at a time, while the caller iterates.
    """
    # Imported late: few commands need it, and all commands should start quickly.
    from chatterbot_corpus.corpus import DATA_DIRECTORY

    languages: dict[str, dict[str, Any]] = {
        language.name: {file.stem: file for file in language.glob("*.yml")}
        for language in Path(DATA_DIRECTORY).iterdir()
        if language.is_dir()
    }
    for language, additional in _parsed(_ADDITIONAL).items():
        languages[language] = languages.get(language, {}) | additional
    for language, topics in sorted(languages.items()):
        for topic, source in sorted(topics.items()):
            spoken = _parsed(source)["conversations"] if isinstance(source, Path) else source
            if valid := [line for line in _lines(spoken) if line.strip() and _is_valid(line)]:
                yield Conversation(language, topic, valid)


def lines() -> Iterator[str]:
    """The lines of all conversations, in the order of `conversations`."""
    for conversation in conversations():
        yield from conversation.lines


def _parsed(file: Path) -> Any:
    import yaml

    # The base loader reads every scalar as a string: a line such as `No`, `1945` or `1.10` stays as it is
    # written. The loader in C is ten times as fast as the one in Python.
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    return yaml.load(file.read_text(encoding="utf-8"), loader)


def _lines(spoken: Any) -> Iterator[str]:
    """The strings in nested lists; the files differ in how many levels they have."""
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
