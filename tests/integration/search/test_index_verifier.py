"""IndexVerifier: it names every difference between rows and documents, and nothing else."""

import random

import pytest
from sqlalchemy import text

from backend.bootstrap import Backend
from backend.search import index_verifier, index_walk
from backend.search.index_verifier import IndexVerifier
from backend.storage.search_index import Document
from tests.support.elasticsearch.requests import (
    live_index_name,
    publish_all,
    publisher,
    query_rows,
    store_messages,
)

CHATS = (3, 900_000_001)  # ids of chats that exist only as rows of messages and documents
MAX_NUMBER = 14  # the highest number


@pytest.mark.parametrize("page", [1, 3, 5, 1_000])
def test_the_verifier_returns_exactly_the_different_messages(
    core: Backend, token: str, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents are missing, older, newer or surplus, at the edges of pages and in long runs."""
    store_messages(core, token, "of a real chat")
    publish_all(core)
    assert core.index
    name, rng = live_index_name(core), random.Random(page)
    monkeypatch.setattr(index_walk, "PAGE_ROWS", page)
    monkeypatch.setattr(index_verifier, "CONFIRM_BATCH_SIZE", 4)
    ((chat, version),) = query_rows(core, "SELECT chat_id, version FROM message")
    keys = [(chat, number) for chat in CHATS for number in range(1, MAX_NUMBER + 1)]
    for _ in range(6):
        rows = {key: rng.randrange(10, 20) for key in keys if rng.random() < 0.7}
        documents = {key: of for key, of in rows.items() if rng.random() < 0.8}
        documents |= {key: rng.randrange(5, 25) for key in rng.sample(keys, 5)}
        documents[chat, 1] = version
        _store(core, rows)
        _index(core, name, documents)
        rows[chat, 1] = version
        compared: list[int] = []
        finding = IndexVerifier(core.database, core.index, publisher(core)).differences(
            name, compared.append
        )
        assert list(finding) == sorted({key for key, _ in rows.items() ^ documents.items()})
        assert compared[-1] == len(rows)


def _store(core: Backend, versions: dict[tuple[int, int], int]) -> None:
    """Make these the only rows of their chats, with these versions."""
    with core.database.begin() as tx:
        tx.execute(text("DELETE FROM message WHERE chat_id = ANY(:chats)"), {"chats": list(CHATS)})
        for (chat, number), version in versions.items():
            tx.execute(
                text(
                    "INSERT INTO message (chat_id, number, version, created_at, updated_at, text, folded)"
                    " VALUES (:chat, :number, :version, now(), now(), 'x', 'x')"
                ),
                {"chat": chat, "number": number, "version": version},
            )


def _index(core: Backend, name: str, versions: dict[tuple[int, int], int]) -> None:
    """Make these the only documents of their chats, with these versions."""
    assert core.index
    core.index.drop(name)
    core.index.create(name)
    core.index.set_read_alias(name)
    assert core.index.write(name, [Document(*key, of, "x") for key, of in versions.items()]) == []
