"""What can keep messages from being found: checks of Elasticsearch, the index, and what waits for it."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from backend.domain.errors import InstaChatError
from backend.monitoring.checks import CheckResult, Severity, error_result, ok_result
from backend.settings import redact
from backend.storage.postgres import outbox, search_indices
from backend.storage.postgres.database import Database
from backend.storage.search_index import SearchIndex
from backend.storage.versions import parse_version

MIN_ELASTICSEARCH_VERSION = (8, 19)
MAX_UNPUBLISHED_SECONDS = 60.0  # what waits for longer, waits for somebody to look
LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}


def check_elasticsearch(index: SearchIndex) -> Iterator[CheckResult]:
    yield _check_transport_security(index)
    check = "Elasticsearch"
    try:
        version = index.version()
    except InstaChatError as error:
        yield error_result(check, error)
        return
    if version is None:
        yield CheckResult(
            check,
            Severity.UNKNOWN,
            "answers; its version could not be evaluated: who asks may not monitor the cluster",
            "give its user or API key the cluster privilege `monitor`",
        )
    elif parse_version(version) >= MIN_ELASTICSEARCH_VERSION:
        yield ok_result(check, f"Elasticsearch {version} answers")
    else:
        yield CheckResult(
            check,
            Severity.ERROR,
            f"Elasticsearch {version} answers; this program needs 8.19 or newer",
            "upgrade it to Elasticsearch 8.19 or 9",
        )


def _check_transport_security(index: SearchIndex) -> CheckResult:
    check, url = "Elasticsearch's security", urlsplit(index.url)
    if url.scheme == "https" or url.hostname in LOCAL_HOSTS:
        return ok_result(check, "people's texts do not cross the network in the clear")
    return CheckResult(
        check,
        Severity.WARNING,
        f"{redact(index.url)} is not TLS: people's texts and the password cross the network in the"
        " clear",
        "use https:// unless that network is yours alone; INSTACHAT_ELASTICSEARCH_CA_FILE names a private"
        " authority",
    )


def check_search(database: Database, index: SearchIndex | None) -> Iterator[CheckResult]:
    """Whether what is stored gets into an index, and searches may read it."""
    with database.connect() as connection:
        registered = search_indices.list_indices(connection)
        live = search_indices.live_index(connection)
        blank = search_indices.has_no_data(connection)
        publishing = outbox.is_publishing(connection)
        lag = outbox.lag(connection)
    if index is None:
        yield _check_postgres_search(publishing, lag)
        return
    if live is None:
        yield (
            ok_result("search index", "there is no message yet; the first command makes the index")
            if blank
            else CheckResult(
                "search index",
                Severity.ERROR,
                "there are messages and no index of them: searches are refused",
                "run `instachat reindex`; searches go on as soon as it is done",
            )
        )
        return
    yield from _check_live_index(index, live)
    if len(registered) > 1:
        others = ", ".join(f"{one.name} ({one.state})" for one in registered if one is not live)
        yield ok_result("other indices", f"written to as well: {others}")
    if lag.seconds is None or lag.seconds < MAX_UNPUBLISHED_SECONDS:
        yield ok_result("publishing", f"{lag.messages:,} messages wait to become searchable")
    else:
        yield CheckResult(
            "publishing",
            Severity.WARNING,
            f"{lag.messages:,} messages wait to become searchable, the oldest for {lag.seconds:,.0f} s",
            "see that Elasticsearch answers and a worker is running; the worker's log says why",
        )


def _check_live_index(
    index: SearchIndex, live: search_indices.RegisteredIndex
) -> Iterator[CheckResult]:
    check, remedy = "search index", "run `instachat reindex`; searches go on meanwhile"
    if live.mapping != index.mapping_version:
        yield CheckResult(
            check,
            Severity.ERROR,
            f"{live.name} is of mapping {live.mapping}, this program makes {index.mapping_version}",
            remedy,
        )
    elif not live.made:
        yield ok_result(check, f"{live.name} is made with the first message")
    elif not index.exists(live.name):
        yield CheckResult(
            check,
            Severity.ERROR,
            f"{live.name} is not in Elasticsearch, or has lost its aliases: searches fail, and what is"
            " stored waits",
            "run `instachat reindex`",
        )
    else:
        yield ok_result(check, f"{live.name}, of mapping {live.mapping}, is searched")


def _check_postgres_search(publishing: bool, lag: outbox.Lag) -> CheckResult:
    if not publishing:
        return ok_result("search", "PostgreSQL searches: INSTACHAT_ELASTICSEARCH_URL is not set")
    return CheckResult(
        "search",
        Severity.WARNING,
        "PostgreSQL searches, and what changes is noted for an Elasticsearch that is not set any more:"
        f" {lag.messages:,} messages by now",
        "set INSTACHAT_ELASTICSEARCH_URL again, which publishes them; or end it for good with"
        " `instachat reindex --abort`",
    )
