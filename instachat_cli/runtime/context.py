"""Access to the core for a command, and notices about things that delay its effect."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from backend.domain.errors import InstaChatError
from instachat_cli.console.stderr import stderr

if TYPE_CHECKING:
    from backend.bootstrap import Backend, EngineUrls
    from backend.settings import Settings
    from backend.storage.redis.log import Log
    from backend.storage.redis.workers import Workers
    from instachat_cli.runtime.reads import Reads


@contextmanager
def backend_context() -> Iterator["Backend"]:
    """The backend of the environment's settings, closed at the end; what it is used for is audited."""
    with ExitStack() as stack:
        with loading():
            from backend.bootstrap import engine_urls, open_checked
            from backend.settings import load
            from instachat_cli.runtime import logging_setup
            from instachat_cli.runtime.audit import recorded

            logging_setup.log_notices_to_stderr()
            began = time.monotonic()
            settings = load()
            urls = stack.enter_context(engine_urls(settings))
            core = stack.enter_context(open_checked(settings, urls))
            stack.enter_context(recorded(lambda: core.audit_trail))
        describe(settings, urls)
        with _timed(began):
            yield core


@contextmanager
def reads_context() -> Iterator["Reads"]:
    """The reads of the environment's settings, for a command that changes nothing."""
    with ExitStack() as stack:
        with loading():
            from backend.settings import load
            from instachat_cli.runtime import logging_setup
            from instachat_cli.runtime.reads import open_reads

            logging_setup.log_notices_to_stderr()
            began = time.monotonic()
            reads = stack.enter_context(open_reads(load()))
        with _timed(began):
            yield reads


@contextmanager
def loading() -> Iterator[None]:
    """Collect no garbage while the program is loaded, which becomes none, and do not walk it afterwards.

    Collections take a twelfth of the start; `reindex --check` of 400,000 messages takes 1.8 s instead of 2.9.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


@contextmanager
def _timed(began: float) -> Iterator[None]:
    """Write how long a command has taken that began then, and was opened now."""
    opened = time.monotonic()
    try:
        yield
    finally:
        done = time.monotonic()
        stderr.detail(f"opened in {opened - began:.3f} s, done in {done - opened:.3f} s more")


def describe(settings: "Settings", urls: "EngineUrls") -> None:
    """Write the details of what a command works on; no password is among them."""
    if not stderr.verbose:
        return
    from backend.settings import redact

    searching = settings.elasticsearch_url
    stderr.detail(f"PostgreSQL: {redact(urls.database)}")
    stderr.detail(f"Redis: {redact(urls.redis)}, durability {settings.durability}")
    stderr.detail(f"searches: {redact(searching) if searching else 'PostgreSQL'}")


def note_unstored(core: "Backend", token: str) -> None:
    """Write a note if the application's accepted events wait."""
    note_waiting(core.workers, core.log, lambda: core.counters.shard(token))


def note_waiting(workers: "Workers", log: "Log", shard: Callable[[], int]) -> None:
    """Write a note if the accepted events of a shard wait: no worker runs, or the queue is paused."""
    with suppress(InstaChatError):
        paused = workers.paused()
        if workers.count() and not paused:
            return
        if not log.waiting([shard()]):
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
