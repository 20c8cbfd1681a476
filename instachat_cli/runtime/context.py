"""Access to the core for a command, and notices about things that delay its effect."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from backend.domain.errors import InstaChatError
from instachat_cli.console.stderr import stderr

if TYPE_CHECKING:
    from backend.bootstrap import Backend


@contextmanager
def backend_context() -> Iterator["Backend"]:
    """The backend of the environment's settings, closed at the end; what it is used for is audited."""
    gc.disable()  # while all is loaded, which becomes no garbage: collections take a twelfth of the start
    try:
        from backend.bootstrap import open_backend
        from backend.settings import load
        from instachat_cli.runtime import logging_setup
        from instachat_cli.runtime.audit import recorded

        logging_setup.log_notices_to_stderr()
        began = time.monotonic()
        with open_backend(load()) as core, recorded(lambda: core.audit_trail):
            # The garbage collector need not walk what is loaded by now: `reindex --check` of 400,000
            # messages takes 1.8 s instead of 2.9.
            gc.freeze()
            gc.enable()
            opened = time.monotonic()
            if stderr.verbose:
                _describe(core)
            try:
                yield core
            finally:
                done = time.monotonic()
                stderr.detail(
                    f"opened in {opened - began:.3f} s, done in {done - opened:.3f} s more"
                )
    finally:
        gc.enable()


def _describe(core: "Backend") -> None:
    """Write the details of what a command works on; no password is among them."""
    from backend.settings import redact

    durability = core.settings.durability
    searching = core.settings.elasticsearch_url
    stderr.detail(f"PostgreSQL: {redact(core.database.url)}")
    stderr.detail(f"Redis: {redact(core.log.url)}, durability {durability}")
    stderr.detail(f"searches: {redact(searching) if searching else 'PostgreSQL'}")


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
