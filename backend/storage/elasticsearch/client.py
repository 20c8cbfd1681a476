"""The connection to Elasticsearch, and its errors in our words. What is asked of it is `index`'s business.

Nothing is retried: whether to ask again is for the caller to say.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from backend.domain.errors import EngineDown, Failed, Unavailable
from backend.settings import redact

if TYPE_CHECKING:
    from elasticsearch import Elasticsearch

REQUEST_TIMEOUT_SECONDS = 4.0

# Each request would be a line, and each failure a warning: ours come with the exceptions.
logging.getLogger("elastic_transport").setLevel(logging.ERROR)


class IndexMissing(Failed):
    """Elasticsearch does not have an index that it should have; `name` says which."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the search index {name} is not in Elasticsearch", "run `instachat reindex`"
        )
        self.name = name


class ElasticsearchClient:
    """An Elasticsearch. Thread-safe; connected when it is first used.

    Every use raises EngineDown when it does not answer or refuses who asks, Unavailable when it can't
    do it now.
    """

    def __init__(
        self, url: str, *, api_key: str | None = None, ca_file: Path | None = None
    ) -> None:
        """Raises Failed for a URL that can't be used. An API key wins over a password in the URL."""
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

    def version(self) -> str:
        """Its version, the oldest of its nodes'; `unknown` to who may not ask."""
        with self._translate_errors() as client:
            from elasticsearch import AuthorizationException

            try:
                answer = client.nodes.info(filter_path="nodes.*.version")
            except AuthorizationException:
                return "unknown"
            versions: list[str] = [node["version"] for node in answer["nodes"].values()]
            return min(versions, key=lambda version: [int(part) for part in version.split(".")[:2]])

    @property
    def _client(self) -> "Elasticsearch":
        with self._lock:
            if self._connected is None:
                self._connected = self._connect()
            return self._connected

    def _connect(self) -> "Elasticsearch":
        # Importing it takes a third of a second, which only who needs it is to pay.
        from elasticsearch import Elasticsearch

        from backend.storage.elasticsearch.json_serializer import MsgspecSerializer

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
                raise self._engine_down(f"the certificate file {self._ca_file} is not there")
            options["ca_certs"] = str(self._ca_file)
        try:
            return Elasticsearch(
                base_url,
                request_timeout=REQUEST_TIMEOUT_SECONDS,
                max_retries=0,  # a lost answer is ours to deal with
                retry_on_timeout=False,
                serializers={"application/json": MsgspecSerializer()},
                **options,
            )
        except (OSError, ValueError) as error:  # a certificate file that can't be read, or is none
            raise self._engine_down(_reason(error)) from None

    @contextmanager
    def _translate_errors(self, name: str | None = None) -> "Iterator[Elasticsearch]":
        from elasticsearch import ApiError, TransportError, UnsupportedProductError

        try:
            yield self._client
        except ApiError as error:
            status = error.meta.status
            if name is not None and error.error == "index_not_found_exception":
                raise IndexMissing(name) from None
            if status in (401, 403) or status in (502, 504):
                raise self._engine_down(
                    f"it answers {status} {error.error or ''}".rstrip()
                ) from None
            if status in (429, 503):
                raise Unavailable(
                    f"Elasticsearch at {redact(self.url)} is busy or not complete ({status})",
                    "try again; see its log",
                ) from None
            raise Failed(
                f"Elasticsearch at {redact(self.url)} refuses: {status} {error.error}",
                "see its log; `instachat doctor` knows the common reasons",
            ) from None
        except UnsupportedProductError:
            raise self._engine_down("what answers is not an Elasticsearch") from None
        except TransportError as error:
            raise self._engine_down(_reason(error)) from None

    def _engine_down(self, reason: str) -> EngineDown:
        url = redact(self.url)
        hint = f"check it with `curl {url}/_cluster/health`; the setting is INSTACHAT_ELASTICSEARCH_URL"
        if "certificate" in reason:
            hint = (
                "INSTACHAT_ELASTICSEARCH_CA_FILE names the file of who signed its certificate (PEM)"
            )
        return EngineDown(f"Elasticsearch at {url} can't be used: {reason}", hint)


def _reason(error: BaseException) -> str:
    """Why there was no answer, in one line; the client names the connection before it."""
    message = str(getattr(error, "message", error)).partition("\n")[0]
    return message.partition("): ")[2] or message or type(error).__name__
