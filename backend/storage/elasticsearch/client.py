"""The connection to Elasticsearch: connecting, versions, and the translation of its errors.

A request that a node does not answer is sent to another one (`failover`). Nothing else is retried here: the
caller decides whether to repeat a request that the cluster refuses.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from backend.domain.errors import EngineDown, Failed, Invalid, Unavailable
from backend.settings import redact
from backend.storage.elasticsearch.hosts import parse_hosts
from backend.storage.search_index import IndexClosed, IndexMissing
from backend.storage.versions import parse_version

if TYPE_CHECKING:
    from elasticsearch import Elasticsearch, JsonSerializer

REQUEST_TIMEOUT_SECONDS = 4.0
HOST_TIMEOUT_SECONDS = 2.0  # for a question to one host, which others do not answer for it
_CERTIFICATE_HINT = (
    "INSTACHAT_ELASTICSEARCH_CA_FILE names the PEM file of the authority that signed it"
)

# The transport logs each request and each failure; errors are reported by the exceptions raised here.
logging.getLogger("elastic_transport").setLevel(logging.ERROR)


class ElasticsearchClient:
    """A connection to Elasticsearch, opened at first use. Thread-safe.

    Every request raises EngineDown when Elasticsearch does not answer or denies access, and Unavailable
    when it cannot serve the request at the moment.
    """

    def __init__(
        self, url: str, *, api_key: str | None = None, ca_file: Path | None = None
    ) -> None:
        """An API key takes precedence over a password in the URL.

        Raises Invalid for an unusable URL, and Failed if the library is not installed.
        """
        self.url = url
        self._api_key = api_key
        self._ca_file = ca_file
        self._lock = threading.Lock()
        self._connected: Elasticsearch | None = None
        try:
            self._hosts = parse_hosts(url)
        except ValueError:
            raise Invalid(
                f"the URL {redact(url)} of Elasticsearch can't be used",
                "it looks like https://USER:PASSWORD@HOST1:9200,HOST2:9200"
                " (INSTACHAT_ELASTICSEARCH_URL); all hosts have the same user",
            ) from None
        if find_spec("elasticsearch") is None:  # imports nothing
            raise Failed(
                "INSTACHAT_ELASTICSEARCH_URL is set, and the extra `elasticsearch` is not installed",
                "install `instachat[elasticsearch]`, or unset the variable: then PostgreSQL searches",
            )

    def close(self) -> None:
        """Close the connections."""
        if self._connected is not None:
            self._connected.close()

    def version(self) -> str | None:
        """The lowest version of all nodes; None if the user may not read it."""
        with self.translate_errors() as client:
            from elasticsearch import AuthorizationException

            try:
                answer = client.nodes.info(filter_path="nodes.*.version")
            except AuthorizationException:
                return None
            versions: list[str] = [node["version"] for node in answer["nodes"].values()]
            return min(versions, key=parse_version)

    @property
    def host_urls(self) -> Sequence[str]:
        """See SearchIndex."""
        return self._hosts.urls

    def silent_hosts(self) -> dict[str, str]:
        """See SearchIndex."""
        from elasticsearch import ApiError, TransportError

        silent: dict[str, str] = {}
        for url in self._hosts.urls:
            try:
                with closing(self._connect([url])) as client:
                    client.options(request_timeout=HOST_TIMEOUT_SECONDS).info()
            except TransportError as error:
                silent[url] = _first_line(error)
            except ApiError as error:  # with less than 500, what is wrong does not concern the host
                if error.meta.status >= 500:
                    silent[url] = f"it answers {error.meta.status}"
        return silent

    @contextmanager
    def translate_errors(self, name: str | None = None) -> "Iterator[Elasticsearch]":
        """The library's client, for requests whose errors become those of `backend.domain.errors`.

        With the name of an index, that index being absent or closed becomes IndexMissing or IndexClosed, and
        any other refusal Unavailable: the request is one that an index as this program makes it answers.
        """
        from elasticsearch import ApiError, TransportError, UnsupportedProductError

        try:
            yield self.client
        except ApiError as error:
            status = error.meta.status
            if name is not None and error.error == "index_not_found_exception":
                raise IndexMissing(name) from None
            if name is not None and error.error == "index_closed_exception":
                raise IndexClosed(name) from None
            if status in (401, 403, 502, 504):
                reason = f"it answers {status} {error.error or ''}".rstrip()
                raise self._engine_down(reason) from None
            if status == 404 and "search_context_missing_exception" in str(error.body):
                raise Unavailable(
                    f"Elasticsearch at {redact(self.url)} has lost the state that a comparison reads,"
                    " with a node",
                    "run the command again",
                ) from None
            if status in (429, 503):
                raise Unavailable(
                    f"Elasticsearch at {redact(self.url)} is busy or incomplete ({status})",
                    "try again; see its log",
                ) from None
            kind = Failed if name is None else Unavailable
            raise kind(
                f"Elasticsearch at {redact(self.url)} refuses: {status} {error.error}",
                "see its log; `instachat doctor` knows the common reasons",
            ) from None
        except UnsupportedProductError:
            raise self._engine_down("the server that answers is not Elasticsearch") from None
        except TransportError as error:
            raise self._translate_transport_error(error) from None

    @property
    def client(self) -> "Elasticsearch":
        """The library's client; connects at first use."""
        with self._lock:
            if self._connected is None:
                self._connected = self._connect(self._hosts.urls)
            return self._connected

    def _connect(self, urls: Sequence[str]) -> "Elasticsearch":
        # Importing the library takes 0.3 seconds; commands that do not search must not pay for it.
        from elasticsearch import Elasticsearch

        from backend.storage.elasticsearch.failover import FailoverPool, FailoverTransport

        _, user, password = self._hosts
        options: dict[str, Any] = {}
        if self._api_key:
            options["api_key"] = self._api_key
        elif user:
            options["basic_auth"] = user, password
        if urls[0].startswith("https:") and self._ca_file:
            if not self._ca_file.is_file():
                raise self._engine_down(
                    f"the certificate file {self._ca_file} does not exist", _CERTIFICATE_HINT
                )
            options["ca_certs"] = str(self._ca_file)
        try:
            return Elasticsearch(
                list(urls),
                request_timeout=REQUEST_TIMEOUT_SECONDS,
                transport_class=FailoverTransport,
                node_pool_class=FailoverPool,
                serializers={"application/json": _new_serializer()},
                **options,
            )
        except (OSError, ValueError) as error:  # the certificate file is unreadable or malformed
            raise self._translate_transport_error(error) from None

    def _translate_transport_error(self, error: BaseException) -> EngineDown:
        reason = _first_line(error)
        return self._engine_down(reason, _CERTIFICATE_HINT if "certificate" in reason else None)

    def _engine_down(self, reason: str, hint: str | None = None) -> EngineDown:
        url = self._hosts.urls[0]
        return EngineDown(
            f"Elasticsearch at {redact(self.url)} can't be used: {reason}",
            hint
            or f"check it with `curl {url}/_cluster/health`; the setting is INSTACHAT_ELASTICSEARCH_URL",
        )


def _first_line(error: BaseException) -> str:
    """The reason why there was no reply, in one line, without the connection that the library prepends."""
    message = str(getattr(error, "message", error)).partition("\n")[0]
    return message.partition("): ")[2] or message or type(error).__name__


def _new_serializer() -> "JsonSerializer":
    """A serializer that reads JSON with msgspec, in half the time of the standard library."""
    from elasticsearch import JsonSerializer, SerializationError

    class MsgspecSerializer(JsonSerializer):
        def json_loads(self, data: bytes) -> Any:
            try:
                return msgspec.json.decode(data)
            except msgspec.DecodeError as error:
                raise SerializationError("the answer is not JSON", errors=(error,)) from None

    return MsgspecSerializer()
