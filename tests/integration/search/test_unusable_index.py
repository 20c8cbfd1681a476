"""An index that somebody closes, or whose aliases somebody moves: searches find all, and reports name it."""

from collections.abc import Iterator

import pytest

from backend.bootstrap import Backend
from backend.monitoring.checks import Severity
from backend.monitoring.search_checks import check_search
from backend.search.refresh import Refresher
from backend.storage.elasticsearch.mapping import INDEX_MAPPING, INDEX_SETTINGS, new_index_name
from backend.storage.postgres import search_indices
from backend.storage.search_index import IndexClosed, IndexUnusable, SearchIndex, WritesElsewhere
from tests.support.elasticsearch.requests import (
    live_index_name,
    publish_all,
    publisher,
    query_rows,
    request_elasticsearch,
    search_numbers,
    store_messages,
    unpublished_messages,
)


def index_of(core: Backend) -> SearchIndex:
    """The backend's index."""
    assert core.index is not None
    return core.index


def show(core: Backend) -> None:
    """Publish everything and refresh, so that only the index's answers lead to the messages."""
    publish_all(core)
    Refresher(core.database, index_of(core)).refresh(0)


def close_index(core: Backend, name: str) -> None:
    """Close an index by hand."""
    request_elasticsearch(core, "POST", f"/{name}/_close")


def move_alias(core: Backend, alias: str, *, to: str, keep: bool = False) -> None:
    """Have an alias name another index by hand; with `keep` the one that it has named as well."""
    actions: list[object] = [{"add": {"index": to, "alias": alias}}]
    if not keep:
        actions.insert(0, {"remove": {"index": "*", "alias": alias}})
    request_elasticsearch(core, "POST", "/_aliases", {"actions": actions})


def checks(core: Backend) -> dict[str, tuple[Severity, str]]:
    """What `doctor` says of searching: severity and message of each check."""
    return {
        result.check: (result.severity, result.message)
        for result in check_search(core.database, core.index)
    }


def findings(core: Backend) -> list[str]:
    """The kinds of what `reconcile` finds."""
    return [str(finding.kind) for finding in core.reconciler.begin().findings()]


@pytest.fixture
def other(core: Backend) -> Iterator[str]:
    """The name of an empty index of another installation."""
    name = new_index_name("other")
    body = {"settings": INDEX_SETTINGS, "mappings": INDEX_MAPPING}
    request_elasticsearch(core, "PUT", f"/{name}", body)
    yield name
    request_elasticsearch(core, "DELETE", f"/{name}")


def test_messages_that_come_while_the_index_is_closed_are_found_and_published_later(
    core: Backend, token: str
) -> None:
    """None becomes a dead letter. Every report says so, until the index is opened."""
    store_messages(core, token, "one apple")
    show(core)
    name = live_index_name(core)
    close_index(core, name)
    store_messages(core, token, "two apples")
    with pytest.raises(IndexClosed, match="closed"):
        publisher(core).publish()
    assert query_rows(core, "SELECT FROM dead_letter") == []
    assert unpublished_messages(core) == 1
    assert search_numbers(core, token, "apple") == [1, 2]
    assert core.catalog.messages.wait_searchable(token, 1, 1, 2, 0)
    with pytest.raises(IndexClosed):
        findings(core)
    severity, message = checks(core)["search index"]
    assert (severity, "closed" in message) == (Severity.ERROR, True)
    request_elasticsearch(core, "POST", f"/{name}/_open")
    show(core)
    assert search_numbers(core, token, "apple") == [1, 2]
    assert findings(core) == []
    assert checks(core)["search index"][0] is Severity.OK


@pytest.mark.parametrize("keep", [False, True])
def test_searches_find_everything_whatever_the_read_alias_names(
    core: Backend, token: str, other: str, keep: bool
) -> None:
    """It is moved to an empty index, or names that one, too. `doctor` warns, and `--abort` moves it back."""
    store_messages(core, token, "one apple")
    show(core)
    name = live_index_name(core)
    alias = index_of(core).installation_alias(core.database.installation.id)
    move_alias(core, alias, to=other, keep=keep)
    assert search_numbers(core, token, "apple") == [1]
    store_messages(core, token, "two apples")
    show(core)  # what the refresh takes out of the tail, the searched index shows
    assert search_numbers(core, token, "apple") == [1, 2]
    assert index_of(core).count_documents(name, _chat_id(core), 1, 2) == 2
    assert findings(core) == []
    severity, message = checks(core)["search index's alias"]
    assert (severity, other in message) == (Severity.WARNING, True)
    assert core.reindexer is not None
    assert core.reindexer.abort() is None
    assert index_of(core).aliased_indices(alias) == [name]
    assert checks(core)["search index's alias"][0] is Severity.OK


def _chat_id(core: Backend) -> int:
    ((id_,),) = query_rows(core, "SELECT id FROM chat")
    return int(id_)


@pytest.mark.parametrize("keep", [False, True])
def test_what_is_written_to_another_index_does_not_count_as_published(
    core: Backend, token: str, other: str, keep: bool
) -> None:
    """The write alias is moved, or ambiguous. Messages stay in the outbox, where searches read them.

    A reindex builds an index with an alias of its own.
    """
    store_messages(core, token, "one apple")
    show(core)
    move_alias(core, f"{live_index_name(core)}-write", to=other, keep=keep)
    store_messages(core, token, "two apples")
    with pytest.raises(WritesElsewhere, match=other):
        publisher(core).publish()
    assert query_rows(core, "SELECT FROM dead_letter") == []
    assert unpublished_messages(core) == 1
    assert search_numbers(core, token, "apple") == [1, 2]
    with pytest.raises(WritesElsewhere):
        findings(core)
    severity, message = checks(core)["search index"]
    assert (severity, other in message) == (Severity.ERROR, True)
    assert core.reindexer is not None
    assert core.reindexer.build() is not None
    show(core)
    assert search_numbers(core, token, "apple") == [1, 2]
    assert findings(core) == []


def test_a_closed_index_beside_the_live_one_holds_nothing_up(core: Backend, token: str) -> None:
    """It is unregistered, because it misses what is published from now on."""
    store_messages(core, token, "one apple")
    assert core.reindexer is not None
    built = core.reindexer.build()
    assert built is not None
    assert built.previous is not None
    close_index(core, built.previous)
    store_messages(core, token, "two apples")
    show(core)
    assert unpublished_messages(core) == 0
    assert search_numbers(core, token, "apple") == [1, 2]
    with core.database.connect() as connection:
        assert [one.state for one in search_indices.list_indices(connection)] == ["live"]


def test_a_reindex_replaces_a_closed_index(core: Backend, token: str) -> None:
    """Changes are published to the new index meanwhile, although the live one takes none."""
    store_messages(core, token, "one apple")
    show(core)
    close_index(core, live_index_name(core))
    store_messages(core, token, "two apples")
    assert core.reindexer is not None
    built = core.reindexer.build()
    assert built is not None
    assert built.previous is None
    show(core)
    assert search_numbers(core, token, "apple") == [1, 2]
    assert findings(core) == []


def test_an_index_that_refuses_searches_for_any_other_reason_is_done_without(
    core: Backend, token: str
) -> None:
    """It was made anew by hand, without a mapping: it can't sort by what it does not have."""
    store_messages(core, token, "one apple")
    show(core)
    name = live_index_name(core)
    request_elasticsearch(core, "DELETE", f"/{name}")
    aliases: dict[str, object] = {f"{name}-write": {}, name.rpartition("-")[0]: {}}
    request_elasticsearch(core, "PUT", f"/{name}", {"aliases": aliases})
    assert search_numbers(core, token, "apple") == [1]
    assert core.catalog.messages.wait_searchable(token, 1, 1, 1, 0)


def test_the_reasons_say_what_to_do() -> None:
    """Each names the index, and a command or a request."""
    for error in (IndexClosed("name"), WritesElsewhere("name", "other")):
        assert isinstance(error, IndexUnusable)
        assert "name" in error.message
        assert error.hint
