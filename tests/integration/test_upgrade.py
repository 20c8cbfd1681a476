"""A rolling upgrade under load: two releases beside each other, through migrations and restarts.

The next release is this tree with one more migration, and with a format of the log that this tree can't read.
`make upgrade FROM=COMMIT` takes another commit as the previous release instead.
"""

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from backend.bootstrap import open_unchecked
from backend.settings import Settings
from tests.conftest import Engines
from tests.support.faults.http_load import http_load
from tests.support.faults.scale_table import Record, record_audit
from tests.support.ledger import audit
from tests.support.releases import ROOT, Release, ReleaseProcess, ReleaseServer, run
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("upgrade")]

ANSWERS = 40  # of each server, between two steps
EXPAND = """
    ALTER TABLE message ADD COLUMN author text;
    ALTER TABLE chat ADD COLUMN pinned boolean NOT NULL DEFAULT false;
    ALTER TABLE application ADD COLUMN owner text;
    CREATE INDEX chat_pinned ON chat (id) WHERE pinned;
    CREATE TABLE author (name text PRIMARY KEY)"""
CONTRACT = "DROP TABLE reconciliation"


@pytest.mark.scale("Rolling upgrade: a migration under load, and restarts of both releases")
@pytest.mark.timeout(600)
def test_an_upgrade_under_load_loses_nothing_and_ends_only_what_is_not_admitted(
    engines: Engines, tmp_path: Path, record_property: Record
) -> None:
    """Servers and workers of both releases are restarted after the migration, one at a time.

    Every request is answered in the end, at most after a 503 that says when to try again. Another migration
    then admits the next release only: it ends the programs of the previous one, which do not start again.
    """
    old, new, last = releases(tmp_path)
    settings = Settings(database_url=engines.bare_database(), redis_url=engines.redis_database())
    assert run(old, settings, "migrate").returncode == 0
    old_server = ReleaseServer(old, settings, tmp_path)
    new_server = ReleaseServer(new, settings, tmp_path)
    old_worker = ReleaseProcess(old, settings, tmp_path, "worker")
    new_worker = ReleaseProcess(new, settings, tmp_path, "worker")
    with ExitStack() as stack:
        for process in (old_server, new_server, old_worker, new_worker):
            stack.callback(process.remove)
        old_server.start()
        old_worker.start()
        with http_load(old_server, tmp_path) as load:
            load.wait_answers(ANSWERS)
            assert run(new, settings, "migrate").returncode == 0
            load.wait_answers(ANSWERS)  # the previous release continues
            new_worker.start()  # before a server writes what older workers leave in the log
            new_server.start()
            load.servers.append(new_server)
            old_worker.restart(signal.SIGTERM)
            load.wait_answers(ANSWERS)
            old_server.restart(signal.SIGTERM)
            load.wait_answers(ANSWERS)
            new_worker.restart(signal.SIGKILL)
            new_server.restart(signal.SIGTERM)
            load.wait_answers(ANSWERS)

            assert run(last, settings, "migrate").returncode == 0
            load.servers.remove(old_server)
            for process in (old_server, old_worker):
                assert process.wait() == 5, process.output
                process.start()
                assert process.wait() == 5, process.output
                refusal = f"error: this program has schema {old.schema}, the database admits"
                assert process.output.count(f"{refusal} programs since {new.schema}") == 2
            load.wait_answers(ANSWERS)

        with open_unchecked(settings) as core:
            wait_until(lambda: not core.log.waiting(core.database.installation.shards))
            result = audit(core, load.ledgers)
            texts = {m.number: m.text for m in core.catalog.messages.list(*load.edited_chat)}
    record_audit(record_property, result)
    assert result.faults == {}
    assert result.answered > 5 * ANSWERS
    assert texts == load.edited


def releases(folder: Path) -> tuple[Release, Release, Release]:
    """The previous release, the next one, and one that does not admit the previous one."""
    here = Release(ROOT)
    old = Release(Path(os.environ.get("INSTACHAT_PREVIOUS_TREE", ROOT)))
    new = here if here.schema > old.schema else here.next(folder / "new", EXPAND)
    return old, new, new.next(folder / "last", CONTRACT, compatible_since=new.schema)
