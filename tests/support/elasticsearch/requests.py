"""Helpers of tests with Elasticsearch: send, search, and inspect the stores directly."""

import json
from collections.abc import Iterable
from typing import Any
from urllib.request import Request, urlopen

from sqlalchemy import text

from backend.bootstrap import Backend
from backend.ingest.requests import AcceptRequest
from backend.search.publish import Publisher
from backend.storage.postgres import outbox, search_indices
from tests.support.waiting import PATIENCE_SECONDS


def store_messages(core: Backend, token: str, *texts: str) -> None:
    """Store messages in chat 1."""
    for start in range(0, len(texts), 1000):
        core.acceptor.accept(AcceptRequest.messages(token, 1, texts[start : start + 1000]))
    core.drainer.drain_all()


def fill_only_chat(core: Backend, last: int) -> None:
    """Store messages "x" up to the number `last` in the installation's only chat, without publishing them."""
    with core.database.begin() as tx:
        tx.execute(
            text(
                """
                INSERT INTO message (chat_id, number, version, created_at, updated_at, text, folded)
                SELECT id, n, 1, now(), now(), 'x', 'x' FROM chat, generate_series(1, :last) n
                ON CONFLICT DO NOTHING"""
            ),
            {"last": last},
        )


def search_numbers(core: Backend, token: str, keyword: str) -> list[int]:
    """The numbers of the messages in chat 1 that a search finds."""
    return [hit.message.number for hit in core.catalog.messages.search(token, 1, keyword)]


def publisher(core: Backend) -> Publisher:
    """The publisher of a backend."""
    assert core.publisher is not None
    return core.publisher


def publish_all(core: Backend) -> int:
    """Publish the outbox and refresh the index; returns how many messages were published."""
    count = publisher(core).publish()
    request_elasticsearch(core, "POST", f"/{live_index_name(core)}/_refresh")
    return count


def live_index_name(core: Backend) -> str:
    """The name of the index that is searched."""
    with core.database.connect() as connection:
        index = search_indices.live_index(connection)
    assert index is not None
    return index.name


def reject_numbers_above_127(core: Backend) -> str:
    """Create the live index with a mapping that rejects greater numbers; returns its name."""
    name = live_index_name(core)
    narrow = {"type": "byte", "index": False}
    request_elasticsearch(
        core,
        "PUT",
        f"/{name}",
        {
            "mappings": {"properties": {"number": narrow, "chat": {"type": "long"}}},
            "aliases": {f"{name}-write": {}, name.rpartition("-")[0]: {}},
        },
    )
    return name


def unpublished_messages(core: Backend) -> int:
    """How many messages the outbox holds."""
    with core.database.connect() as connection:
        return outbox.lag(connection).messages


def query_rows(core: Backend, statement: str) -> list[tuple[Any, ...]]:
    """The rows of a statement in PostgreSQL."""
    with core.database.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def request_elasticsearch(core: Backend, method: str, path: str, body: object = None) -> Any:
    """Send a request to Elasticsearch directly."""
    assert core.index is not None
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    with urlopen(
        Request(core.index.url + path, data, headers, method=method), timeout=PATIENCE_SECONDS
    ) as answer:
        return json.loads(answer.read() or "null")


def set_blocks(core: Backend, blocks: Iterable[str], value: bool | None) -> None:
    """Set blocks of the index that is searched; None removes them."""
    request_elasticsearch(
        core,
        "PUT",
        f"/{live_index_name(core)}/_settings",
        {f"index.blocks.{b}": value for b in blocks},
    )
