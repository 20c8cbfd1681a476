"""What the benchmarks of Elasticsearch share: an index of their own, and the ceiling of its bulks.

The ceiling is the rate at which Elasticsearch takes prebuilt requests when the client reads only whether a
bulk had errors, over the number of connections that is fastest.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any
from uuid import uuid4

from sqlalchemy import text

from backend.domain.errors import Failed
from backend.search.publish import Publisher
from backend.storage.elasticsearch.index import ElasticsearchIndex
from backend.storage.elasticsearch.mapping import (
    MAPPING_VERSION,
    installation_alias,
    new_index_name,
)
from backend.storage.postgres import locks, search_indices
from backend.worker.threads import PUBLISHERS
from instachat_cli.bench.harness.environment import Environment
from instachat_cli.bench.harness.paired_run import Side

DOCUMENTS_PER_BULK = 2_500
CONNECTION_COUNTS = (1, 2, 3)  # that are tried
ROWS = text(
    "SELECT chat_id, number, version, folded FROM message ORDER BY chat_id, number LIMIT :limit"
)


class SearchEnvironment:
    """The Elasticsearch of an environment."""

    def __init__(self, env: Environment) -> None:
        index = env.backend.index
        if not isinstance(index, ElasticsearchIndex) or env.backend.publisher is None:
            raise Failed("this environment has no Elasticsearch")
        self.env = env
        self.index = index
        self.publisher: Publisher = env.backend.publisher

    @property
    def client(self) -> Any:
        """The Elasticsearch client that the program uses."""
        return self.index.client

    @property
    def live_name(self) -> str:
        """The name of the index that is searched. Raises Failed if there is none."""
        with self.env.backend.database.connect() as connection:
            live = search_indices.live_index(connection)
        if live is None:
            raise Failed("the benchmark's database has no search index")
        return live.name

    def publish_all(self) -> None:
        """Publish everything in the outbox, by as many threads as a worker has."""
        threads = [threading.Thread(target=self.publisher.publish) for _ in range(PUBLISHERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def reset_index(self) -> None:
        """Replace all indices by an empty live one, and empty the message table and the outbox."""
        database = self.env.backend.database
        name = new_index_name(database.installation.id)
        with database.begin() as tx:
            locks.lock_publishing(tx)
            search_indices.unregister_all(tx)
            search_indices.register_index(tx, name, "live", MAPPING_VERSION)
            search_indices.set_publishing(tx, True)
            tx.execute(text("TRUNCATE message, message_block"))
        self.index.create(name)
        self.index.set_read_alias(name)
        with database.begin() as tx:
            search_indices.mark_made(tx, name)
        for other in self.index.list_indices(installation_alias(database.installation.id)):
            if other != name:
                self.index.drop(other)

    def prebuilt_requests(self, limit: int) -> list[bytes]:
        """The bulk requests that write up to `limit` stored messages, equal to the program's."""
        with self.env.backend.database.connect() as connection:
            rows = connection.execute(ROWS, {"limit": limit}).all()
        return list(bulk_bodies(_lines(*row) for row in rows))

    def warm_up(self, requests: Sequence[bytes], seconds: float) -> None:
        """Send bulks until the node has compiled their code; otherwise later measurements would be faster."""
        side = self._bulks(requests, 1, connections=max(CONNECTION_COUNTS))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            side.measure()

    def ceiling_side(self, requests: Sequence[bytes], amount: int) -> Side:
        """The side that sends these requests to a new index, over the fastest number of connections."""
        best = max(
            CONNECTION_COUNTS,
            key=lambda count: self._bulks(requests, amount, connections=count).measure(),
        )
        return self._bulks(requests, amount, connections=best)

    def _bulks(self, requests: Sequence[bytes], amount: int, *, connections: int) -> Side:
        name = f"instachat-bench-{uuid4().hex[:12]}"
        return Side(
            f"prebuilt bulks ({connections} at once)",
            lambda: self.send_bulks(name, requests, connections),
            amount,
            before=lambda: self.index.create(name),
            after=lambda: self.index.drop(name),
        )

    def send_bulks(self, name: str, requests: Iterable[bytes], connections: int = 2) -> None:
        """Send bulk requests, `connections` at once. Raises Failed if one has errors."""

        def send(body: bytes) -> None:
            answer = self.client.options(request_timeout=60).perform_request(
                "POST",
                f"/{name}/_bulk",
                params={"filter_path": "errors"},
                headers={"content-type": "application/x-ndjson", "accept": "application/json"},
                body=body,
            )
            if answer.body["errors"]:
                raise Failed(f"Elasticsearch rejected documents of a bulk for {name}")

        with ThreadPoolExecutor(connections) as pool:
            window: list[Any] = []
            for body in requests:
                window.append(pool.submit(send, body))
                if len(window) > connections:
                    window.pop(0).result()
            for sent in window:
                sent.result()


def wildcard_pattern(keyword: str) -> str:
    """The pattern of a wildcard query that finds a keyword anywhere in a term."""
    escaped = "".join(f"\\{char}" if char in "*?\\" else char for char in keyword)
    return f"*{escaped}*"


def bulk_bodies(lines: Iterable[str]) -> Iterator[bytes]:
    """Bodies of bulk requests from the lines of documents."""
    left = iter(lines)
    while batch := list(islice(left, DOCUMENTS_PER_BULK)):
        yield "".join(batch).encode()


def _lines(chat: int, number: int, version: int, folded: str) -> str:
    action = {
        "_id": f"{chat}-{number}",
        "routing": str(chat),
        "version": version,
        "version_type": "external",
    }
    document = {"chat": chat, "number": number, "text": folded}
    return f"{to_json({'index': action})}\n{to_json(document)}\n"


to_json: Callable[[object], str] = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":")
).encode
