"""Plants differences between the stores, each with the finding that `reconcile` must report.

A `Field` is an installation that contains every legitimate reason for a missing number: removed messages,
dead letters, and a removed chat.
"""

import random
from collections.abc import Callable

import redis
from sqlalchemy import text

from backend.bootstrap import Backend
from backend.domain.events import pack_messages
from backend.domain.model import Parent, new_token
from backend.ingest.requests import AcceptRequest
from backend.reconcile.findings import FindingKind
from backend.storage.redis.types import Creation
from tests.support.redis_values import counter_fields, plant_counter

Key = tuple[FindingKind, str | None, int | None, int | None]  # kind, token, chat, number
FULL = range(2, 5)  # the chats of an application that have messages
REMOVED = 5
CHATS = 6  # the first and the last are empty
MESSAGES = 13  # in each chat of FULL


class Field:
    """Applications whose stores agree until something is planted.

    `expected` are the findings that must be reported, and `kept` those of them that no repair removes.
    """

    def __init__(self, backend: Backend, dice: random.Random, applications: int = 3) -> None:
        self.backend = backend
        self.dice = dice
        self.expected: list[Key] = []
        self.kept: list[Key] = []
        self.tokens = [
            backend.catalog.applications.create(f"{n}").token for n in range(applications)
        ]
        for token in self.tokens:
            backend.acceptor.accept(AcceptRequest.chats(token, CHATS))
            for chat in FULL:
                self._fill(token, chat)
            backend.catalog.chats.delete(token, REMOVED)
        backend.drainer.drain_all()

    def _fill(self, token: str, chat: int) -> None:
        """Create messages, one of which is rejected and one removed."""
        texts = [f"{chat} {n} سلام" for n in range(1, MESSAGES - 1)]
        self.backend.acceptor.accept(AcceptRequest.messages(token, chat, texts))
        shard = self.backend.counters.shard(token)
        bad = Creation("messages", Parent(token, chat), pack_messages(token, chat, ["bad\x00"]))
        _, end = self.backend.log.read_issued(shard, [])
        self.backend.log.accept(shard, [bad], end)
        self.backend.acceptor.accept(AcceptRequest.messages(token, chat, ["last"]))
        self.backend.catalog.messages.delete(token, chat, 2)

    # -- planting ------------------------------------------------------------------------------------

    def plant(self) -> None:
        """Plant differences under about half of all parents, and orphans."""
        for token in self.tokens:
            for parent in (Parent(token), *(Parent(token, n) for n in FULL)):
                self._plant_under(parent)
            if self.dice.random() < 0.5:
                self._open_removed(Parent(token, REMOVED))
        for plant_orphan in (self._orphan_message, self._orphan_application, self._orphan_chat):
            for _ in range(self.dice.randint(0, 2)):
                plant_orphan()

    def _plant_under(self, parent: Parent) -> None:
        highest = self.highest(parent)
        plants: list[list[Callable[[Parent, int], None]]] = [
            [self._behind, self._ahead, self._ahead_of_last],
            [self._removed_differs, self._issued_differs],
            [self._gap],
        ]
        for choice in plants:
            if self.dice.random() < 0.3:
                self.dice.choice(choice)(parent, highest)

    def _behind(self, parent: Parent, highest: int) -> None:
        self.set_issued(parent, self.dice.randint(0, highest - 1))
        self._expect(FindingKind.COUNTER_BEHIND, parent)

    def _ahead(self, parent: Parent, highest: int) -> None:
        self.set_issued(parent, highest + self.dice.randint(1, 5))
        self._expect(FindingKind.COUNTER_AHEAD, parent)

    def _ahead_of_last(self, parent: Parent, highest: int) -> None:
        """Delete the newest row."""
        self._delete(parent, highest)
        self._expect(FindingKind.COUNTER_AHEAD, parent)

    def _removed_differs(self, parent: Parent, _: int) -> None:
        self._add(parent, "removed", self.dice.choice([-1, 1, 7]))
        self._expect(FindingKind.COUNT_DIFFERS, parent)

    def _issued_differs(self, parent: Parent, highest: int) -> None:
        self._add(parent, "issued", highest + 6)
        self._expect(FindingKind.COUNT_DIFFERS, parent)

    def _gap(self, parent: Parent, highest: int) -> None:
        if parent.chat is None:
            self._delete(parent, 1)
            self.expected.append((FindingKind.GAP_UNEXPLAINED, parent.token, 1, None))
            return
        deleted = self.dice.sample(range(3, highest - 2), self.dice.randint(1, 3))
        for number in deleted:
            self._delete(parent, number)
            if number - 1 not in deleted:  # several numbers in a row are one finding
                self.expected.append((FindingKind.GAP_UNEXPLAINED, *parent, number))

    def _delete(self, parent: Parent, number: int) -> None:
        """Delete the row of a child."""
        if parent.chat is None:
            self.execute(
                "DELETE FROM chat c USING application a WHERE a.id = c.application_id"
                " AND a.token = :token AND c.number = :number",
                token=parent.token,
                number=number,
            )
            return
        self.execute(
            "DELETE FROM message WHERE number = :number AND chat_id = (SELECT c.id FROM chat c"
            " JOIN application a ON a.id = application_id WHERE token = :token AND c.number = :chat)",
            **parent._asdict(),
            number=number,
        )

    def plant_duplicate(self, parent: Parent, number: int) -> None:
        """Accept a creation under a number that is stored, as a Redis that lost its counter would."""
        issued = counter_fields(self.backend.log, self.shard(parent), parent).get("issued", "0")
        self.set_issued(parent, number - 1)
        if parent.chat is None:
            self.backend.acceptor.accept(AcceptRequest.chats(parent.token))
        else:
            texts = ["answered with the number of another"]
            request = AcceptRequest.messages(parent.token, parent.chat, texts)
            self.backend.acceptor.accept(request)
        self.backend.drainer.drain_all()
        self.set_issued(parent, int(issued))
        chat, of_message = (number, None) if parent.chat is None else (parent.chat, number)
        self._expect_kept((FindingKind.DUPLICATE_NUMBER, parent.token, chat, of_message))

    def _expect_kept(self, key: Key) -> None:
        """Expect a finding that has no repair."""
        self.kept.append(key)
        self.expected.append(key)

    def _open_removed(self, chat: Parent) -> None:
        plant_counter(self.backend.log, self.shard(chat), chat, closed="-")
        self._expect(FindingKind.ORPHAN, chat)

    def _orphan_message(self) -> None:
        number = self.dice.randint(1, 10**9)
        self.execute(
            "INSERT INTO message (chat_id, number, version, created_at, updated_at, text, folded)"
            " VALUES (:chat, :number, 1, now(), now(), 'x', 'x')",
            chat=10**12 + self.dice.randint(1, 10**6),
            number=number,
        )
        self.expected.append((FindingKind.ORPHAN, None, None, number))

    def _orphan_application(self) -> None:
        self._orphan_counter(Parent(new_token()))

    def _orphan_chat(self) -> None:
        self._orphan_counter(Parent(self.dice.choice(self.tokens), self.dice.randint(1000, 10**9)))

    def _orphan_counter(self, parent: Parent) -> None:
        plant_counter(self.backend.log, self.shard(parent), parent, epoch=self.dice.randint(1, 2))
        self._expect(FindingKind.ORPHAN, parent)

    def _expect(self, kind: FindingKind, parent: Parent) -> None:
        self.expected.append((kind, *parent, None))

    # -- helpers ---------------------------------------------------------------------------------------

    @property
    def redis(self) -> "redis.Redis":
        """The client that the log uses."""
        assert isinstance(self.backend.log.redis, redis.Redis)
        return self.backend.log.redis

    def shard(self, parent: Parent) -> int:
        """The shard of a parent."""
        return self.backend.counters.shard(parent.token)

    def key(self, parent: Parent) -> str:
        """The key of a parent's counter."""
        return self.backend.log.counter_key(self.shard(parent), parent)

    def set_issued(self, parent: Parent, number: int) -> None:
        """Set a counter by hand."""
        plant_counter(self.backend.log, self.shard(parent), parent, issued=number)

    def highest(self, parent: Parent) -> int:
        """The highest number under a parent."""
        return MESSAGES if parent.chat else CHATS

    def _add(self, parent: Parent, column: str, count: int) -> None:
        if parent.chat is None:
            self.execute(
                f"UPDATE application SET chats_{column} = chats_{column} + :count"
                " WHERE token = :token",
                token=parent.token,
                count=count,
            )
        else:
            self.execute(
                f"UPDATE chat c SET messages_{column} = messages_{column} + :count"
                " FROM application a WHERE a.id = application_id AND token = :token"
                " AND number = :chat",
                **parent._asdict(),
                count=count,
            )

    def execute(self, statement: str, **values: object) -> None:
        """Change SQL by hand."""
        with self.backend.database.begin() as tx:
            tx.execute(text(statement), values)
