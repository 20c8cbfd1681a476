"""A command's hold on the core: opened late, and closed whatever happens."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from backend.domain.errors import InstaChatError
from instachat_cli.console.stderr import stderr

if TYPE_CHECKING:
    from backend.bootstrap import Backend, EngineUrls


@contextmanager
def backend_context() -> Iterator["Backend"]:
    """The backend of the environment's settings."""
    from backend.bootstrap import open_backend
    from backend.settings import load
    from instachat_cli.console import logs

    logs.log_notices_to_stderr()
    with open_backend(load()) as core:
        # What is loaded by now stays. If collections need not walk it again and again, `reindex --check` of
        # 400,000 messages takes 1.8 s instead of 2.9.
        gc.freeze()
        yield core


@contextmanager
def engine_urls_context() -> Iterator["EngineUrls"]:
    """Only the engines of the environment's settings, whatever is or isn't in them."""
    from backend import bootstrap
    from backend.settings import load
    from instachat_cli.console import logs

    logs.log_notices_to_stderr()
    with bootstrap.engine_urls(load()) as found:
        yield found


def note_unstored(core: "Backend", token: str) -> None:
    """Say so if what was accepted for an application waits for a worker, and none runs, or may work."""
    with suppress(InstaChatError):
        paused = core.log.paused()
        if core.log.count_workers() and not paused:
            return
        shards = core.database.installation.shards
        if not core.log.lengths(shards)[core.counters.shard(token)]:
            return
        if paused:
            stderr.note(
                "the job queue is paused: what is accepted stays accepted, and is stored after"
                " `instachat queue resume`"
            )
        else:
            stderr.note(
                "no worker is running: what is accepted stays accepted, and is stored once one runs;"
                " start one by `instachat worker` or `instachat up`"
            )


def note_unsearchable(core: "Backend") -> None:
    """Say so if what is stored waits to become searchable, and no worker is running that would see to it."""
    from backend.storage.postgres import outbox

    with suppress(InstaChatError):
        if core.index is None or core.log.count_workers():
            return
        with core.database.connect() as connection:
            messages = outbox.lag(connection).messages
        if messages:
            stderr.note(
                f"no worker is running: {messages:,} messages are not searchable yet;"
                " start one by `instachat worker` or `instachat up`"
            )


def warn_if_not_durable(core: "Backend") -> None:
    """Say so if a given Redis is set so that it may lose what was just answered."""
    from backend.bootstrap import durability_faults

    if core.settings.redis_url is None:
        return
    with suppress(InstaChatError):
        if faults := durability_faults(core.settings, core.log):
            stderr.warning(
                f"this Redis does not keep what INSTACHAT_DURABILITY={core.settings.durability}"
                f" promises ({', '.join(faults)}): see `instachat doctor`"
            )
