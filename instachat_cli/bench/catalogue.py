"""All benchmarks by name, in the order of the report, and how they are run."""

from collections.abc import Callable, Iterator, Sequence

from backend.settings import Settings
from instachat_cli.bench import (
    accept,
    drain_copy,
    drain_jobs,
    million,
    publish,
    reconcile,
    reindex,
    searchable,
    startup,
    sync,
)
from instachat_cli.bench.duel import Row
from instachat_cli.bench.facts import facts
from instachat_cli.bench.ground import Ground, Scale, ground

BENCHMARKS: dict[str, Callable[[Ground], Iterator[Row]]] = {
    "drain-jobs": drain_jobs.measure,
    "drain-copy": drain_copy.measure,
    "accept": accept.measure,
    "reconcile": reconcile.measure,
    "startup": startup.measure,
    "sync": sync.measure,  # last: it leaves a million chats to the others
}
WITH_ELASTICSEARCH: dict[str, Callable[[Ground], Iterator[Row]]] = {
    "publish": publish.measure,
    "reindex": reindex.measure,
    "million": million.measure,
    "searchable": searchable.measure,
    "reconcile-index": reconcile.measure_with_index,  # last: it fills the index anew
}


def run(
    settings: Settings,
    names: Sequence[str],
    scale: Scale,
    tell: Callable[[Row], object],
) -> tuple[list[Row], dict[str, str]]:
    """Run benchmarks, telling each row as it comes; returns all rows, and the facts of the machine.

    Those that need an Elasticsearch come last, on another ground: on the first, nothing is noted for it.
    """
    rows: list[Row] = []
    known: dict[str, str] = {}
    plain = settings.model_copy(update={"elasticsearch_url": None})
    for benchmarks, given in ((BENCHMARKS, plain), (WITH_ELASTICSEARCH, settings)):
        chosen = [measure for name, measure in benchmarks.items() if name in names]
        if not chosen:
            continue
        with ground(given, scale) as where:
            known |= facts(where.backend)
            for measure in chosen:
                for row in measure(where):
                    tell(row)
                    rows.append(row)
    return rows, known
