"""All benchmarks by name, in the order of the report, and how they are run.

A new one is a file beside this one: a function that takes the `Ground` and yields a `Row` for each line of
the table, nearly always made by `duel`. Name it here; if it needs Elasticsearch or measures with it, in
`ON_AN_INDEX`, too. How much it does belongs into `Scale`, so that the tests can run it at a tiny size.
"""

from collections.abc import Callable, Iterator, Sequence

from backend.settings import Settings
from instachat_cli.bench.cases import (
    accept,
    counter_sync,
    drain_copy,
    drain_jobs,
    http,
    million,
    publish,
    reconcile,
    reindex,
    searchable,
    startup,
)
from instachat_cli.bench.harness.environment import Ground, Scale, ground
from instachat_cli.bench.harness.facts import facts
from instachat_cli.bench.harness.paired_run import Row

BENCHMARKS: dict[str, Callable[[Ground], Iterator[Row]]] = {
    "drain-jobs": drain_jobs.measure,
    "drain-copy": drain_copy.measure,
    "accept": accept.measure,
    "http": http.measure,
    "reconcile": reconcile.measure,
    "startup": startup.measure,
    "sync": counter_sync.measure,
    "publish": publish.measure,
    "reindex": reindex.measure,
    "million": million.measure,
    "searchable": searchable.measure,
    "reconcile-index": reconcile.measure_with_index,
}
ON_AN_INDEX = frozenset({"publish", "reindex", "million", "searchable", "reconcile-index"})
"""Those that have Elasticsearch beside them, where its URL is set; the others never do."""


def run(
    settings: Settings,
    names: Sequence[str],
    scale: Scale,
    tell: Callable[[Row], object],
) -> tuple[list[Row], dict[str, str]]:
    """Run benchmarks, telling each row as it comes; returns all rows, and the facts of the machine.

    Each has a ground of its own, so that none finds what another has left.
    """
    rows: list[Row] = []
    known: dict[str, str] = {}
    plain = settings.model_copy(update={"elasticsearch_url": None})
    for name in names:
        with ground(settings if name in ON_AN_INDEX else plain, scale) as where:
            known |= facts(where.backend)
            for row in BENCHMARKS[name](where):
                tell(row)
                rows.append(row)
    return rows, known
