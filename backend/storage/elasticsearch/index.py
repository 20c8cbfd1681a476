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
from backend.settings import redacted
from backend.storage.elasticsearch.client import Elastic, IndexMissing

MAPPING = 1
"""Goes up with every change of SETTINGS or FIELDS; an index of another one has to be built anew."""

GRAMS = 3  # the longest
MAX_GRAMS = 32  # of one query; what they let through is verified
# Why these grams, no positions, no norms, no source, and sorted: docs/architecture.md has the figures.
SETTINGS: Mapping[str, Any] = {
    "number_of_shards": 1,
    "auto_expand_replicas": "0-1",
    "refresh_interval": "1s",  # named, or an index that nobody searches for a while stops refreshing
    "max_ngram_diff": GRAMS - 1,
    "sort": {"field": ["chat", "number"], "order": ["asc", "asc"]},
    "analysis": {
        "tokenizer": {"grams": {"type": "ngram", "min_gram": 1, "max_gram": GRAMS}},
        "analyzer": {"grams": {"type": "custom", "tokenizer": "grams"}},
    },
}
FIELDS: Mapping[str, Any] = {
    "dynamic": "strict",
    "_meta": {"instachat_mapping": MAPPING},
    "_source": {"enabled": False},
    "_routing": {"required": True},
    "properties": {
        "chat": {"type": "long", "index": False},
        "number": {"type": "long", "index": False},
        "text": {"type": "text", "analyzer": "grams", "index_options": "docs", "norms": False},
    },
}

_SHAPING = ("analysis", "sort")  # of the settings: what has a say in what is found

CONNECT_SECONDS = 2.0
BULK_SECONDS = 15.0  # a bulk's answer; less than a publisher's lease
MOST_DOCUMENTS = 2_500  # of one bulk
MOST_BYTES = 4 << 20  # of one bulk, unless a document alone has more
PAUSES = (0.1, 0.3, 0.9)  # before what was refused for now is sent again
MOST_IDS = 1_000  # of one query
STATES_AT_ONCE = 10_000  # as many as an index gives by default
MOMENT = "2m"  # that a point in time is kept between two pages
_STATE_PATHS = "hits.hits.sort,hits.hits._version,hits.hits.matched_queries"
_ALL: Mapping[str, Any] = {"match_all": {}}
_ALIVE: Mapping[str, Any] = {"exists": {"field": "text", "_name": "alive"}}
# Filled in, as to make a mapping of each document and JSON of that takes twice as long.
_LINE = (
    b'{"index":{"_id":"%d-%d","routing":"%d","version":%d,"version_type":"external"}}\n'
    b'{"chat":%d,"number":%d%b}\n'
)
_json_of = msgspec.json.Encoder().encode
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


Key = tuple[int, int]
"""Of a document: its chat id and its number."""

Version = tuple[int, int, int]
"""Of a document: its key, and the version that it is of."""


class Rejected(NamedTuple):
    """A document that the index can't hold, and why, without a word of its text."""

    document: Document
    reason: str


def new_name(installation: str) -> str:
    """The name of another index of an installation."""
    return f"{alias_of_installation(installation)}-{datetime.now(UTC):%Y%m%d.%H%M%S.%f}"


def alias_of_installation(installation: str) -> str:
    """The alias that an installation's searches read."""
    return f"instachat-{installation[:8]}"


def read_alias(name: str) -> str:
    """The alias that searches read, of an index."""
    return name.rpartition("-")[0]


def write_alias(name: str) -> str:
    """The alias that leads to this index alone."""
    return f"{name}-write"


class Index(Elastic):
    """The indices in an Elasticsearch. Thread-safe; every use raises as `Elastic` says."""

    # -- indices -----------------------------------------------------------------------------------

    def create(self, name: str) -> None:
        """Have an index and its write alias; one that is there already stays as it is."""
        with self._in_our_words() as client:
            from elasticsearch import BadRequestError

            try:
                client.options(request_timeout=BULK_SECONDS).indices.create(
                    index=name,
                    settings=SETTINGS,
                    mappings=FIELDS,
                    aliases={write_alias(name): {}},
                )
            except BadRequestError as error:
                if error.error != "resource_already_exists_exception":
                    raise

    def drop(self, name: str) -> None:
        """Delete an index, if it is there, with its aliases."""
        with self._in_our_words() as client:
            client.options(request_timeout=BULK_SECONDS).indices.delete(
                index=name, ignore_unavailable=True
            )

    def read_from(self, name: str) -> None:
        """Have searches read this index and no other, from one moment to the next. Idempotent."""
        alias = read_alias(name)
        with self._in_our_words(name) as client:
            client.indices.update_aliases(
                actions=[
                    {"remove": {"index": f"{alias}-*", "alias": alias, "must_exist": False}},
                    {"add": {"index": name, "alias": alias}},
                ]
            )

    def exists(self, name: str) -> bool:
        """Whether an index is there, by the alias that it is written by and, as searches do, read by."""
        with self._in_our_words() as client:
            return bool(
                client.indices.exists_alias(name=write_alias(name), index=name)
                and client.indices.exists_alias(name=read_alias(name), index=name)
            )

    def found(self, alias: str) -> dict[str, bool]:
        """The indices of an installation that are there, kept or not: whether each can be written to."""
        with self._in_our_words() as client:
            answer = client.indices.get_alias(index=f"{alias}-*", allow_no_indices=True)
        return {name: write_alias(name) in of["aliases"] for name, of in answer.body.items()}

    def misfits(self, name: str) -> list[str]:
        """Where an index is not as `create` makes it, such as `mappings.properties.text`; empty if nowhere.

        What has no say in what is found (replicas, how often it refreshes) is anybody's. Raises IndexMissing.
        """
        with self._in_our_words(name) as client:
            mappings = client.indices.get_mapping(index=name)[name]["mappings"]
            settings = client.indices.get_settings(index=name)[name]["settings"]["index"]
        wanted = {"mappings": FIELDS, "settings": {part: SETTINGS[part] for part in _SHAPING}}
        return list(_differing(wanted, {"mappings": mappings, "settings": settings}))

    # -- documents ---------------------------------------------------------------------------------

    def write(self, name: str, documents: Iterable[Document]) -> list[Rejected]:
        """Have an index hold these documents, or newer ones; returns those that it can't hold.

        Any order and any repetition lead to the same. Raises IndexMissing, or Unavailable if it takes
        no more for now; some of the documents may be there then.
        """
        rejected: list[Rejected] = []
        for batch, body in _bulks(documents):
            rejected += self._write(name, batch, body)
        return rejected

    def _write(self, name: str, batch: Sequence[Document], body: bytes) -> list[Rejected]:
        rejected: list[Rejected] = []
        for pause in (*PAUSES, None):
            outcomes = self._bulk(name, batch, body)
            if outcomes is None:
                return rejected + self._write_halves(name, batch)
            if not outcomes:
                return rejected
            again: list[Document] = []
            refusal = ""
            for document, (status, error) in zip(batch, outcomes, strict=True):
                if status < 300 or status == 409:  # the latter: it has this version, or a newer one
                    continue
                if status == 404:
                    raise IndexMissing(name)
                if status in (401, 403, 429) or status >= 500:
                    again.append(document)
                    refusal = error
                else:
                    rejected.append(Rejected(document, f"Elasticsearch says {error or status}"))
            if not again:
                return rejected
            if pause is None or refusal == "cluster_block_exception":  # no block ends that soon
                break
            batch, body = again, _body(again)
            time.sleep(pause)
        raise Unavailable(
            f"Elasticsearch at {redacted(self.url)} takes nothing into the search index for now"
            f" ({refusal})",
            "see its log: is its disk full, or is it busy? What is stored is published once it can be",
        )

    def _write_halves(self, name: str, batch: Sequence[Document]) -> list[Rejected]:
        """What was too long for one request, in two."""
        if len(batch) == 1:
            return [Rejected(batch[0], "Elasticsearch takes no request of that length")]
        middle = len(batch) // 2
        halves = batch[:middle], batch[middle:]
        return [one for half in halves for one in self._write(name, half, _body(half))]

    def _bulk(
        self, name: str, batch: Sequence[Document], body: bytes
    ) -> Sequence[tuple[int, str]] | None:
        """What became of each document: a status, and the kind of error. None if it was too long.

        Nothing if all went well, which is known without a word on each of them. Only if it did not is the
        same sent again, for the words: what is there already stays as it is.
        """
        from urllib3 import Timeout

        timeout: Any = Timeout(connect=CONNECT_SECONDS, read=BULK_SECONDS)  # handed on to urllib3
        answer: Any = {}
        with self._in_our_words(name) as client:
            from elasticsearch import ApiError

            patient = client.options(request_timeout=timeout)
            for told in ("errors", "errors,items.index.status,items.index.error.type"):
                try:
                    answer = patient.perform_request(
                        "POST",
                        f"/{write_alias(name)}/_bulk",
                        params={"require_alias": "true", "filter_path": told},
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
        grams = [{"term": {"text": gram}} for gram in _cut(keyword)]
        with self._in_our_words(name) as client:
            answer = client.search(
                index=read_alias(name),
                routing=str(chat_id),
                query={"bool": {"filter": [_of_chat(chat_id), *grams]}},
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

    def count(self, name: str, chat_id: int, first: int, last: int) -> int:
        """How many of these numbers of a chat a search can find, or find removed. Raises IndexMissing."""
        numbers: dict[str, Any] = {"range": {"number": {"gte": first, "lte": last}}}
        # A range reads all of the chat's documents, ids only look theirs up.
        if last - first < MOST_IDS:
            ids = [f"{chat_id}-{number}" for number in range(first, last + 1)]
            numbers = {"ids": {"values": ids}}
        with self._in_our_words(name) as client:
            answer = client.count(
                index=read_alias(name),
                routing=str(chat_id),
                query={"bool": {"filter": [_of_chat(chat_id), numbers]}},
            )
        return int(answer["count"])

    # -- comparing ---------------------------------------------------------------------------------

    def states(
        self, name: str, chat_ids: Sequence[int] | None = None
    ) -> Generator[list[DocumentState], None, None]:
        """The state of every document of an index, or of some chats' in it, by chat and number, in pages.

        They are of one moment, and of all that was written before the call. Raises IndexMissing.
        """
        query = _with_alive(_ALL if chat_ids is None else _of_chats(chat_ids))
        self.refresh(name)
        with self._in_our_words(name) as client:
            moment = client.open_point_in_time(index=name, keep_alive=MOMENT)["id"]
        after: list[int] | None = None
        try:
            while page := self._hits(
                _from(query, after), pit={"id": moment, "keep_alive": MOMENT}, after=after
            ):
                yield list(map(_state, page))
                after = page[-1]["sort"]
        finally:
            with self._in_our_words(name) as client:
                client.close_point_in_time(id=moment)

    def versions(
        self, name: str, after: Key, last: Key | None, size: int
    ) -> tuple[list[Version], bool]:
        """The versions of the first documents behind one key, up to another or to the end, in order.

        They are at most `size`, which is at most STATES_AT_ONCE; and whether there may be more. What was
        written before the last refresh is among them. Raises IndexMissing.
        """
        found = list(
            map(_version, self._hits(_from(_ALL, after), index=name, after=after, size=size))
        )
        more = len(found) == size and (last is None or found[-1][:2] < last)
        while last and found and found[-1][:2] > last:
            found.pop()
        return found, more

    def states_of(self, name: str, keys: Sequence[Key]) -> dict[Key, DocumentState]:
        """The states of those of these (chat id, number) that have a document now, by key."""
        self.refresh(name)
        if not keys:
            return {}
        query = _with_alive({"ids": {"values": [f"{chat}-{number}" for chat, number in keys]}})
        return {state[:2]: state for state in map(_state, self._hits(query, index=name))}

    def refresh(self, name: str) -> None:
        """Have searches see all that was written to an index until now. Raises IndexMissing."""
        with self._in_our_words(name) as client:
            client.options(request_timeout=BULK_SECONDS).indices.refresh(index=name)

    def _hits(
        self,
        query: Mapping[str, Any],
        *,
        index: str | None = None,
        pit: Mapping[str, Any] | None = None,
        after: Sequence[int] | None = None,
        size: int = STATES_AT_ONCE,
    ) -> list[Any]:
        """Up to `size` of what is found, as Elasticsearch tells it."""
        with self._in_our_words(index) as client:
            answer = client.options(request_timeout=BULK_SECONDS).search(
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
                filter_path=_STATE_PATHS,
            )
        hits: list[Any] = answer.body.get("hits", {}).get("hits", [])
        return hits


def _from(query: Mapping[str, Any], after: Sequence[int] | None) -> Mapping[str, Any]:
    """The same, of what may come behind a key; so not every page has to look at all that was before."""
    if after is None:
        return query
    return {"bool": {"must": [query], "filter": [{"range": {"chat": {"gte": after[0]}}}]}}


def _with_alive(query: Mapping[str, Any]) -> dict[str, Any]:
    return {"bool": {"filter": [query], "should": [_ALIVE]}}


def _version(hit: Any) -> Version:
    key = hit["sort"]  # and a tie-breaker
    return key[0], key[1], hit["_version"]


def _state(hit: Any) -> DocumentState:
    return DocumentState(*_version(hit), "matched_queries" in hit)


def _cut(keyword: str) -> list[str]:
    """The keyword's different grams, as long as can be; of too many some, evenly spread."""
    length = min(GRAMS, len(keyword))
    grams = list(
        dict.fromkeys(keyword[at : at + length] for at in range(len(keyword) - length + 1))
    )
    if len(grams) <= MAX_GRAMS:
        return grams
    return [grams[at * len(grams) // MAX_GRAMS] for at in range(MAX_GRAMS)]


def _of_chat(chat_id: int) -> dict[str, Any]:
    """Every document is routed by its chat, so the routing names it: no field need do it again."""
    return {"term": {"_routing": str(chat_id)}}


def _of_chats(chat_ids: Sequence[int]) -> dict[str, Any]:
    return {"terms": {"_routing": [str(id_) for id_ in chat_ids]}}


def _differing(wanted: Any, found: Any, path: str = "") -> Iterator[str]:
    """The paths of what is wanted and not found so; Elasticsearch tells numbers and the like as texts."""
    if isinstance(wanted, Mapping):
        for key, value in wanted.items():
            inner = found.get(key) if isinstance(found, Mapping) else None
            yield from _differing(value, inner, f"{path}.{key}" if path else key)
    elif str(found).lower() != str(wanted).lower():
        yield path


def _bulks(documents: Iterable[Document]) -> Iterator[tuple[list[Document], bytes]]:
    """Documents in the order given, with the bodies of the requests that write them."""
    batch: list[Document] = []
    lines: list[bytes] = []
    size = 0
    for document in documents:
        line = _line(document)
        if batch and (len(batch) == MOST_DOCUMENTS or size + len(line) > MOST_BYTES):
            yield batch, b"".join(lines)
            batch, lines, size = [], [], 0
        batch.append(document)
        lines.append(line)
        size += len(line)
    if batch:
        yield batch, b"".join(lines)


def _body(documents: Iterable[Document]) -> bytes:
    return b"".join(map(_line, documents))


def _line(document: Document) -> bytes:
    """What a bulk request says of a document."""
    chat, number, version, text = document
    content = b"" if text is None else b',"text":' + _json_of(text)
    return _LINE % (chat, number, chat, version, chat, number, content)
