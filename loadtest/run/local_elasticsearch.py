"""An Elasticsearch of this machine that a private installation may use, so that a run can make it hang.

A fault reaches everything else that uses it. So it must have no index before the run, it must not be served
through a proxy such as Docker's, and the run's indices are deleted at its end.
"""

import json
from typing import Any

import urllib3

from loadtest.errors import Unusable
from loadtest.run.local_processes import listening_process

MAIN_CLASS = "org.elasticsearch"  # part of its command line
INDEX_PREFIX = "instachat-"
TIMEOUT_SECONDS = 10.0


class LocalElasticsearch:
    """An Elasticsearch that only the run uses. Raises Unusable if it may have other users."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._pool = urllib3.PoolManager(retries=False, timeout=TIMEOUT_SECONDS)
        process = listening_process(self.url)
        if process is None:
            raise Unusable(
                "a fault of elasticsearch needs one that runs on this machine:"
                " no process is seen to listen at INSTACHAT_ELASTICSEARCH_URL"
            )
        if not any(MAIN_CLASS in word for word in process.cmdline()):
            raise Unusable(
                f"a fault of elasticsearch would reach `{process.name()}`, which listens at"
                " INSTACHAT_ELASTICSEARCH_URL: it must be Elasticsearch itself, not a container's proxy"
            )
        self.processes = [process]
        if indices := self._indices():
            raise Unusable(
                f"a fault of elasticsearch would reach what else uses it: it has the index"
                f" {min(indices)!r}; start an empty one for this run"
            )

    def remove_indices(self) -> None:
        """Delete the indices of the run."""
        for index in self._indices():
            if index.startswith(INDEX_PREFIX):
                self._request("DELETE", f"/{index}")

    def _indices(self) -> list[str]:
        """Every index but those of Elasticsearch itself."""
        found = self._request("GET", "/_cat/indices?format=json&h=index&expand_wildcards=all")
        return [row["index"] for row in found if not row["index"].startswith(".")]

    def _request(self, method: str, path: str) -> Any:
        try:
            answer = self._pool.request(method, self.url + path)
        except urllib3.exceptions.HTTPError:
            raise Unusable("Elasticsearch does not answer") from None
        if answer.status != 200:
            raise Unusable(
                f"Elasticsearch answers {answer.status} to {method} {path.split('?')[0]}"
            )
        return json.loads(answer.data)
