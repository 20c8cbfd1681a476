"""The messages that a private installation has before a run, as lines for `instachat import`.

They belong to applications of their own. The users of a run read and search them, and write nothing there.
"""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, NamedTuple

from loadtest.corpus.texts import language_of

MESSAGES_PER_CHAT = 1_000
CHATS_PER_APPLICATION = 100
TOKEN_BYTES = 24
FIRST_MESSAGE = datetime(2025, 1, 1, tzinfo=UTC)
MESSAGE_SECONDS = 60  # from one message of a chat to the next


class PreloadedChat(NamedTuple):
    """A chat: the place of its application among those of the preload, its number, and its messages."""

    application: int
    number: int
    messages: int


@dataclass(frozen=True)
class Preload:
    """So many messages, and the tokens of the applications that have them."""

    messages: int = 0
    tokens: tuple[str, ...] = ()

    @classmethod
    def new(cls, messages: int) -> "Preload":
        """That many messages of new applications."""
        applications = -(-messages // (MESSAGES_PER_CHAT * CHATS_PER_APPLICATION))
        return cls(messages, tuple(_token() for _ in range(applications)))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Preload":
        """The preload from the output of `asdict`, which may have been through JSON."""
        return cls(data["messages"], tuple(data["tokens"]))

    @property
    def chats(self) -> list[PreloadedChat]:
        """The chats, in order. Only the last one may have fewer messages than MESSAGES_PER_CHAT."""
        return [
            PreloadedChat(
                place // CHATS_PER_APPLICATION,
                place % CHATS_PER_APPLICATION + 1,
                min(MESSAGES_PER_CHAT, self.messages - place * MESSAGES_PER_CHAT),
            )
            for place in range(-(-self.messages // MESSAGES_PER_CHAT))
        ]

    def lines(self, seed: int) -> Iterator[str]:
        """The lines of the import, each with its end: an application, its chats, the messages of each."""
        rng = Random(f"{seed}/preload")
        times = [
            _times(FIRST_MESSAGE + timedelta(seconds=MESSAGE_SECONDS * place))
            for place in range(MESSAGES_PER_CHAT)
        ]
        for place, token in enumerate(self.tokens):
            name = f"preload {place + 1}"
            yield f'{{"type":"application","token":"{token}","name":"{name}",{times[0]}}}\n'
        for application, chat, count in self.chats:
            begin = f'"token":"{self.tokens[application]}"'
            yield f'{{"type":"chat",{begin},"number":{chat},{times[0]}}}\n'
            begin = f'{{"type":"message",{begin},"chat":{chat}'
            # Encoded once for each text of the corpus, not for each message.
            texts = [
                json.dumps(line, ensure_ascii=False)
                for line in language_of(application, chat).lines
            ]
            for number, text in enumerate(rng.choices(texts, k=count), 1):
                yield f'{begin},"number":{number},"text":{text},{times[number - 1]}}}\n'


NO_PRELOAD = Preload()


def _times(at: datetime) -> str:
    time = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f'"created_at":"{time}","updated_at":"{time}"'


def _token() -> str:
    """A token as the program makes them, which could not be taken for an option of a command."""
    while (token := secrets.token_urlsafe(TOKEN_BYTES)).startswith("-"):
        pass
    return token
