"""Write the live counters into SQL."""

from typing import TYPE_CHECKING, Annotated

import typer

from backend.domain.plurals import counted
from instachat_cli.console.invocation import not_audited
from instachat_cli.console.options import Output, parse_duration
from instachat_cli.console.output import Body, Printer
from instachat_cli.console.stderr import stderr
from instachat_cli.runtime.context import backend_context

if TYPE_CHECKING:
    from backend.bootstrap import Backend

MAX_LAG_SECONDS = 3_600
All = Annotated[bool, typer.Option("--all", help="Compare every counter, not only changed ones.")]
Check = Annotated[
    bool, typer.Option("--check", help="Write nothing; exit 4 if SQL is too far behind.")
]
MaxLag = Annotated[
    int | None,
    typer.Option(
        metavar="TIME", help="Maximum lag that --check accepts; default 1h.", parser=parse_duration
    ),
]


@not_audited
def sync_counters(
    all_: All = False, check: Check = False, max_lag: MaxLag = None, output: Output = None
) -> None:
    """Write the live counters into SQL.

    $ instachat sync-counters
    $ instachat sync-counters --check --max-lag 1h

    Writes the counters that changed since the last sync. Suited to cron, although each worker syncs hourly by
    itself. Safe to run concurrently and to interrupt. Prints the old and the new value of each updated count.
    After Redis was restarted or replaced, all counters are compared, as with --all.
    """
    from backend.domain.errors import Invalid

    if check and all_:
        raise Invalid("--check and --all exclude each other")
    if max_lag is not None and not check:
        raise Invalid("--max-lag requires --check", "add `--check`, or leave out `--max-lag`")
    with backend_context() as core:
        if check:
            _check(core, Printer(output), MAX_LAG_SECONDS if max_lag is None else max_lag)
        else:
            _sync(core, Printer(output), everything=all_)


def _sync(core: "Backend", printer: Printer, *, everything: bool) -> None:
    from instachat_cli.console.exit_codes import Interrupted

    written = 0
    try:
        with printer.stream(_sentence) as emit:
            for count in core.counter_sync.sync(everything=everything):
                token, chat = count.parent
                token = core.tokens.current(token)
                emit({"token": token, "chat": chat, "old": count.old, "new": count.new})
                written += 1
    except KeyboardInterrupt:
        message = (
            f"interrupted; {counted(written, 'count was', 'counts were')} written, the rest are written by"
            " the next sync"
        )
        raise Interrupted(message) from None
    stderr.note(f"{counted(written, 'count')} written" if written else "all counts were current")


def _check(core: "Backend", printer: Printer, max_lag: int) -> None:
    from backend.domain.errors import CheckFailed, NodeDown
    from backend.domain.shards_away import ShardsAway

    lag = core.counter_sync.lag()
    shards = core.database.installation.all_shards
    dirty = 0
    away = ShardsAway()
    for shard, count in core.log.try_count_dirty(shards).items():
        if isinstance(count, NodeDown):
            away[shard] = count
        else:
            dirty += count
    body: Body = {
        "lag_seconds": round(lag, 3),
        "max_lag_seconds": max_lag,
        "counters_not_synced": dirty,
        "shards_away": list(away),
    }
    printer.outcome(
        body,
        f"SQL is {lag:,.0f} s behind; {counted(dirty, 'count is', 'counts are')} not written yet",
    )
    if away:
        raise away.error(len(shards), "their counts are not checked")
    if lag > max_lag:
        raise CheckFailed(
            f"the oldest count that SQL does not have is {lag:,.0f} s old; the limit is {max_lag:,} s",
            "run `instachat sync-counters`; a worker does that every hour (see `instachat status`)",
        )


def _sentence(body: Body) -> str:
    what = "chats" if body["chat"] is None else f"messages of chat {body['chat']}"
    return f"{body['token']}: {what} {body['old']} → {body['new']}"
