"""What can keep messages from being found: checks of Elasticsearch, the index, and what waits for it."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from backend.domain.errors import InstaChatError
from backend.monitoring.checks import Finding, Severity, fault, ok
from backend.settings import redacted
from backend.storage.elasticsearch.index import MAPPING, Index
from backend.storage.postgres import Database, outbox, search_indices

OLDEST_ELASTICSEARCH = (8, 19)
UNPUBLISHED_SECONDS = 60.0  # what waits for longer, waits for somebody to look
LOCAL = {"localhost", "127.0.0.1", "::1"}


def elasticsearch(index: Index) -> Iterator[Finding]:
    yield _security(index)
    check = "Elasticsearch"
    try:
        version = index.version()
    except InstaChatError as error:
        yield fault(check, error)
        return
    if version == "unknown":
        yield Finding(
            check,
            Severity.UNKNOWN,
            "answers; its version could not be evaluated: who asks may not monitor the cluster",
            "give its user or API key the cluster privilege `monitor`",
        )
    elif tuple(int(part) for part in version.split(".")[:2]) >= OLDEST_ELASTICSEARCH:
        yield ok(check, f"Elasticsearch {version} answers")
    else:
        yield Finding(
            check,
            Severity.ERROR,
            f"Elasticsearch {version} answers; this program needs 8.19 or newer",
            "upgrade it to Elasticsearch 8.19 or 9",
        )


def _security(index: Index) -> Finding:
    check, url = "Elasticsearch's security", urlsplit(index.url)
    if url.scheme == "https" or url.hostname in LOCAL:
        return ok(check, "people's texts do not cross the network in the clear")
    return Finding(
        check,
        Severity.WARNING,
        f"{redacted(index.url)} is not TLS: people's texts and the password cross the network in the"
        " clear",
        "use https:// unless that network is yours alone; INSTACHAT_ELASTICSEARCH_CA_FILE names a private"
        " authority",
    )


def searching(database: Database, index: Index | None) -> Iterator[Finding]:
    """Whether what is stored gets into an index, and searches may read it."""
    with database.connect() as connection:
        kept = search_indices.indices(connection)
        live = search_indices.live_index(connection)
        blank = search_indices.is_blank(connection)
        publishing = outbox.publishing(connection)
        lag = outbox.lag(connection)
    if index is None:
        yield _without_index(publishing, lag)
        return
    if live is None:
        yield (
            ok("search index", "there is no message yet; the first command makes the index")
            if blank
            else Finding(
                "search index",
                Severity.ERROR,
                "there are messages and no index of them: searches are refused",
                "run `instachat reindex`; searches go on as soon as it is done",
            )
        )
        return
    yield from _kept(index, live)
    if len(kept) > 1:
        others = ", ".join(f"{one.name} ({one.state})" for one in kept if one is not live)
        yield ok("other indices", f"written to as well: {others}")
    if lag.seconds is None or lag.seconds < UNPUBLISHED_SECONDS:
        yield ok("publishing", f"{lag.messages:,} messages wait to become searchable")
    else:
        yield Finding(
            "publishing",
            Severity.WARNING,
            f"{lag.messages:,} messages wait to become searchable, the oldest for {lag.seconds:,.0f} s",
            "see that Elasticsearch answers and a worker is running; the worker's log says why",
        )


def _kept(index: Index, live: search_indices.KeptIndex) -> Iterator[Finding]:
    check, again = "search index", "run `instachat reindex`; searches go on meanwhile"
    if live.mapping != MAPPING:
        yield Finding(
            check,
            Severity.ERROR,
            f"{live.name} is of mapping {live.mapping}, this program makes {MAPPING}",
            again,
        )
    elif not live.made:
        yield ok(check, f"{live.name} is made with the first message")
    elif not index.exists(live.name):
        yield Finding(
            check,
            Severity.ERROR,
            f"{live.name} is not in Elasticsearch, or has lost its aliases: searches fail, and what is"
            " stored waits",
            "run `instachat reindex`",
        )
    else:
        yield ok(check, f"{live.name}, of mapping {live.mapping}, is searched")


def _without_index(publishing: bool, lag: outbox.Lag) -> Finding:
    if not publishing:
        return ok("search", "PostgreSQL searches: INSTACHAT_ELASTICSEARCH_URL is not set")
    return Finding(
        "search",
        Severity.WARNING,
        "PostgreSQL searches, and what changes is noted for an Elasticsearch that is not set any more:"
        f" {lag.messages:,} messages by now",
        "set INSTACHAT_ELASTICSEARCH_URL again, which publishes them; or end it for good with"
        " `instachat reindex --abort`",
    )
