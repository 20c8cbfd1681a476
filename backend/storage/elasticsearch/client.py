"""The connection to Elasticsearch: connecting, versions, and the translation of its errors.

Nothing is retried here: the caller decides whether to repeat a request.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

import msgspec

from backend.domain.errors import EngineDown, Failed, Unavailable
from backend.settings import redact
from backend.storage.search_index import IndexMissing
from backend.storage.versions import parse_version

if TYPE_CHECKING:
    from elasticsearch import Elasticsearch, JsonSerializer

REQUEST_TIMEOUT_SECONDS = 4.0
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
        """Raises Failed for an unusable URL. An API key takes precedence over a password in the URL."""
        self.url = url
        self._api_key = api_key
        self._ca_file = ca_file
        self._lock = threading.Lock()
        self._connected: Elasticsearch | None = None
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname
            self._port = parts.port or {"http": 9200, "https": 443}.get(parts.scheme, 0)
        except ValueError:
            usable = False
        if not usable:
            raise Failed(
                f"the URL {redact(url)} of Elasticsearch can't be used",
                "it looks like https://USER:PASSWORD@HOST:9200 (INSTACHAT_ELASTICSEARCH_URL)",
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

    @contextmanager
    def translate_errors(self, name: str | None = None) -> "Iterator[Elasticsearch]":
        """The library's client, for requests whose errors become those of `backend.domain.errors`.

        With the name of an index, that index being absent becomes IndexMissing.
        """
        from elasticsearch import ApiError, TransportError, UnsupportedProductError

        try:
            yield self.client
        except ApiError as error:
            status = error.meta.status
            if name is not None and error.error == "index_not_found_exception":
                raise IndexMissing(name) from None
            if status in (401, 403, 502, 504):
                reason = f"it answers {status} {error.error or ''}".rstrip()
                raise self._engine_down(reason) from None
            if status in (429, 503):
                raise Unavailable(
                    f"Elasticsearch at {redact(self.url)} is busy or incomplete ({status})",
                    "try again; see its log",
                ) from None
            raise Failed(
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
                self._connected = self._connect()
            return self._connected

    def _connect(self) -> "Elasticsearch":
        # Importing the library takes 0.3 seconds; commands that do not search must not pay for it.
        from elasticsearch import Elasticsearch

        parts = urlsplit(self.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        base_url = urlunsplit((parts.scheme, f"{host}:{self._port}", parts.path, "", ""))
        credentials = unquote(parts.username or ""), unquote(parts.password or "")
        options: dict[str, Any] = {}
        if self._api_key:
            options["api_key"] = self._api_key
        elif parts.username:
            options["basic_auth"] = credentials
        if parts.scheme == "https" and self._ca_file:
            if not self._ca_file.is_file():
                raise self._engine_down(
                    f"the certificate file {self._ca_file} does not exist", _CERTIFICATE_HINT
                )
            options["ca_certs"] = str(self._ca_file)
        try:
            return Elasticsearch(
                base_url,
                request_timeout=REQUEST_TIMEOUT_SECONDS,
                max_retries=0,  # the caller handles a lost reply
                retry_on_timeout=False,
                serializers={"application/json": _new_serializer()},
                **options,
            )
        except (OSError, ValueError) as error:  # the certificate file is unreadable or malformed
            raise self._translate_transport_error(error) from None

    def _translate_transport_error(self, error: BaseException) -> EngineDown:
        reason = _first_line(error)
        return self._engine_down(reason, _CERTIFICATE_HINT if "certificate" in reason else None)

    def _engine_down(self, reason: str, hint: str | None = None) -> EngineDown:
        url = redact(self.url)
        return EngineDown(
            f"Elasticsearch at {url} can't be used: {reason}",
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
