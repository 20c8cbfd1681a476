"""Run a command with an Elasticsearch beside it, as `make bench` does.

python -m tests.support.elasticsearch.run_beside COMMAND…

INSTACHAT_ELASTICSEARCH_URL names it, unless it is set already. Where none is to be had, the command runs
without one.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.support.elasticsearch.node import ElasticsearchServer
from tests.support.elasticsearch.provision import NotAvailable, installation

URL = "INSTACHAT_ELASTICSEARCH_URL"


def main(command: Sequence[str]) -> int:
    """Run it; returns its exit code."""
    with _elasticsearch() as environment:
        process = subprocess.Popen(command, env=os.environ | environment)
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # the command has got it, too, and knows how to end
                continue


@contextmanager
def _elasticsearch() -> Iterator[dict[str, str]]:
    if os.environ.get(URL):
        yield {}
        return
    try:
        node = ElasticsearchServer(installation(), fast_start=False, heap="1g")
    except NotAvailable as reason:
        sys.stderr.write(f"There is no Elasticsearch here ({reason}): what needs it is left out.\n")
        yield {}
        return
    try:
        node.start()
        yield {URL: node.url}
    finally:
        node.remove()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
