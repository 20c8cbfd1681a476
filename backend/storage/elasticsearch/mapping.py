"""How an index is built: its settings, its mapping, its names, and the grams that a query asks for.

    instachat-1f2e3d4c                              the read alias: it names the live index
    instachat-1f2e3d4c-20261124.181500.123456       an index: searches use the name that SQL has
    instachat-1f2e3d4c-20261124.181500.123456-write its write alias: every write to this index uses it

Nothing here reads the read alias, because somebody may move it: it is for programs of the release before, and
for an operator's own tools.
Each index has a write alias because Elasticsearch would otherwise create an index with a guessed mapping
when a document is written to an index that has been deleted.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

MAPPING_VERSION = 1
"""Increment with each change of INDEX_SETTINGS or INDEX_MAPPING; older indices have to be rebuilt."""

MAX_GRAM_LENGTH = 3  # code points
MAX_QUERY_GRAMS = 32  # per query; PostgreSQL verifies what they let through
# docs/architecture.md has the figures for these grams, and for no positions, norms or source, and sorting.
INDEX_SETTINGS: Mapping[str, Any] = {
    "refresh_interval": "1s",  # explicit, as an index that is not searched for a while stops refreshing
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
AUTOMATIC_REPLICAS = "0-1"  # one if there is a second node, so that a single node is "green", too
COMPARED_SETTINGS = ("analysis", "sort")  # the settings that affect search results


def new_index_name(installation: str) -> str:
    """A new, unused index name for an installation."""
    return f"{installation_alias(installation)}-{datetime.now(UTC):%Y%m%d.%H%M%S.%f}"


def installation_alias(installation: str) -> str:
    """The alias that names an installation's live index."""
    return f"instachat-{installation[:8]}"


def read_alias(name: str) -> str:
    """The alias that names the live index, derived from the name of an index."""
    return name.rpartition("-")[0]


def write_alias(name: str) -> str:
    """The alias through which an index is written."""
    return f"{name}-write"


def index_settings(shards: int, replicas: int | None) -> dict[str, Any]:
    """The settings of a new index; `replicas` of each shard, None for one if there is a second node."""
    copies: dict[str, Any] = {"auto_expand_replicas": AUTOMATIC_REPLICAS}
    if replicas is not None:
        copies = {"number_of_replicas": replicas}
    return {"number_of_shards": shards, **copies, **INDEX_SETTINGS}


def query_grams(keyword: str) -> list[str]:
    """The keyword's distinct grams of maximal length; MAX_QUERY_GRAMS of them, evenly spread, if more."""
    length = min(MAX_GRAM_LENGTH, len(keyword))
    grams = list(
        dict.fromkeys(keyword[at : at + length] for at in range(len(keyword) - length + 1))
    )
    if len(grams) <= MAX_QUERY_GRAMS:
        return grams
    return [grams[at * len(grams) // MAX_QUERY_GRAMS] for at in range(MAX_QUERY_GRAMS)]


def configuration_differences(mappings: Any, settings: Any) -> Iterator[str]:
    """The paths at which an index's mappings and settings differ from those above.

    Settings that do not affect search results are not compared.
    """
    wanted = {
        "mappings": INDEX_MAPPING,
        "settings": {part: INDEX_SETTINGS[part] for part in COMPARED_SETTINGS},
    }
    return _differing_paths(wanted, {"mappings": mappings, "settings": settings})


def _differing_paths(wanted: Any, found: Any, path: str = "") -> Iterator[str]:
    """The paths at which `found` differs from `wanted`; Elasticsearch returns numbers as strings."""
    if isinstance(wanted, Mapping):
        for key, value in wanted.items():
            inner = found.get(key) if isinstance(found, Mapping) else None
            yield from _differing_paths(value, inner, f"{path}.{key}" if path else key)
    elif str(found).lower() != str(wanted).lower():
        yield path
