"""Runs a command with Elasticsearch, as `make bench` does.

python -m tests.support.elasticsearch.run_beside COMMAND…

It starts a node and sets INSTACHAT_ELASTICSEARCH_URL, unless that is already set. If Elasticsearch is not
available, the command runs without it.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.support.elasticsearch.nodes import new_node
from tests.support.elasticsearch.provision import NotAvailable

URL = "INSTACHAT_ELASTICSEARCH_URL"


def main(command: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    with _elasticsearch() as environment:
        process = subprocess.Popen(command, env=os.environ | environment)
        while True:
            try:
                return process.wait()
            except (
                KeyboardInterrupt
            ):  # the terminal sends it to the command as well, which ends by itself
                continue


@contextmanager
def _elasticsearch() -> Iterator[dict[str, str]]:
    if os.environ.get(URL):
        yield {}
        return
    try:
        node = new_node(fast_start=False, heap="1g")
    except NotAvailable as reason:
        sys.stderr.write(
            f"Elasticsearch is not available ({reason}): the parts that need it are skipped.\n"
        )
        yield {}
        return
    try:
        node.start()
        yield {URL: node.url}
    finally:
        node.remove()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
