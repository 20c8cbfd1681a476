"""The index: everything that speaks Elasticsearch.

An index holds a document a message: its chat, its number, and the grams of its folded text, of one, two
and three code points. A search asks for the documents of one chat that have all grams of the keyword;
PostgreSQL decides which of these candidates contain it. So the index may be behind, and may name too
many, but never decides what is shown.

    instachat-1f2e3d4c                              the alias that searches read
    instachat-1f2e3d4c-20261124.181500.123456       an index
    instachat-1f2e3d4c-20261124.181500.123456-write the alias by which it, and nothing else, is written to

Writing by an alias of its own keeps Elasticsearch from making an index of whatever shape by itself, where
ours was deleted. A document's version is its row's: an older one never replaces a newer one. A deletion is
a document without a text, as Elasticsearch forgets what was deleted, and would let an older one through.

Nothing is retried here but what Elasticsearch refused for now, item by item.
"""

import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from backend.domain.errors import Unavailable
from backend.settings import redact
from backend.storage.elasticsearch.client import ElasticsearchClient, IndexMissing

MAPPING_VERSION = 1
"""Incremented with each change of INDEX_SETTINGS or INDEX_MAPPING; older indices have to be rebuilt."""

MAX_GRAM_LENGTH = 3  # the longest
MAX_QUERY_GRAMS = 32  # of one query; what they let through is verified
# Why these grams, no positions, no norms, no source, and sorted: docs/architecture.md has the figures.
INDEX_SETTINGS: Mapping[str, Any] = {
    "number_of_shards": 1,
    "auto_expand_replicas": "0-1",
    "refresh_interval": "1s",  # named, or an index that nobody searches for a while stops refreshing
    "max_ngram_diff": MAX_GRAM_LENGTH - 1,
    "sort": {"field": ["chat", "number"], "order": ["asc", "asc"]},
    "analysis": {
        "tokenizer": {"grams": {"type": "ngram", "min_gram": 1, "max_gram": MAX_GRAM_LENGTH}},
        "analyzer": {"grams": {"type": "custom", "tokenizer": "grams"}},
    },
}
INDEX_MAPPING: Mapping[str, Any] = {
    "dynamic": "strict",
    "_meta": {"instachat_mapping": MAPPING_VERSION},
    "_source": {"enabled": False},
    "_routing": {"required": True},
    "properties": {
        "chat": {"type": "long", "index": False},
        "number": {"type": "long", "index": False},
        "text": {"type": "text", "analyzer": "grams", "index_options": "docs", "norms": False},
    },
}

_COMPARED_SETTINGS = ("analysis", "sort")  # of the settings: what has a say in what is found

CONNECT_TIMEOUT_SECONDS = 2.0
BULK_TIMEOUT_SECONDS = 15.0  # a bulk's answer; less than a publisher's lease
MAX_BULK_DOCUMENTS = 2_500  # of one bulk
MAX_BULK_BYTES = 4 << 20  # of one bulk, unless a document alone has more
RETRY_DELAYS_SECONDS = (0.1, 0.3, 0.9)  # before what was refused for now is sent again
MAX_QUERY_IDS = 1_000  # of one query
MAX_HITS = 10_000  # as many as an index gives by default
POINT_IN_TIME_KEEP_ALIVE = "2m"  # that a point in time is kept between two pages
_STATE_FILTER_PATH = "hits.hits.sort,hits.hits._version,hits.hits.matched_queries"
_MATCH_ALL: Mapping[str, Any] = {"match_all": {}}
_HAS_TEXT: Mapping[str, Any] = {"exists": {"field": "text", "_name": "alive"}}
# Filled in, as to make a mapping of each document and JSON of that takes twice as long.
_BULK_LINES = (
    b'{"index":{"_id":"%d-%d","routing":"%d","version":%d,"version_type":"external"}}\n'
    b'{"chat":%d,"number":%d%b}\n'
)
_encode_json = msgspec.json.Encoder().encode
_BULK_HEADERS = {"content-type": "application/x-ndjson", "accept": "application/json"}


class Document(NamedTuple):
    """What the index holds of a message; `text` is folded, and None once the message is removed."""

    chat_id: int
    number: int
    version: int
    text: str | None


class DocumentState(NamedTuple):
    """What can be told of a document without its text; `alive` unless it says that the message is removed."""

    chat_id: int
    number: int
    version: int
    alive: bool


DocumentKey = tuple[int, int]
"""Of a document: its chat id and its number."""

DocumentVersion = tuple[int, int, int]
"""Of a document: its key, and the version that it is of."""


class RejectedDocument(NamedTuple):
    """A document that the index can't hold, and why, without a word of its text."""

    document: Document
    reason: str


def new_index_name(installation: str) -> str:
    """The name of another index of an installation."""
    return f"{installation_alias(installation)}-{datetime.now(UTC):%Y%m%d.%H%M%S.%f}"


def installation_alias(installation: str) -> str:
    """The alias that an installation's searches read."""
    return f"instachat-{installation[:8]}"


def read_alias(name: str) -> str:
    """The alias that searches read, of an index."""
    return name.rpartition("-")[0]


def write_alias(name: str) -> str:
    """The alias that leads to this index alone."""
    return f"{name}-write"


class SearchIndex(ElasticsearchClient):
    """The indices in an Elasticsearch. Thread-safe; every use raises as `ElasticsearchClient` says."""

    # -- indices -----------------------------------------------------------------------------------

    def create(self, name: str) -> None:
        """Have an index and its write alias; one that is there already stays as it is."""
        with self._translate_errors() as client:
            from elasticsearch import BadRequestError

            try:
                client.options(request_timeout=BULK_TIMEOUT_SECONDS).indices.create(
                    index=name,
                    settings=INDEX_SETTINGS,
                    mappings=INDEX_MAPPING,
                    aliases={write_alias(name): {}},
                )
            except BadRequestError as error:
                if error.error != "resource_already_exists_exception":
                    raise

    def drop(self, name: str) -> None:
        """Delete an index, if it is there, with its aliases."""
        with self._translate_errors() as client:
            client.options(request_timeout=BULK_TIMEOUT_SECONDS).indices.delete(
                index=name, ignore_unavailable=True
            )

    def set_read_alias(self, name: str) -> None:
        """Have searches read this index and no other, from one moment to the next. Idempotent."""
        alias = read_alias(name)
        with self._translate_errors(name) as client:
            client.indices.update_aliases(
                actions=[
                    {"remove": {"index": f"{alias}-*", "alias": alias, "must_exist": False}},
                    {"add": {"index": name, "alias": alias}},
                ]
            )

    def exists(self, name: str) -> bool:
        """Whether an index is there, by the alias that it is written by and, as searches do, read by."""
        with self._translate_errors() as client:
            return bool(
                client.indices.exists_alias(name=write_alias(name), index=name)
                and client.indices.exists_alias(name=read_alias(name), index=name)
            )

    def list_indices(self, alias: str) -> dict[str, bool]:
        """The indices of an installation that are there, kept or not: whether each can be written to."""
        with self._translate_errors() as client:
            answer = client.indices.get_alias(index=f"{alias}-*", allow_no_indices=True)
        return {name: write_alias(name) in of["aliases"] for name, of in answer.body.items()}

    def configuration_differences(self, name: str) -> list[str]:
        """Where an index is not as `create` makes it, such as `mappings.properties.text`; empty if nowhere.

        What has no say in what is found (replicas, how often it refreshes) is anybody's. Raises IndexMissing.
        """
        with self._translate_errors(name) as client:
            mappings = client.indices.get_mapping(index=name)[name]["mappings"]
            settings = client.indices.get_settings(index=name)[name]["settings"]["index"]
        wanted = {
            "mappings": INDEX_MAPPING,
            "settings": {part: INDEX_SETTINGS[part] for part in _COMPARED_SETTINGS},
        }
        return list(_differing_paths(wanted, {"mappings": mappings, "settings": settings}))

    # -- documents ---------------------------------------------------------------------------------

    def write(self, name: str, documents: Iterable[Document]) -> list[RejectedDocument]:
        """Have an index hold these documents, or newer ones; returns those that it can't hold.

        Any order and any repetition lead to the same. Raises IndexMissing, or Unavailable if it takes
        no more for now; some of the documents may be there then.
        """
        rejected: list[RejectedDocument] = []
        for batch, body in _bulk_requests(documents):
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
                if status < 300 or status == 409:  # the latter: it has this version, or a newer one
                    continue
                if status == 404:
                    raise IndexMissing(name)
                if status in (401, 403, 429) or status >= 500:
                    to_retry.append(document)
                    refusal = error
                else:
                    rejected.append(
                        RejectedDocument(document, f"Elasticsearch says {error or status}")
                    )
            if not to_retry:
                return rejected
            if delay is None or refusal == "cluster_block_exception":  # no block ends that soon
                break
            batch, body = to_retry, _bulk_body(to_retry)
            time.sleep(delay)
        raise Unavailable(
            f"Elasticsearch at {redact(self.url)} takes nothing into the search index for now"
            f" ({refusal})",
            "see its log: is its disk full, or is it busy? What is stored is published once it can be",
        )

    def _write_halves(self, name: str, batch: Sequence[Document]) -> list[RejectedDocument]:
        """What was too long for one request, in two."""
        if len(batch) == 1:
            return [RejectedDocument(batch[0], "Elasticsearch takes no request of that length")]
        middle = len(batch) // 2
        halves = batch[:middle], batch[middle:]
        return [one for half in halves for one in self._write(name, half, _bulk_body(half))]

    def _bulk(
        self, name: str, batch: Sequence[Document], body: bytes
    ) -> Sequence[tuple[int, str]] | None:
        """What became of each document: a status, and the kind of error. None if it was too long.

        Nothing if all went well, which is known without a word on each of them. Only if it did not is the
        same sent again, for the words: what is there already stays as it is.
        """
        from urllib3 import Timeout

        timeout: Any = Timeout(
            connect=CONNECT_TIMEOUT_SECONDS, read=BULK_TIMEOUT_SECONDS
        )  # handed on to urllib3
        answer: Any = {}
        with self._translate_errors(name) as client:
            from elasticsearch import ApiError

            bulk_client = client.options(request_timeout=timeout)
            for filter_path in ("errors", "errors,items.index.status,items.index.error.type"):
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
                    if error.meta.status == 429:  # no document was looked at
                        return [(429, str(error.error))] * len(batch)
                    raise
                if not answer["errors"]:
                    return []
        items = (item["index"] for item in answer["items"])
        return [(item["status"], item.get("error", {}).get("type", "")) for item in items]

    # -- searching ---------------------------------------------------------------------------------

    def candidates(self, name: str, chat_id: int, keyword: str, after: int, size: int) -> list[int]:
        """Up to `size` numbers, in order, of a chat's documents behind `after` that may contain a keyword.

        The keyword is folded. Every document that contains it is among them. Raises IndexMissing.
        """
        grams = [{"term": {"text": gram}} for gram in _query_grams(keyword)]
        with self._translate_errors(name) as client:
            answer = client.search(
                index=read_alias(name),
                routing=str(chat_id),
                query={"bool": {"filter": [_chat_filter(chat_id), *grams]}},
                sort=["chat", "number"],
                search_after=[chat_id, after],
                size=size,
                track_total_hits=False,
                source=False,
                stored_fields="_none_",
                allow_partial_search_results=False,
                filter_path="hits.hits.sort",
            )
        return [hit["sort"][1] for hit in answer.body.get("hits", {}).get("hits", ())]

    def count_documents(self, name: str, chat_id: int, first: int, last: int) -> int:
        """How many of these numbers of a chat a search can find, or find removed. Raises IndexMissing."""
        numbers: dict[str, Any] = {"range": {"number": {"gte": first, "lte": last}}}
        # A range reads all of the chat's documents, ids only look theirs up.
        if last - first < MAX_QUERY_IDS:
            ids = [f"{chat_id}-{number}" for number in range(first, last + 1)]
            numbers = {"ids": {"values": ids}}
        with self._translate_errors(name) as client:
            answer = client.count(
                index=read_alias(name),
                routing=str(chat_id),
                query={"bool": {"filter": [_chat_filter(chat_id), numbers]}},
            )
        return int(answer["count"])

    # -- comparing ---------------------------------------------------------------------------------

    def iter_states(
        self, name: str, chat_ids: Sequence[int] | None = None
    ) -> Generator[list[DocumentState], None, None]:
        """The state of every document of an index, or of some chats' in it, by chat and number, in pages.

        They are of one moment, and of all that was written before the call. Raises IndexMissing.
        """
        query = _with_alive_flag(_MATCH_ALL if chat_ids is None else _chats_filter(chat_ids))
        self.refresh(name)
        with self._translate_errors(name) as client:
            pit_id = client.open_point_in_time(index=name, keep_alive=POINT_IN_TIME_KEEP_ALIVE)[
                "id"
            ]
        after: list[int] | None = None
        try:
            while page := self._search_states(
                _starting_at(query, after),
                pit={"id": pit_id, "keep_alive": POINT_IN_TIME_KEEP_ALIVE},
                after=after,
            ):
                yield list(map(_to_state, page))
                after = page[-1]["sort"]
        finally:
            with self._translate_errors(name) as client:
                client.close_point_in_time(id=pit_id)

    def read_versions(
        self, name: str, after: DocumentKey, last: DocumentKey | None, size: int
    ) -> tuple[list[DocumentVersion], bool]:
        """The versions of the first documents behind one key, up to another or to the end, in order.

        They are at most `size`, which is at most MAX_HITS; and whether there may be more. What was
        written before the last refresh is among them. Raises IndexMissing.
        """
        found = list(
            map(
                _to_version,
                self._search_states(
                    _starting_at(_MATCH_ALL, after), index=name, after=after, size=size
                ),
            )
        )
        more = len(found) == size and (last is None or found[-1][:2] < last)
        while last and found and found[-1][:2] > last:
            found.pop()
        return found, more

    def read_states(
        self, name: str, keys: Sequence[DocumentKey]
    ) -> dict[DocumentKey, DocumentState]:
        """The states of those of these (chat id, number) that have a document now, by key."""
        self.refresh(name)
        if not keys:
            return {}
        query = _with_alive_flag({"ids": {"values": [f"{chat}-{number}" for chat, number in keys]}})
        return {
            state[:2]: state for state in map(_to_state, self._search_states(query, index=name))
        }

    def refresh(self, name: str) -> None:
        """Have searches see all that was written to an index until now. Raises IndexMissing."""
        with self._translate_errors(name) as client:
            client.options(request_timeout=BULK_TIMEOUT_SECONDS).indices.refresh(index=name)

    def _search_states(
        self,
        query: Mapping[str, Any],
        *,
        index: str | None = None,
        pit: Mapping[str, Any] | None = None,
        after: Sequence[int] | None = None,
        size: int = MAX_HITS,
    ) -> list[Any]:
        """Up to `size` of what is found, as Elasticsearch tells it."""
        with self._translate_errors(index) as client:
            answer = client.options(request_timeout=BULK_TIMEOUT_SECONDS).search(
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


def _starting_at(query: Mapping[str, Any], after: Sequence[int] | None) -> Mapping[str, Any]:
    """The same, of what may come behind a key; so not every page has to look at all that was before."""
    if after is None:
        return query
    return {"bool": {"must": [query], "filter": [{"range": {"chat": {"gte": after[0]}}}]}}


def _with_alive_flag(query: Mapping[str, Any]) -> dict[str, Any]:
    return {"bool": {"filter": [query], "should": [_HAS_TEXT]}}


def _to_version(hit: Any) -> DocumentVersion:
    key = hit["sort"]  # and a tie-breaker
    return key[0], key[1], hit["_version"]


def _to_state(hit: Any) -> DocumentState:
    return DocumentState(*_to_version(hit), "matched_queries" in hit)


def _query_grams(keyword: str) -> list[str]:
    """The keyword's different grams, as long as can be; of too many some, evenly spread."""
    length = min(MAX_GRAM_LENGTH, len(keyword))
    grams = list(
        dict.fromkeys(keyword[at : at + length] for at in range(len(keyword) - length + 1))
    )
    if len(grams) <= MAX_QUERY_GRAMS:
        return grams
    return [grams[at * len(grams) // MAX_QUERY_GRAMS] for at in range(MAX_QUERY_GRAMS)]


def _chat_filter(chat_id: int) -> dict[str, Any]:
    """Every document is routed by its chat, so the routing names it: no field need do it again."""
    return {"term": {"_routing": str(chat_id)}}


def _chats_filter(chat_ids: Sequence[int]) -> dict[str, Any]:
    return {"terms": {"_routing": [str(id_) for id_ in chat_ids]}}


def _differing_paths(wanted: Any, found: Any, path: str = "") -> Iterator[str]:
    """The paths of what is wanted and not found so; Elasticsearch tells numbers and the like as texts."""
    if isinstance(wanted, Mapping):
        for key, value in wanted.items():
            inner = found.get(key) if isinstance(found, Mapping) else None
            yield from _differing_paths(value, inner, f"{path}.{key}" if path else key)
    elif str(found).lower() != str(wanted).lower():
        yield path


def _bulk_requests(documents: Iterable[Document]) -> Iterator[tuple[list[Document], bytes]]:
    """Documents in the order given, with the bodies of the requests that write them."""
    batch: list[Document] = []
    lines: list[bytes] = []
    size = 0
    for document in documents:
        line = _bulk_lines(document)
        if batch and (len(batch) == MAX_BULK_DOCUMENTS or size + len(line) > MAX_BULK_BYTES):
            yield batch, b"".join(lines)
            batch, lines, size = [], [], 0
        batch.append(document)
        lines.append(line)
        size += len(line)
    if batch:
        yield batch, b"".join(lines)


def _bulk_body(documents: Iterable[Document]) -> bytes:
    return b"".join(map(_bulk_lines, documents))


def _bulk_lines(document: Document) -> bytes:
    """What a bulk request says of a document."""
    chat, number, version, text = document
    content = b"" if text is None else b',"text":' + _encode_json(text)
    return _BULK_LINES % (chat, number, chat, version, chat, number, content)
