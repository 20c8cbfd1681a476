"""Erasure: after the commands of docs/erasure.md, no file of the private engines has a deleted text."""

import random
import re
import string
import uuid
from pathlib import Path

import pytest

from backend.bootstrap import Backend, open_backend
from backend.catalog.bulk_deletion import BulkDeletion
from backend.domain.errors import Unavailable
from backend.domain.events import pack_messages
from backend.domain.model import EntryId, MessageRange, Parent
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from backend.storage.redis.types import Creation
from tests.support.private_engines import eventually
from tests.support.redis_values import plant_epoch

ROOT = Path(__file__).parents[3]


def files_with(folder: Path, text: str) -> set[str]:
    """The files below a folder that contain a text, by the engine and the kind of file."""
    found = set()
    for path in folder.rglob("*"):
        try:
            has_text = path.is_file() and text.encode() in path.read_bytes()
        except OSError:  # deleted meanwhile, or a socket
            continue
        if has_text:
            found.add(re.sub(r"[0-9.]+", "", "/".join(path.relative_to(folder).parts[:3])))
    return found


def plant(core: Backend, secret: str) -> str:
    """Store the secret in every place that a text can get into; returns the application's token."""
    token = core.catalog.applications.create("erasure").token
    core.acceptor.accept(AcceptRequest.chats(token))
    # What does not fit into a row's page is stored elsewhere; nothing of it can be compressed.
    long = "".join(random.choices(string.printable, k=9_000))
    texts = [f"{secret} deleted", f"{secret} edited", f"{long[:4_500]}{secret}{long[4_500:]}"]
    core.acceptor.accept(AcceptRequest.messages(token, 1, texts))
    payload = pack_messages(token, 1, [f"{secret}\0"])
    creation = Creation("messages", Parent(token, 1), payload)
    core.log.accept(core.counters.shard(token), [creation], EntryId(0, 0))
    core.drainer.drain_all()
    with core.database.connect() as connection:  # as PostgreSQL does by itself, in time
        connection.exec_driver_sql("ANALYZE message")
        connection.exec_driver_sql("CHECKPOINT")
    return token


def delete(core: Backend, token: str) -> None:
    """Delete and edit what has the secret, and discard its dead letter."""
    core.catalog.messages.edit(token, 1, 2, {"text": "changed"})
    core.catalog.messages.delete(token, 1, 1)
    list(BulkDeletion(core.catalog.messages).delete(Parent(token, 1), MessageRange(after=2)))
    for stored in list(core.dead_letters.all()):
        core.dead_letters.purge(stored.letter.key)


def test_no_file_of_the_private_engines_has_a_deleted_text(home: Path) -> None:
    """Before, the tables, the statistics, the write-ahead log and Valkey's file have it."""
    secret = f"secret-{uuid.uuid4().hex}"
    with open_backend(Settings(home=home)) as core:
        token = plant(core, secret)
        delete(core, token)
        assert {"postgres/base", "postgres/pg_wal", "valkey/appendonlydir"} <= {
            name.rpartition("/")[0] if name.count("/") > 1 else name
            for name in files_with(home, secret)
        }
        # As after a restart of Valkey, between two commands.
        plant_epoch(core.log, core.counters.shard(token), server="0" * 40)
        core.workers.pause()
        with pytest.raises(Unavailable, match="paused"):
            core.eraser.steps()[0].run()
        core.workers.resume()
        for step in core.eraser.steps():
            step.run()
        assert eventually(lambda: files_with(home, secret) == set()), files_with(home, secret)
        with core.database.connect() as connection:
            assert connection.exec_driver_sql("SHOW wal_recycle").scalar() == "on"
        core.acceptor.accept(AcceptRequest.messages(token, 1, ["later"]))
        core.drainer.drain_all()
        kept = [message.text for message in core.catalog.messages.list(token, 1)]
        assert kept == ["changed", "later"]
    assert files_with(home, secret) == set()
