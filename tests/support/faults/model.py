"""A model of the program in dictionaries, with which `test_model` compares the program.

It has the program's two halves. What is `stored` is in SQL, and no fault removes it. What is `held` is in
Redis: it survives a kill, is lost in a wipe, and can be replaced by an older copy. A drain moves events from
the second to the first, and an event that comes twice changes nothing.

Each event has a number, in the order of acceptance, by which the model recognizes it.
"""

from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from backend.domain.errors import Closing, HasChildren, InstaChatError, KeyReused, NotFound
from backend.domain.model import Parent, shard_of

SHARDS = range(16, 80)


@dataclass
class Message:
    """A stored message; `text` is None once it is deleted. `made` is its event's number (0: imported)."""

    text: str | None
    made: int


@dataclass
class Chat:
    """A stored chat."""

    made: int
    gone: bool = False
    messages: dict[int, Message] = field(default_factory=dict)

    @property
    def alive(self) -> dict[int, str]:
        """The texts of the messages that are not deleted."""
        return {n: m.text for n, m in self.messages.items() if m.text is not None}


@dataclass
class Application:
    """A stored application."""

    gone: bool = False
    chats: dict[int, Chat] = field(default_factory=dict)

    @property
    def alive(self) -> dict[int, Chat]:
        """The chats that are not deleted."""
        return {n: chat for n, chat in self.chats.items() if not chat.gone}


class ModelRequest(NamedTuple):
    """One request: of new chats, of messages, or for a deletion, as `kind` says."""

    kind: str  # chats | messages | delete
    parent: Parent
    texts: tuple[str, ...] = ()
    chats: int = 0
    key: str | None = None

    @property
    def takes(self) -> int:
        """How many numbers the request takes."""
        return self.chats or len(self.texts)


class Event(NamedTuple):
    """What was accepted: a request, the first number issued to it, and the event's own number."""

    id: int
    ask: ModelRequest
    first: int


Given = tuple[int, int]
Refusal = type[InstaChatError]
Answer = Given | Refusal


@dataclass
class RedisState:
    """The data in Redis. A counter issues numbers once it is verified in the current epoch."""

    log: list[Event] = field(default_factory=list)
    issued: dict[Parent, int] = field(default_factory=dict)
    verified: set[Parent] = field(default_factory=set)
    closed: dict[Parent, int] = field(default_factory=dict)
    keys: dict[tuple[str, Parent, str], tuple[ModelRequest, Given]] = field(default_factory=dict)


class Model:
    """What was answered, what of it is stored, and what Redis holds."""

    def __init__(self) -> None:
        self.stored: dict[str, Application] = {}
        self.redis_state = RedisState()
        self.dead_letters: set[tuple[int, int]] = set()
        self._ids = count(1)
        self._passed = dict.fromkeys(SHARDS, 0)

    # -- operations and faults ---------------------------------------------------------------------

    def restart(self) -> None:
        """Redis was killed and started again: no data are lost, but no counter is verified."""
        self.redis_state.verified = set()

    def wipe(self) -> None:
        """Redis lost everything."""
        self.redis_state = RedisState()

    def copy(self) -> RedisState:
        """A copy of Redis's data."""
        return deepcopy(self.redis_state)

    def restore(self, copy: RedisState) -> None:
        """Redis is restored from an old copy."""
        self.redis_state = deepcopy(copy)
        self.restart()

    # -- accepting ---------------------------------------------------------------------------------

    def create_application(self, token: str) -> None:
        """An application is stored immediately; its counter is created first."""
        self.stored[token] = Application()
        self._raise(Parent(token), 0)

    def accept(self, asks: Sequence[ModelRequest]) -> list[Answer]:
        """The answer to each request of a batch."""
        answers: dict[int, Answer] = {}
        shards: dict[int, list[int]] = {}
        for i, ask in enumerate(asks):
            shards.setdefault(shard(ask.parent), []).append(i)
        for mine in shards.values():
            while waiting := [i for i in mine if i not in answers]:
                refused = [(i, self._try(asks[i], i, answers)) for i in waiting]
                for i, parents in refused:
                    try:
                        for parent in parents:
                            self.verify(parent)
                    except NotFound:
                        answers[i] = NotFound
        return [answers[i] for i in range(len(asks))]

    def _try(self, ask: ModelRequest, i: int, answers: dict[int, Answer]) -> list[Parent]:
        """Answer a request as the script would; returns the counters to verify after a refusal."""
        redis_state = self.redis_state
        key = (ask.kind, ask.parent, ask.key or "")
        if ask.key and key in redis_state.keys:
            before, given = redis_state.keys[key]
            answers[i] = given if before == ask else KeyReused
            return []
        for parent in lineage(ask.parent):
            if parent not in redis_state.verified:
                return lineage(ask.parent) if parent == ask.parent else [parent]
            if parent in redis_state.closed:
                answers[i] = Closing
                return [parent]
        event = Event(next(self._ids), ask, redis_state.issued[ask.parent] + 1)
        redis_state.log.append(event)
        redis_state.issued[ask.parent] += ask.takes
        answers[i] = given = (event.first, redis_state.issued[ask.parent])
        if ask.key:
            redis_state.keys[key] = ask, given
        if ask.kind == "delete":
            redis_state.closed[ask.parent] = event.id
        if ask.kind == "chats":
            for number in range(given[0], given[1] + 1):
                chat = Parent(ask.parent.token, number)
                redis_state.issued[chat] = 0
                redis_state.verified.add(chat)
                redis_state.closed.pop(chat, None)
        return []

    def verify(self, parent: Parent) -> int:
        """Raise a counter to the stored numbers; create it after a drain if it is lost. Raises NotFound."""
        redis_state = self.redis_state
        if self._is_gone(parent):
            raise NotFound(str(parent))
        if parent not in redis_state.issued:
            if parent.chat and parent.chat > self.live(Parent(parent.token)):
                raise NotFound(str(parent))
            self.drain(shard(parent))
            if self._is_gone(parent) or not self._is_stored(parent):
                raise NotFound(str(parent))
        elif (
            self._is_stored(parent)
            and redis_state.closed.get(parent, 0) <= self._passed[shard(parent)]
        ):
            redis_state.closed.pop(parent, None)
        self._raise(parent, self.highest(parent))
        return redis_state.issued[parent]

    def live(self, parent: Parent) -> int:
        """The highest number issued under a parent. Raises NotFound."""
        if parent not in self.redis_state.verified:
            for each in lineage(parent):
                self.verify(each)
        return self.redis_state.issued[parent]

    def count(self, parent: Parent) -> int:
        """How many children a parent has, stored or accepted. Raises NotFound."""
        return self.live(parent) - (len(self._rows(parent)) - len(self._living(parent)))

    # -- draining ----------------------------------------------------------------------------------

    def drain(self, number: int, *, committed: bool = True) -> None:
        """Store the events of a shard's log. Without the commit, only the changes in Redis remain."""
        events = [e for e in self.redis_state.log if shard(e.ask.parent) == number]
        stored, dead_letters = deepcopy(self.stored), set(self.dead_letters)
        for event in events:
            {
                "chats": self._store_chats,
                "messages": self._store_messages,
                "delete": self._decide_deletion,
            }[event.ask.kind](event)
        if committed:
            self.redis_state.log = [
                e for e in self.redis_state.log if shard(e.ask.parent) != number
            ]
            self._passed[number] = next(self._ids)
        else:
            self.stored, self.dead_letters = stored, dead_letters

    def _store_chats(self, event: Event) -> None:
        application = self.stored[event.ask.parent.token]
        if application.gone:
            return
        for number in range(event.first, event.first + event.ask.chats):
            chat = application.chats.setdefault(number, Chat(event.id))
            if chat.made != event.id:
                self.dead_letters.add((event.id, number))

    def _store_messages(self, event: Event) -> None:
        if self._is_gone(event.ask.parent):
            return
        messages = self._chat(event.ask.parent).messages
        for number, text in enumerate(event.ask.texts, event.first):
            message = messages.setdefault(number, Message(text, event.id))
            if message.made != event.id:
                self.dead_letters.add((event.id, number))

    def _decide_deletion(self, event: Event) -> None:
        parent = event.ask.parent
        if self.redis_state.closed.get(parent) != event.id or self._is_gone(parent):
            return
        if self._living(parent):
            del self.redis_state.closed[parent]
            if parent.chat is None:  # the counter is compared with SQL, which may have a rate limit
                self.redis_state.verified.discard(parent)
        elif parent.chat is None:
            self.stored[parent.token].gone = True
        else:
            self._chat(parent).gone = True

    # -- changing ----------------------------------------------------------------------------------

    def change(self, parent: Parent, number: int, text: str | None) -> Refusal | None:
        """Edit or delete a message. As no worker runs, accepted events are stored first."""
        self.drain(shard(parent))
        stored = self._is_stored(parent) and not self._is_gone(parent)
        message = self._chat(parent).messages.get(number) if stored else None
        if message is None:
            with suppress(NotFound):
                self.live(parent)
        if message is None or message.text is None:
            return NotFound
        message.text = text
        return None

    def delete(self, parent: Parent) -> Refusal | None:
        """Delete a chat or an application, and wait for the decision."""
        try:
            if parent.chat is None:
                self.live(parent)
            else:
                self.drain(shard(parent))
                if self._is_gone(Parent(parent.token)):
                    return NotFound
                if not self._is_stored(parent):
                    self.live(Parent(parent.token))
                    return NotFound
                if self._is_gone(parent):
                    return NotFound
        except NotFound:
            return NotFound
        answer = self.accept([ModelRequest("delete", parent)])[0]
        if not isinstance(answer, tuple):
            return answer
        self.drain(shard(parent))
        return None if self._is_gone(parent) else HasChildren

    def import_chat(
        self, application: Parent, number: int, texts: Sequence[str | None], *, gone: bool
    ) -> bool:
        """Import a chat with its messages; False, changing nothing, if the application is gone."""
        self.drain(shard(application))
        if self._is_gone(application):
            return False
        chat = Chat(0, gone, {n: Message(text, 0) for n, text in enumerate(texts, 1)})
        self.stored[application.token].chats[number] = chat
        self._raise(application, number)
        if texts:
            self._raise(Parent(application.token, number), len(texts))
        return True

    def _raise(self, parent: Parent, number: int) -> None:
        self.redis_state.issued[parent] = max(self.redis_state.issued.get(parent, 0), number)
        self.redis_state.verified.add(parent)

    # -- reading -----------------------------------------------------------------------------------

    def highest(self, parent: Parent) -> int:
        """The highest number that is stored or was removed under a parent."""
        return max(self._rows(parent), default=0)

    def chats(self) -> list[Parent]:
        """Every chat that is stored and not deleted."""
        return [
            Parent(token, number)
            for token, application in self.stored.items()
            if not application.gone
            for number in application.alive
        ]

    def texts(self, chat: Parent) -> dict[int, str]:
        """The texts of a stored chat."""
        return self._chat(chat).alive

    def _chat(self, parent: Parent) -> Chat:
        assert parent.chat is not None
        return self.stored[parent.token].chats[parent.chat]

    def _rows(self, parent: Parent) -> dict[int, Chat] | dict[int, Message]:
        application = self.stored[parent.token]
        if parent.chat is None:
            return application.chats
        return application.chats[parent.chat].messages if parent.chat in application.chats else {}

    def _living(self, parent: Parent) -> dict[int, Chat] | dict[int, str]:
        application = self.stored[parent.token]
        if parent.chat is None:
            return application.alive
        return application.chats[parent.chat].alive if parent.chat in application.chats else {}

    def _is_stored(self, parent: Parent) -> bool:
        return parent.chat is None or parent.chat in self.stored[parent.token].chats

    def _is_gone(self, parent: Parent) -> bool:
        application = self.stored[parent.token]
        chat = application.chats.get(parent.chat or 0)
        return application.gone or (chat is not None and chat.gone)


def shard(parent: Parent) -> int:
    """A parent's shard."""
    return shard_of(parent.token, SHARDS)


def lineage(parent: Parent) -> list[Parent]:
    """A parent, preceded by its own parent."""
    return [parent] if parent.chat is None else [Parent(parent.token), parent]
