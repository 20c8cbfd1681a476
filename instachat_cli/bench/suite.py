"""All benchmarks by name, in the order of the report, and the function that runs them.

A benchmark is a module in `cases/`. Its `measure` takes the `Environment` and yields a `Row` for each line
of the table, in most cases made by `run_pairs`. Add it to the list below, and to `NEEDS_ELASTICSEARCH` if it
needs Elasticsearch. Put its sizes into `Scale`, so that the tests can run it at a tiny size.
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
    reads,
    reconcile,
    reindex,
    searchable,
    searches,
    startup,
    stream,
)
from instachat_cli.bench.harness.environment import Environment, Scale, open_environment
from instachat_cli.bench.harness.facts import collect_facts
from instachat_cli.bench.harness.paired_run import Row

BENCHMARKS: dict[str, Callable[[Environment], Iterator[Row]]] = {
    "drain-jobs": drain_jobs.measure,
    "drain-copy": drain_copy.measure,
    "accept": accept.measure,
    "http": http.measure,
    "reads": reads.measure,
    "reconcile": reconcile.measure,
    "startup": startup.measure,
    "sync": counter_sync.measure,
    "stream": stream.measure,
    "publish": publish.measure,
    "reindex": reindex.measure,
    "million": million.measure,
    "searchable": searchable.measure,
    "searches": searches.measure,
    "reconcile-index": reconcile.measure_with_index,
}
NEEDS_ELASTICSEARCH = frozenset(
    {"publish", "reindex", "million", "searchable", "searches", "reconcile-index"}
)
"""The benchmarks that run with Elasticsearch if its URL is set; the others always run without it."""


def run_benchmarks(
    settings: Settings,
    names: Sequence[str],
    scale: Scale,
    on_row: Callable[[Row], object],
) -> tuple[list[Row], dict[str, str]]:
    """Run benchmarks and pass each row to `on_row`; returns all rows, and the machine's facts.

    Each benchmark has an environment of its own, so that none finds data of another.
    """
    rows: list[Row] = []
    facts: dict[str, str] = {}
    plain = settings.model_copy(update={"elasticsearch_url": None})
    for name in names:
        with open_environment(settings if name in NEEDS_ELASTICSEARCH else plain, scale) as env:
            facts |= collect_facts(env.backend)
            for row in BENCHMARKS[name](env):
                on_row(row)
                rows.append(row)
    return rows, facts
