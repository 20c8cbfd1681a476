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
from backend.storage.elasticsearch.index import MAPPING, Index, alias_of_installation, new_name
from backend.storage.postgres import search_indices
from instachat_cli.bench.harness.environment import Ground
from instachat_cli.bench.harness.paired_run import Side

DOCUMENTS = 2_500  # of one bulk
CONNECTIONS = (1, 2, 3)  # are tried
ROWS = text(
    "SELECT chat_id, number, version, folded FROM message ORDER BY chat_id, number LIMIT :limit"
)


class Elastic:
    """A ground's Elasticsearch, and what stands in it."""

    def __init__(self, ground: Ground) -> None:
        if ground.backend.index is None or ground.backend.publisher is None:
            raise Failed("this ground has no Elasticsearch")
        self.ground = ground
        self.index: Index = ground.backend.index
        self.publisher: Publisher = ground.backend.publisher

    @property
    def client(self) -> Any:
        """The very client that the program uses."""
        return self.index._client

    def renew(self) -> None:
        """Have an empty live index, and nothing stored or noted."""
        database = self.ground.backend.database
        name = new_name(database.installation.id)
        with database.begin() as tx:
            search_indices.lock_flag(tx)
            search_indices.forget_all(tx)
            search_indices.add_index(tx, name, "live", MAPPING)
            search_indices.set_publishing(tx, True)
            tx.execute(text("TRUNCATE message"))
        self.index.create(name)
        self.index.read_from(name)
        with database.begin() as tx:
            search_indices.mark_made(tx, name)
        for other in self.index.found(alias_of_installation(database.installation.id)):
            if other != name:
                self.index.drop(other)

    def prebuilt(self, limit: int) -> list[bytes]:
        """The requests that write so many of the stored messages, as the program makes them."""
        with self.ground.backend.database.connect() as connection:
            rows = connection.execute(ROWS, {"limit": limit}).all()
        return list(bodies(_lines(*row) for row in rows))

    def warm(self, requests: Sequence[bytes], seconds: float) -> None:
        """Have a node that is new compile what bulks need, or each pair's second side has the better one."""
        side = self._bulks(requests, 1, connections=max(CONNECTIONS))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            side.measure()

    def ceiling(self, requests: Sequence[bytes], amount: int) -> Side:
        """Sending these requests to a new index, by the best number of connections."""
        best = max(
            CONNECTIONS,
            key=lambda count: self._bulks(requests, amount, connections=count).measure(),
        )
        return self._bulks(requests, amount, connections=best)

    def _bulks(self, requests: Sequence[bytes], amount: int, *, connections: int) -> Side:
        name = f"instachat-bench-{uuid4().hex[:12]}"
        return Side(
            f"prebuilt bulks ({connections} at once)",
            lambda: self.send(name, requests, connections),
            amount,
            before=lambda: self.index.create(name),
            after=lambda: self.index.drop(name),
        )

    def send(self, name: str, requests: Iterable[bytes], connections: int = 2) -> None:
        """Send bulk requests, some at once."""

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


def bodies(lines: Iterable[str]) -> Iterator[bytes]:
    """Documents' lines as requests."""
    left = iter(lines)
    while some := list(islice(left, DOCUMENTS)):
        yield "".join(some).encode()


def _lines(chat: int, number: int, version: int, folded: str) -> str:
    action = {
        "_id": f"{chat}-{number}",
        "routing": str(chat),
        "version": version,
        "version_type": "external",
    }
    document = {"chat": chat, "number": number, "text": folded}
    return f"{json_of({'index': action})}\n{json_of(document)}\n"


json_of: Callable[[object], str] = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":")
).encode
