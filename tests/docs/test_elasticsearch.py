"""Runs docs/elasticsearch.md: every command works as shown, in order."""

import os
import re
import subprocess
import sys
from pathlib import Path

from backend.bootstrap import open_backend
from backend.ingest.requests import AcceptRequest
from tests.conftest import Engines
from tests.support.elasticsearch.fixtures import Elasticsearch
from tests.support.engines import free_port
from tests.support.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "elasticsearch.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:<!-- run: (\w+) -->\n)?```sh\n(.*?)```", re.DOTALL)


def test_the_commands_of_the_page_work_in_their_order(
    engines: Engines, elasticsearch: Elasticsearch
) -> None:
    """Elasticsearch is switched on with messages already stored, then checked, rebuilt and switched off."""
    settings = engines.settings()
    with open_backend(settings) as core:
        token = core.catalog.applications.create("test").token
        core.acceptor.accept(AcceptRequest.chats(token))
        core.acceptor.accept(AcceptRequest.messages(token, 1, ["good morning", "good night"]))
        core.drainer.drain_all()
    blocks = dict(BLOCK.findall(PAGE))
    assert "" not in blocks, "each is run"
    script = blocks["on"].replace("http://elastic.example:9200", elasticsearch.url)
    cluster = blocks["hosts"].replace(
        "http://elastic1.example:9200,elastic2.example:9200,elastic3.example:9200",
        f"{elasticsearch.url},127.0.0.1:{free_port()}",
    )
    assert "example" not in script + cluster
    outside = {k: v for k, v in os.environ.items() if not k.startswith("INSTACHAT_")}
    done = subprocess.run(
        [
            "bash",
            "-euc",
            script
            + blocks["anew"]
            + (blocks["look"] + cluster).replace("doctor", "doctor || true")
            + blocks["off"],
        ],
        env=outside
        | {
            "INSTACHAT_DATABASE_URL": str(settings.database_url),
            "INSTACHAT_REDIS_URL": str(settings.redis_url),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TOKEN": token,
        },
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"text": "good morning"' in done.stdout
    assert "good night" not in done.stdout
    assert '"not_searchable": 0' in done.stdout
    with open_backend(settings) as core:
        assert core.index is None
        hits = core.catalog.messages.search(token, 1, "morning")
        assert [hit.message.number for hit in hits] == [1]
