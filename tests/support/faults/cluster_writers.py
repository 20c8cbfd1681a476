"""Writers in one process that accept on a Redis Cluster as a server does, while a test harms the cluster."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from backend.api.server.cluster_commit import ClusterCommit
from backend.bootstrap import Backend
from backend.domain.errors import Unavailable, Unconfirmed
from backend.ingest.requests import AcceptRequest
from tests.support.ledger import Ledger
from tests.support.waiting import wait_until

WRITERS = 24  # each with an application of its own: enough for several shards of every node
NEW_CHAT_EACH = 10  # of so many requests one creates a chat
PAUSE_SECONDS = 0.02
"""Between two requests of a writer: what a test waits for takes the processor otherwise."""


class ClusterWriters:
    """Each sends one message after another until it is told to stop, and records the answers in a ledger."""

    def __init__(self, backend: Backend, folder: Path) -> None:
        self._backend = backend
        self.ledgers = [folder / f"ledger-{number}" for number in range(WRITERS)]
        self.tokens: list[str] = []
        self.answers = [0] * WRITERS
        self._stopping = False

    async def run(self, harm: Callable[[], Awaitable[None]]) -> None:
        """Write until `harm` has ended, and each writer has an answer after that."""
        await asyncio.to_thread(self._create_applications)
        commit = ClusterCommit(self._backend.acceptor, self._backend.log)
        async with asyncio.TaskGroup() as writing:
            for number in range(WRITERS):
                writing.create_task(self._write(commit, number))
            await harm()
            await self.wait_for_answers(1)
            self._stopping = True
        await commit.close()

    async def wait_for_answers(self, answers: int) -> None:
        """Wait until each writer has so many more answers."""
        wanted = [answered + answers for answered in self.answers]
        while any(answered < least for answered, least in zip(self.answers, wanted, strict=True)):
            await asyncio.sleep(PAUSE_SECONDS)

    def wait_for_any_answers(self, answers: int) -> None:
        """Wait, in another thread than the writers', until there are so many more answers."""
        wanted = sum(self.answers) + answers
        wait_until(lambda: sum(self.answers) >= wanted)

    def _create_applications(self) -> None:
        for number in range(WRITERS):
            token = self._backend.catalog.applications.create(f"{number}").token
            assert self._backend.acceptor.accept(AcceptRequest.chats(token)).first == 1
            self.tokens.append(token)

    async def _write(self, commit: ClusterCommit, number: int) -> None:
        token, chats = self.tokens[number], [1]
        book = Ledger(self.ledgers[number])
        sent = 0
        while not self._stopping:
            sent += 1
            await asyncio.sleep(PAUSE_SECONDS)
            if sent % NEW_CHAT_EACH == 0:
                with suppress(Unavailable):
                    chats.append((await commit.accept(AcceptRequest.chats(token))).first)
                continue
            chat, texts = chats[sent % len(chats)], [f"{number} {sent}"]
            try:
                accepted = await commit.accept(AcceptRequest.messages(token, chat, texts))
            except Unconfirmed:
                book.record_uncertain(token, chat, texts)
            except Unavailable:
                continue
            else:
                book.record_answer(token, chat, accepted.first, texts)
                self.answers[number] += 1
        assert len(set(chats)) == len(chats), "the number of a chat was given twice"
