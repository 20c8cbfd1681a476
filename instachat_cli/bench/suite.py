"""All benchmarks by name, in the order of the report, and how they are run.

A benchmark is a module in `cases/`: its function takes the `Environment` and yields a `Row` for each line of
the table, nearly always made by `run_pairs`. Add it to the list below, and to `NEEDS_ELASTICSEARCH` if it
needs Elasticsearch. How much it does belongs into `Scale`, so that the tests can run it at a tiny size.
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
from instachat_cli.bench.harness.environment import Environment, Scale, open_environment
from instachat_cli.bench.harness.facts import facts
from instachat_cli.bench.harness.paired_run import Row

BENCHMARKS: dict[str, Callable[[Environment], Iterator[Row]]] = {
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
NEEDS_ELASTICSEARCH = frozenset({"publish", "reindex", "million", "searchable", "reconcile-index"})
"""Those that have Elasticsearch beside them, where its URL is set; the others never do."""


def run_benchmarks(
    settings: Settings,
    names: Sequence[str],
    scale: Scale,
    on_row: Callable[[Row], object],
) -> tuple[list[Row], dict[str, str]]:
    """Run benchmarks, telling each row as it comes; returns all rows, and the facts of the machine.

    Each has a ground of its own, so that none finds what another has left.
    """
    rows: list[Row] = []
    machine_facts: dict[str, str] = {}
    plain = settings.model_copy(update={"elasticsearch_url": None})
    for name in names:
        with open_environment(settings if name in NEEDS_ELASTICSEARCH else plain, scale) as env:
            machine_facts |= facts(env.backend)
            for row in BENCHMARKS[name](env):
                on_row(row)
                rows.append(row)
    return rows, machine_facts
