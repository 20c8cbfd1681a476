"""Requests to Elasticsearch: indices, documents, searches and comparisons.

An index has one document for each message: its chat, its number, and the grams of its folded text, of one,
two and three code points. A search asks for the documents of one chat that have all grams of the keyword;
PostgreSQL decides which of these candidates contain it. So the index may lag behind and may return too many
candidates, but it never decides what a user sees.

A document's version is the version of its row: an older one never replaces a newer one. A removed message
keeps a document without text (a tombstone), because Elasticsearch forgets the versions of deleted documents
and would then accept an older one.

Only documents that Elasticsearch refuses temporarily are retried here, one by one.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from backend.domain.errors import Unavailable
from backend.domain.model import MessageKey
from backend.settings import redact
from backend.storage.elasticsearch import mapping
from backend.storage.elasticsearch.bulk import bulk_body, bulk_requests
from backend.storage.elasticsearch.client import ElasticsearchClient
from backend.storage.elasticsearch.mapping import read_alias, write_alias
from backend.storage.search_index import (
    Document,
    DocumentState,
    DocumentVersion,
    IndexClosed,
    IndexCopies,
    IndexMissing,
    PlainState,
    ReadStates,
    RejectedDocument,
    SearchIndex,
    WritesElsewhere,
)

# Of a request that may take long, such as a bulk: for the connection, and for the reply. Together less than
# a publisher's lease.
CONNECT_TIMEOUT_SECONDS = 2.0
LONG_TIMEOUT_SECONDS = 15.0
SEARCH_TIMEOUT_SECONDS = 2.0  # for candidates; PostgreSQL then has time for the same request
RETRY_DELAYS_SECONDS = (0.1, 0.3, 0.9)  # before temporarily refused documents are sent again
MAX_QUERY_IDS = 1_000  # per query
MAX_HITS = 10_000  # Elasticsearch's default limit of a search
POINT_IN_TIME_KEEP_ALIVE = "2m"  # between two pages
_MAX_TIE_BREAKER = (1 << 63) - 1  # above every document's; a point in time sorts by it, too
_STATE_FILTER_PATH = "hits.hits.sort,hits.hits._version,hits.hits.matched_queries"
_MATCH_ALL: Mapping[str, Any] = {"match_all": {}}
_HAS_TEXT: Mapping[str, Any] = {"exists": {"field": "text", "_name": "alive"}}
_BULK_HEADERS = {"content-type": "application/x-ndjson", "accept": "application/json"}

S = TypeVar("S", bound=tuple[Any, ...])  # starts with the chat id and the number


class ElasticsearchIndex(ElasticsearchClient, SearchIndex):
    """The search indices in an Elasticsearch; see `SearchIndex` for each method. Thread-safe."""

    mapping_version = mapping.MAPPING_VERSION
    max_gram_length = mapping.MAX_GRAM_LENGTH
    _search_client: Any = None

    def __init__(
        self, url: str, *, shards: int = 1, replicas: int | None = None, **login: Any
    ) -> None:
        """`shards` and `replicas` are those of indices that it creates; see `mapping.index_settings`.

        The rest is ElasticsearchClient's.
        """
        super().__init__(url, **login)
        self._settings = mapping.index_settings(shards, replicas)

    def new_name(self, installation: str) -> str:
        """See SearchIndex."""
        return mapping.new_index_name(installation)

    def installation_alias(self, installation: str) -> str:
        """See SearchIndex."""
        return mapping.installation_alias(installation)

    # -- indices -----------------------------------------------------------------------------------

    def create(self, name: str) -> None:
        """See SearchIndex; the write alias comes with the index."""
        with self.translate_errors() as client:
            from elasticsearch import BadRequestError

            try:
                client.options(request_timeout=_long_timeout()).indices.create(
                    index=name,
                    settings=self._settings,
                    mappings=mapping.INDEX_MAPPING,
                    aliases={write_alias(name): {}},
                )
            except BadRequestError as error:
                if error.error != "resource_already_exists_exception":
                    raise

    def drop(self, name: str) -> None:
        """See SearchIndex."""
        with self.translate_errors() as client:
            client.options(request_timeout=_long_timeout()).indices.delete(
                index=name, ignore_unavailable=True
            )

    def set_read_alias(self, name: str) -> None:
        """See SearchIndex."""
        alias = read_alias(name)
        with self.translate_errors(name) as client:
            client.indices.update_aliases(
                actions=[
                    {"remove": {"index": "*", "alias": alias, "must_exist": False}},
                    {"add": {"index": name, "alias": alias}},
                ]
            )

    def check_usable(self, name: str) -> None:
        """See SearchIndex."""
        found = self._resolve(f"{name}*")
        if name not in found.is_open:
            raise IndexMissing(name)
        if not found.is_open[name]:
            raise IndexClosed(name)
        reached = found.reached.get(write_alias(name), [])
        if not reached:
            raise IndexMissing(name)
        if reached != [name]:
            raise WritesElsewhere(name, ", ".join(reached))

    def aliased_indices(self, alias: str) -> Sequence[str]:
        """See SearchIndex."""
        return self._resolve(f"{alias}*").reached.get(alias, [])

    def list_indices(self, alias: str) -> dict[str, bool]:
        """See SearchIndex."""
        found = self._resolve(f"{alias}-*")
        return {
            name: is_open and found.reached.get(write_alias(name)) == [name]
            for name, is_open in found.is_open.items()
        }

    def _resolve(self, pattern: str) -> "_Resolved":
        with self.translate_errors() as client:
            answer = client.indices.resolve_index(name=pattern, expand_wildcards="all")
        return _Resolved(
            {one["name"]: "open" in one["attributes"] for one in answer["indices"]},
            {one["name"]: sorted(one["indices"]) for one in answer["aliases"]},
        )

    def configuration_differences(self, name: str) -> list[str]:
        """See SearchIndex."""
        with self.translate_errors(name) as client:
            mappings = client.indices.get_mapping(index=name)[name]["mappings"]
            settings = client.indices.get_settings(index=name)[name]["settings"]["index"]
        return list(mapping.configuration_differences(mappings, settings))

    def wanted_copies(self) -> tuple[int, int | None]:
        """See SearchIndex."""
        return self._settings["number_of_shards"], self._settings.get("number_of_replicas")

    def copies(self, name: str) -> IndexCopies | None:
        """See SearchIndex."""
        with self.translate_errors(name) as client:
            from elasticsearch import AuthorizationException

            settings = client.indices.get_settings(index=name)[name]["settings"]["index"]
            try:
                health = client.cluster.health(index=name)
            except AuthorizationException:
                return None
        shards, replicas = int(settings["number_of_shards"]), int(settings["number_of_replicas"])
        return IndexCopies(
            shards,
            replicas,
            missing=shards * (1 + replicas) - health["active_shards"],
            searchable=health["active_primary_shards"] == shards,
        )

    # -- documents ---------------------------------------------------------------------------------

    def write(self, name: str, documents: Iterable[Document]) -> list[RejectedDocument]:
        """See SearchIndex."""
        rejected: list[RejectedDocument] = []
        for batch, body in bulk_requests(documents):
            rejected += self._write(name, batch, body)
        return rejected

    def _write(self, name: str, batch: Sequence[Document], body: bytes) -> list[RejectedDocument]:
        rejected: list[RejectedDocument] = []
        for delay in (*RETRY_DELAYS_SECONDS, None):
            outcomes = self._bulk(name, batch, body)
            if outcomes is None:
                return rejected + self._write_halves(name, batch)
            if not outcomes:
                return rejected
            to_retry: list[Document] = []
            refusal = ""
            for document, (status, error) in zip(batch, outcomes, strict=True):
                if status < 300 or status == 409:  # 409: the index has this version or a newer one
                    continue
                if status == 404:
                    raise IndexMissing(name)
                if error == "index_closed_exception":
                    raise IndexClosed(name)
                if status in (401, 403, 429) or status >= 500:
                    to_retry.append(document)
                    refusal = error
                else:
                    rejected.append(
                        RejectedDocument(document, f"Elasticsearch says {error or status}")
                    )
            if rejected:  # not for what is wrong with the index
                self.check_usable(name)
            if not to_retry:
                return rejected
            if delay is None or refusal == "cluster_block_exception":  # a block lasts
                break
            batch, body = to_retry, bulk_body(to_retry)
            time.sleep(delay)
        raise Unavailable(
            f"Elasticsearch at {redact(self.url)} accepts no writes to the search index at the moment"
            f" ({refusal})",
            "see its log: is its disk full, or is it busy? Stored messages are published afterwards",
        )

    def _write_halves(self, name: str, batch: Sequence[Document]) -> list[RejectedDocument]:
        """Send documents that are too long for one request in two."""
        if len(batch) == 1:
            return [
                RejectedDocument(
                    batch[0], "the message is too long for one request to Elasticsearch"
                )
            ]
        middle = len(batch) // 2
        halves = batch[:middle], batch[middle:]
        return [one for half in halves for one in self._write(name, half, bulk_body(half))]

    def _bulk(
        self, name: str, batch: Sequence[Document], body: bytes
    ) -> Sequence[tuple[int, str]] | None:
        """Send a bulk; return each document's status and kind of error. None if the request was too long.

        Empty if all were stored: the first reply carries the `errors` flag, and where the documents went.
        If the flag is set, the same bulk is sent again to read the details, which does not change documents
        stored by the first.
        """
        answer: Any = {}
        with self.translate_errors(name) as client:
            from elasticsearch import ApiError

            bulk_client = client.options(request_timeout=_long_timeout())
            for filter_path in (
                "errors,items.index._index",
                "errors,items.index._index,items.index.status,items.index.error.type",
            ):
                try:
                    answer = bulk_client.perform_request(
                        "POST",
                        f"/{write_alias(name)}/_bulk",
                        params={"require_alias": "true", "filter_path": filter_path},
                        headers=_BULK_HEADERS,
                        body=body,
                    ).body
                except ApiError as error:
                    if error.meta.status == 413:
                        return None
                    if error.meta.status == 429:  # no document was processed
                        return [(429, str(error.error))] * len(batch)
                    raise
                if not answer["errors"]:
                    _check_reached(name, answer)
                    return []
        items = (item["index"] for item in answer["items"])
        return [(item["status"], item.get("error", {}).get("type", "")) for item in items]

    # -- searching ---------------------------------------------------------------------------------

    def candidates(self, name: str, chat_id: int, keyword: str, after: int, size: int) -> list[int]:
        """See SearchIndex."""
        keys = self._candidate_keys(
            name,
            _chat_filter(chat_id),
            keyword,
            size,
            routing=str(chat_id),
            search_after=[chat_id, after],
        )
        return [number for _, number in keys]

    def candidates_in_chats(
        self, name: str, chat_ids: Sequence[int], keyword: str, size: int
    ) -> list[MessageKey]:
        """See SearchIndex."""
        return self._candidate_keys(name, _chats_filter(chat_ids), keyword, size)

    def _candidate_keys(
        self, name: str, chats: Mapping[str, Any], keyword: str, size: int, **where: Any
    ) -> list[MessageKey]:
        grams = [{"term": {"text": gram}} for gram in mapping.query_grams(keyword)]
        with self.translate_errors(name) as client:
            if self._search_client is None:  # making one takes a tenth of a search
                self._search_client = client.options(request_timeout=SEARCH_TIMEOUT_SECONDS)
            answer = self._search_client.search(
                index=name,
                query={"bool": {"filter": [chats, *grams]}},
                sort=["chat", "number"],
                size=size,
                track_total_hits=False,
                source=False,
                stored_fields="_none_",
                allow_partial_search_results=False,
                filter_path="hits.hits.sort",
                **where,
            )
        hits = answer.body.get("hits", {}).get("hits", ())
        return [(hit["sort"][0], hit["sort"][1]) for hit in hits]

    def count_documents(self, name: str, chat_id: int, first: int, last: int) -> int:
        """See SearchIndex."""
        numbers: dict[str, Any] = {"range": {"number": {"gte": first, "lte": last}}}
        # A range query reads all of the chat's documents; an ids query looks up single ones.
        if last - first < MAX_QUERY_IDS:
            ids = [f"{chat_id}-{number}" for number in range(first, last + 1)]
            numbers = {"ids": {"values": ids}}
        with self.translate_errors(name) as client:
            answer = client.count(
                index=name,
                routing=str(chat_id),
                query={"bool": {"filter": [_chat_filter(chat_id), numbers]}},
            )
        return int(answer["count"])

    # -- comparing ---------------------------------------------------------------------------------

    @contextmanager
    def point_in_time(
        self, name: str, chat_ids: Sequence[int] | None = None
    ) -> Iterator[ReadStates]:
        """See SearchIndex."""
        query = _with_alive_flag(_MATCH_ALL if chat_ids is None else _chats_filter(chat_ids))
        self.refresh(name)
        with self.translate_errors(name) as client:
            keep_alive = POINT_IN_TIME_KEEP_ALIVE
            pit_id = client.open_point_in_time(index=name, keep_alive=keep_alive)["id"]

        def read(
            after: MessageKey, last: MessageKey | None, size: int
        ) -> tuple[list[PlainState], bool]:
            hits = self._search_states(
                _starting_at(query, after),
                pit={"id": pit_id, "keep_alive": keep_alive},
                after=(*after, _MAX_TIE_BREAKER),
                size=size,
            )
            return _through(list(map(_to_plain_state, hits)), last, size)

        try:
            yield read
        finally:
            with self.translate_errors(name) as client:
                # 404: it was closed by an attempt whose answer was lost, or is lost with its node.
                client.options(ignore_status=404).close_point_in_time(id=pit_id)

    def read_versions(
        self, name: str, after: MessageKey, last: MessageKey | None, size: int
    ) -> tuple[list[DocumentVersion], bool]:
        """See SearchIndex; `size` is at most MAX_HITS."""
        hits = self._search_states(
            _starting_at(_MATCH_ALL, after), index=name, after=after, size=size
        )
        return _through(list(map(_to_version, hits)), last, size)

    def read_states(self, name: str, keys: Sequence[MessageKey]) -> dict[MessageKey, DocumentState]:
        """See SearchIndex."""
        self.refresh(name)
        if not keys:
            return {}
        query = _with_alive_flag({"ids": {"values": [f"{chat}-{number}" for chat, number in keys]}})
        return {
            state[:2]: state for state in map(_to_state, self._search_states(query, index=name))
        }

    def refresh(self, name: str) -> None:
        """See SearchIndex. The refresh API covers the primary and every replica that searches use."""
        with self.translate_errors(name) as client:
            answer = client.options(request_timeout=_long_timeout()).indices.refresh(index=name)
        if answer["_shards"]["failed"]:
            raise Unavailable(
                f"Elasticsearch at {redact(self.url)} could not refresh the search index",
                "see its log; until then, searches read the newest messages from PostgreSQL",
            )

    def _search_states(
        self,
        query: Mapping[str, Any],
        *,
        index: str | None = None,
        pit: Mapping[str, Any] | None = None,
        after: Sequence[int] | None = None,
        size: int = MAX_HITS,
    ) -> list[Any]:
        """Up to `size` hits, ordered by (chat, number), as Elasticsearch returns them."""
        with self.translate_errors(index) as client:
            answer = client.options(request_timeout=_long_timeout()).search(
                index=index,
                pit=pit,
                query=query,
                sort=["chat", "number"],
                search_after=after,
                size=size,
                version=True,
                track_total_hits=False,
                source=False,
                stored_fields="_none_",
                allow_partial_search_results=False,
                filter_path=_STATE_FILTER_PATH,
            )
        hits: list[Any] = answer.body.get("hits", {}).get("hits", [])
        return hits


class _Resolved(NamedTuple):
    """Indices, and whether they are open; aliases, and the indices that each names, in order."""

    is_open: Mapping[str, bool]
    reached: Mapping[str, Sequence[str]]


def _check_reached(name: str, answer: Any) -> None:
    """Raise WritesElsewhere if a document of a bulk was written to another index than this one."""
    if elsewhere := {item["index"]["_index"] for item in answer.get("items", ())} - {name}:
        raise WritesElsewhere(name, ", ".join(sorted(elsewhere)))


def _long_timeout() -> Any:
    """The timeout of a request that may take long; the library hands it on to urllib3."""
    from urllib3 import Timeout

    return Timeout(connect=CONNECT_TIMEOUT_SECONDS, read=LONG_TIMEOUT_SECONDS)


def _through(found: list[S], last: MessageKey | None, size: int) -> tuple[list[S], bool]:
    """Cut hits behind the key `last` off; tell whether there may be more before it."""
    more = len(found) == size and (last is None or found[-1][:2] < last)
    while last and found and found[-1][:2] > last:
        found.pop()
    return found, more


def _starting_at(query: Mapping[str, Any], after: MessageKey) -> Mapping[str, Any]:
    """Restrict a query to chats from the key's on, so that later pages do not read the earlier documents."""
    return {"bool": {"must": [query], "filter": [{"range": {"chat": {"gte": after[0]}}}]}}


def _with_alive_flag(query: Mapping[str, Any]) -> dict[str, Any]:
    return {"bool": {"filter": [query], "should": [_HAS_TEXT]}}


def _to_version(hit: Any) -> DocumentVersion:
    key = hit["sort"]  # followed by a tie-breaker
    return key[0], key[1], hit["_version"]


def _to_plain_state(hit: Any) -> PlainState:
    key = hit["sort"]
    return key[0], key[1], hit["_version"], "matched_queries" in hit


def _to_state(hit: Any) -> DocumentState:
    return DocumentState(*_to_plain_state(hit))


def _chat_filter(chat_id: int) -> dict[str, Any]:
    """Filter by routing, which is the chat id of every document; so `chat` needs no index."""
    return {"term": {"_routing": str(chat_id)}}


def _chats_filter(chat_ids: Sequence[int]) -> dict[str, Any]:
    return {"terms": {"_routing": [str(id_) for id_ in chat_ids]}}
