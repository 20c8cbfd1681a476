"""Access to the core for a command, and notices about things that delay its effect."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from backend.domain.errors import InstaChatError
from instachat_cli.console.stderr import stderr

if TYPE_CHECKING:
    from backend.bootstrap import Backend


@contextmanager
def backend_context() -> Iterator["Backend"]:
    """The backend of the environment's settings, closed at the end."""
    from backend.bootstrap import open_backend
    from backend.settings import load
    from instachat_cli.runtime import logging_setup

    logging_setup.log_notices_to_stderr()
    with open_backend(load()) as core:
        # The garbage collector need not walk what is loaded by now: `reindex --check` of 400,000 messages
        # takes 1.8 s instead of 2.9.
        gc.freeze()
        yield core


def note_unstored(core: "Backend", token: str) -> None:
    """Write a note if the application's accepted events wait: no worker runs, or the queue is paused."""
    with suppress(InstaChatError):
        paused = core.workers.paused()
        if core.workers.count() and not paused:
            return
        if not core.log.waiting([core.counters.shard(token)]):
            return
        if paused:
            stderr.note(
                "the job queue is paused: accepted messages are stored after `instachat queue resume`"
            )
        else:
            stderr.note(
                "no worker is running: accepted messages are kept, and stored once a worker starts"
                " (`instachat worker` or `instachat up`)"
            )


def warn_if_not_durable(core: "Backend") -> None:
    """Write a warning if the configured Redis may lose acknowledged writes."""
    from backend.monitoring.durability import read_wrong_settings

    if core.settings.redis_url is None:
        return
    with suppress(InstaChatError):
        if wrong := read_wrong_settings(core.settings, core.log):
            stderr.warning(
                f"this Redis is configured too weakly for INSTACHAT_DURABILITY={core.settings.durability}"
                f" ({', '.join(map(str, wrong))}): see `instachat doctor`"
            )
