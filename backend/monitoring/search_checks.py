"""Checks of searching: Elasticsearch, the index, and the messages that wait to be published."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from backend.domain.errors import InstaChatError
from backend.domain.plurals import counted
from backend.monitoring.checks import CheckResult, Severity, error_result, ok_result
from backend.settings import redact
from backend.storage.postgres import outbox, search_indices
from backend.storage.postgres.database import Database
from backend.storage.search_index import IndexUnusable, SearchIndex
from backend.storage.versions import parse_version

MIN_ELASTICSEARCH_VERSION = (8, 19)
MAX_UNPUBLISHED_SECONDS = 60.0  # a message that waits longer is a warning
LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}


def check_elasticsearch(index: SearchIndex) -> Iterator[CheckResult]:
    """Check that Elasticsearch is reachable, recent enough, and reached over TLS."""
    yield _check_transport_security(index)
    yield from _check_hosts(index)
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
            "answers; its version could not be evaluated: the user may not monitor the cluster",
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


def _check_hosts(index: SearchIndex) -> Iterator[CheckResult]:
    """Check each host of the URL, if it names several: requests go to those that answer."""
    hosts = index.host_urls
    if len(hosts) == 1:
        return
    check, silent = "Elasticsearch's hosts", index.silent_hosts()
    if not silent:
        yield ok_result(check, f"all {len(hosts)} answer")
    elif len(silent) < len(hosts):  # if none answers, the check of Elasticsearch says so
        reasons = "; ".join(f"{url}: {reason}" for url, reason in silent.items())
        yield CheckResult(
            check,
            Severity.WARNING,
            f"{counted(len(silent), 'host does', 'hosts do')} not answer, of {len(hosts)}; the others work:"
            f" {reasons}",
            "start those nodes, or remove their hosts from INSTACHAT_ELASTICSEARCH_URL",
        )


def _check_transport_security(index: SearchIndex) -> CheckResult:
    check, urls = "Elasticsearch's security", list(map(urlsplit, index.host_urls))
    if all(url.scheme == "https" or url.hostname in LOCAL_HOSTS for url in urls):
        return ok_result(check, "message texts do not cross the network unencrypted")
    return CheckResult(
        check,
        Severity.WARNING,
        f"{redact(index.url)} is not TLS: message texts and the password cross the network unencrypted",
        "use https:// unless the network is private; INSTACHAT_ELASTICSEARCH_CA_FILE names a private"
        " authority",
    )


def check_search(database: Database, index: SearchIndex | None) -> Iterator[CheckResult]:
    """Check that stored messages get into an index that searches can read."""
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
            ok_result(
                "search index", "there is no message yet; the first command registers the index"
            )
            if blank
            else CheckResult(
                "search index",
                Severity.ERROR,
                "there are messages, but no index of them: PostgreSQL searches, large chats incompletely",
                "run `instachat reindex`; searches are complete as soon as it is done",
            )
        )
        return
    yield from _check_live_index(database, index, live)
    if len(registered) > 1:
        others = ", ".join(f"{one.name} ({one.state})" for one in registered if one is not live)
        yield ok_result("other indices", f"are written to as well: {others}")
    if lag.seconds is None or lag.seconds < MAX_UNPUBLISHED_SECONDS:
        yield ok_result(
            "publishing",
            f"{counted(lag.messages, 'message waits', 'messages wait')} to be published",
        )
    else:
        yield CheckResult(
            "publishing",
            Severity.WARNING,
            f"{counted(lag.messages, 'message waits', 'messages wait')} to be published, the oldest for"
            f" {lag.seconds:,.0f} s",
            "check that Elasticsearch answers and a worker is running; the worker's log has the reason",
        )


def _check_live_index(
    database: Database, index: SearchIndex, live: search_indices.RegisteredIndex
) -> Iterator[CheckResult]:
    check, remedy = "search index", "run `instachat reindex`; searches work meanwhile"
    if live.mapping != index.mapping_version:
        yield CheckResult(
            check,
            Severity.ERROR,
            f"{live.name} has mapping {live.mapping}, this program uses mapping {index.mapping_version}",
            remedy,
        )
    elif not live.made:
        yield ok_result(check, f"{live.name} will be created with the first message")
    else:
        try:
            index.check_usable(live.name)
        except IndexUnusable as error:
            yield CheckResult(
                check,
                Severity.ERROR,
                f"{error.message}: stored messages are not published, and PostgreSQL searches what the"
                " index does not show, large chats incompletely",
                error.hint,
            )
            return
        yield ok_result(check, f"searches read {live.name}, with mapping {live.mapping}")
        yield _check_alias(index, index.installation_alias(database.installation.id), live.name)
        yield from _check_copies(index, live.name)


def _check_alias(index: SearchIndex, alias: str, live: str) -> CheckResult:
    """Check that the installation's alias names the live index, for programs that read it."""
    check, named = "search index's alias", index.aliased_indices(alias)
    if named == [live]:
        return ok_result(check, f"{alias} names the index that searches read")
    return CheckResult(
        check,
        Severity.WARNING,
        f"{alias} names {', '.join(named) or 'no index'}: searches do not use it, but servers of an"
        " earlier release and other programs may",
        "`instachat reindex --abort` puts it back",
    )


def _check_copies(index: SearchIndex, name: str) -> Iterator[CheckResult]:
    """Check that the live index has all copies of its shards, and those that the settings say."""
    check, copies = "search index's copies", index.copies(name)
    if copies is None:
        return  # the check of Elasticsearch names the privilege that the user lacks
    shards, replicas = index.wanted_copies()
    has = f"{counted(copies.shards, 'shard')} with {counted(copies.replicas, 'replica')} each"
    if not copies.searchable:
        yield CheckResult(
            check,
            Severity.ERROR,
            f"shards of {name} have no copy that answers: PostgreSQL searches, large chats incompletely",
            "start the nodes that hold them; if their data are lost, run `instachat reindex`",
        )
    elif copies.missing:
        yield CheckResult(
            check,
            Severity.WARNING,
            f"{counted(copies.missing, 'copy is', 'copies are')} missing ({has}): searches are complete, but"
            " another lost node may take documents with it",
            "start the nodes that are down; with fewer nodes than copies, set"
            " INSTACHAT_ELASTICSEARCH_REPLICAS to less, then run `instachat reindex`",
        )
    elif shards != copies.shards or (replicas is not None and replicas != copies.replicas):
        wanted = counted(shards, "shard") + (
            "" if replicas is None else f" with {counted(replicas, 'replica')} each"
        )
        yield ok_result(check, f"{has}, all there; the settings say {wanted}: `instachat reindex`")
    else:
        yield ok_result(check, f"{has}, all there")


def _check_postgres_search(publishing: bool, lag: outbox.Lag) -> CheckResult:
    if not publishing:
        return ok_result("search", "PostgreSQL searches: INSTACHAT_ELASTICSEARCH_URL is not set")
    return CheckResult(
        "search",
        Severity.WARNING,
        "PostgreSQL searches, but changes are still recorded for an Elasticsearch that is no longer set:"
        f" {counted(lag.messages, 'message')} so far",
        "set INSTACHAT_ELASTICSEARCH_URL again, which publishes them; or stop recording them with"
        " `instachat reindex --abort`",
    )
