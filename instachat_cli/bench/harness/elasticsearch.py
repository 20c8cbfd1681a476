"""What the benchmarks of Elasticsearch share: an index of their own, and the ceiling of its bulks.

The ceiling is what Elasticsearch takes when the requests are there already, and nobody looks at its answers
beyond whether all went well; by as many connections as turn out best.
"""

import json
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
from instachat_cli.bench.harness.environment import Environment
from instachat_cli.bench.harness.paired_run import Side

DOCUMENTS_PER_BULK = 2_500  # of one bulk
CONNECTION_COUNTS = (1, 2, 3)  # are tried
ROWS = text(
    "SELECT chat_id, number, version, folded FROM message ORDER BY chat_id, number LIMIT :limit"
)


class SearchEnvironment:
    """A environment's Elasticsearch, and what stands in it."""

    def __init__(self, env: Environment) -> None:
        index = env.backend.index
        if not isinstance(index, ElasticsearchIndex) or env.backend.publisher is None:
            raise Failed("this ground has no Elasticsearch")
        self.env = env
        self.index = index
        self.publisher: Publisher = env.backend.publisher

    @property
    def client(self) -> Any:
        """The very client that the program uses."""
        return self.index.client

    def reset_index(self) -> None:
        """Have an empty live index, and nothing stored or noted."""
        database = self.env.backend.database
        name = new_index_name(database.installation.id)
        with database.begin() as tx:
            locks.lock_publishing(tx)
            search_indices.unregister_all(tx)
            search_indices.register_index(tx, name, "live", MAPPING_VERSION)
            search_indices.set_publishing(tx, True)
            tx.execute(text("TRUNCATE message"))
        self.index.create(name)
        self.index.set_read_alias(name)
        with database.begin() as tx:
            search_indices.mark_made(tx, name)
        for other in self.index.list_indices(installation_alias(database.installation.id)):
            if other != name:
                self.index.drop(other)

    def prebuilt_requests(self, limit: int) -> list[bytes]:
        """The requests that write so many of the stored messages, as the program makes them."""
        with self.env.backend.database.connect() as connection:
            rows = connection.execute(ROWS, {"limit": limit}).all()
        return list(bulk_bodies(_lines(*row) for row in rows))

    def warm_up(self, requests: Sequence[bytes], seconds: float) -> None:
        """Have a node that is new compile what bulks need, or each pair's second side has the better one."""
        side = self._bulks(requests, 1, connections=max(CONNECTION_COUNTS))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            side.measure()

    def ceiling_side(self, requests: Sequence[bytes], amount: int) -> Side:
        """Sending these requests to a new index, by the best number of connections."""
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
        """Send bulk requests, batch at once."""

        def send(body: bytes) -> None:
            answer = self.client.options(request_timeout=60).perform_request(
                "POST",
                f"/{name}/_bulk",
                params={"filter_path": "errors"},
                headers={"content-type": "application/x-ndjson", "accept": "application/json"},
                body=body,
            )
            if answer.body["errors"]:
                raise Failed(f"Elasticsearch takes not all of a bulk for {name}")

        with ThreadPoolExecutor(connections) as pool:
            window: list[Any] = []
            for body in requests:
                window.append(pool.submit(send, body))
                if len(window) > connections:
                    window.pop(0).result()
            for sent in window:
                sent.result()


def bulk_bodies(lines: Iterable[str]) -> Iterator[bytes]:
    """Documents' lines as requests."""
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
