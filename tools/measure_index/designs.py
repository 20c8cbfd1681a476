"""The designs of a search index that are compared."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from instachat_cli.bench.harness.elasticsearch import wildcard_pattern

MAX_GRAMS = 32  # of one query; PostgreSQL verifies the candidates

Clauses = list[dict[str, Any]]


@dataclass(frozen=True)
class Design:
    """A way to index and to search: the fields of a document, and the clauses of a query."""

    name: str
    fields: dict[str, Any]
    clauses: Callable[[str], Clauses]
    analysis: tuple[int, ...] = ()  # the lengths of the grams
    sorted_by_chat: bool = True
    source: bool = False
    shards: int = 1
    pad: str = ""  # appended to each text
    by_routing: bool = False  # the chat is a number, and the filter uses `_routing`

    def body(self) -> dict[str, Any]:
        """The settings and mappings of its index."""
        low, high = (min(self.analysis), max(self.analysis)) if self.analysis else (1, 1)
        index: dict[str, Any] = {
            "number_of_shards": self.shards,
            "number_of_replicas": 0,
            "refresh_interval": "1s",
            "max_ngram_diff": high - low,
        }
        if self.sorted_by_chat:
            index["sort"] = {"field": ["chat", "number"], "order": ["asc", "asc"]}
        grams = {"type": "ngram", "min_gram": low, "max_gram": high}
        ones = {"type": "ngram", "min_gram": 1, "max_gram": 1}
        return {
            "settings": {
                "index": index,
                "analysis": {
                    "tokenizer": {"grams": grams, "ones": ones},
                    "analyzer": {
                        "grams": {"type": "custom", "tokenizer": "grams"},
                        "ones": {"type": "custom", "tokenizer": "ones"},
                    },
                },
            },
            "mappings": {
                "dynamic": "strict",
                "_source": {"enabled": self.source},
                "_routing": {"required": True},
                "properties": {
                    "chat": {"type": "long", "index": False}
                    if self.by_routing
                    else {"type": "keyword"},
                    "number": {"type": "long", "index": False},
                    **self.fields,
                },
            },
        }

    def query(self, chat: int, keyword: str, after: int, size: int) -> dict[str, Any]:
        """The search for up to `size` candidates with numbers above `after`."""
        by_chat = self.sorted_by_chat
        chat_filter = {"_routing" if self.by_routing else "chat": str(chat)}
        return {
            "query": {
                "bool": {"filter": [{"term": chat_filter}, *self.clauses(keyword)]},
            },
            "sort": ["chat", "number"] if by_chat else ["number"],
            "search_after": [str(chat), after] if by_chat else [after],
            "size": size,
            "track_total_hits": False,
            "_source": False,
        }


def grams_of(keyword: str, size: int) -> list[str]:
    """The distinct grams of a keyword; of more than MAX_GRAMS, as many evenly spread ones."""
    grams = list(dict.fromkeys(keyword[at : at + size] for at in range(len(keyword) - size + 1)))
    if len(grams) <= MAX_GRAMS:
        return grams
    return [grams[at * len(grams) // MAX_GRAMS] for at in range(MAX_GRAMS)]


def all_of(size: int) -> Callable[[str], Clauses]:
    """The text contains every gram of that size, or the keyword itself if it is shorter."""
    return lambda keyword: [
        {"term": {"text": gram}} for gram in grams_of(keyword, min(size, len(keyword)))
    ]


def phrase(size: int) -> Callable[[str], Clauses]:
    """The text contains the grams as a phrase; single letters have a separate field."""

    def clauses(keyword: str) -> Clauses:
        if len(keyword) < size:
            return [{"term": {"ones": keyword}}]
        return [{"match_phrase": {"text": keyword[: MAX_GRAMS + size - 1]}}]

    return clauses


def all_of_or_prefix(keyword: str) -> Clauses:
    """The text contains every trigram; a shorter keyword is the prefix of one."""
    if len(keyword) < 3:
        return [{"prefix": {"text": keyword}}]
    return all_of(3)(keyword)


def wildcard(keyword: str) -> Clauses:
    """The keyword is anywhere in one long term."""
    return [{"wildcard": {"text": {"value": wildcard_pattern(keyword)}}}]


def _grams(index_options: str) -> dict[str, Any]:
    return {
        "type": "text",
        "analyzer": "grams",
        "index_options": index_options,
        "norms": False,
    }


_ONES = {"type": "text", "analyzer": "ones", "index_options": "docs", "norms": False}
_DOCS = {"text": _grams("docs")}
_POSITIONS = {"text": _grams("positions"), "ones": _ONES}

DESIGNS = [
    Design("2 docs", _DOCS, all_of(2), (1, 2)),
    Design("3 docs", _DOCS, all_of(3), (1, 3)),
    Design("2 phrase", _POSITIONS, phrase(2), (2,)),
    Design("3 prefix", _DOCS, all_of_or_prefix, (3,), pad="\0\0"),
    # The whole text as one term:
    Design("wildcard", {"text": {"type": "keyword", "doc_values": False}}, wildcard),
    # Finds keywords within single words only:
    Design("words", {"text": {"type": "text", "norms": False}}, wildcard),
    Design("3 docs, _routing", _DOCS, all_of(3), (1, 3), by_routing=True),
    Design("2 docs, unsorted", _DOCS, all_of(2), (1, 2), sorted_by_chat=False),
    Design("3 docs, unsorted", _DOCS, all_of(3), (1, 3), sorted_by_chat=False),
    Design("2 docs, _source", _DOCS, all_of(2), (1, 2), source=True),
    Design("2 docs, 2 shards", _DOCS, all_of(2), (1, 2), shards=2),
]
INEXACT_DESIGNS = {"words"}
