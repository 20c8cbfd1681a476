"""All benchmarks by name, in the order of the report, and how they are run."""

from collections.abc import Callable, Iterator, Sequence

from backend.settings import Settings
from instachat_cli.bench import accept, drain_copy, drain_jobs, startup, sync
from instachat_cli.bench.duel import Row
from instachat_cli.bench.facts import facts
from instachat_cli.bench.ground import Ground, Scale, ground

BENCHMARKS: dict[str, Callable[[Ground], Iterator[Row]]] = {
    "drain-jobs": drain_jobs.measure,
    "drain-copy": drain_copy.measure,
    "accept": accept.measure,
    "startup": startup.measure,
    "sync": sync.measure,  # last: it leaves a million chats to the others
}


def run(
    settings: Settings,
    names: Sequence[str],
    scale: Scale,
    tell: Callable[[Row], object],
) -> tuple[list[Row], dict[str, str]]:
    """Run benchmarks, telling each row as it comes; returns all rows, and the facts of the machine."""
    rows: list[Row] = []
    with ground(settings, scale) as where:
        known = facts(where.backend)
        for name in names:
            for row in BENCHMARKS[name](where):
                tell(row)
                rows.append(row)
    return rows, known
