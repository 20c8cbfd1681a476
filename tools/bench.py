"""`make bench`: every benchmark; those of Elasticsearch on a node of their own, where one can be had.

A given INSTACHAT_ELASTICSEARCH_URL comes first. Otherwise the tests' node is started, set to be as quick as
it can; on a machine without Java, those benchmarks say that they are left out.
"""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parents[1]
URL = "INSTACHAT_ELASTICSEARCH_URL"
sys.path.insert(0, str(ROOT))

from tests.elastic.node import ElasticsearchServer  # noqa: E402
from tests.elastic.provision import NotHere, installation  # noqa: E402


def main() -> int:
    """Run them with this program's arguments; returns the exit code."""
    with ExitStack() as stack:
        if URL not in os.environ:
            try:
                node = ElasticsearchServer(installation(), heap="1g", quick=False)
                stack.callback(node.remove)
                node.start()
                os.environ[URL] = node.url
            except NotHere as reason:
                print(f"no Elasticsearch for the benchmarks: {reason}", file=sys.stderr)
        return subprocess.call(
            [sys.executable, "-m", "instachat_cli", "bench", "ceilings", *sys.argv[1:]], cwd=ROOT
        )


if __name__ == "__main__":
    sys.exit(main())
