"""Reindexing, including the comparison and the swap, against the ceiling of Elasticsearch's bulks."""

from collections.abc import Iterator

from instachat_cli.bench.harness.elasticsearch import SearchEnvironment
from instachat_cli.bench.harness.environment import Environment
from instachat_cli.bench.harness.messages import store_messages
from instachat_cli.bench.harness.paired_run import Goal, Row, Side, run_pairs

GOAL = Goal(must=0.8)


def measure(env: Environment) -> Iterator[Row]:
    """Reindex, from the first row until searches read the new index."""
    elastic = SearchEnvironment(env)
    reindexer = env.backend.reindexer
    assert reindexer is not None
    elastic.reset_index()
    count = env.scale.reindexed
    store_messages(env, count)
    yield run_pairs(
        "reindex",
        f"{count:,} messages; copied, compared key by key, and swapped in; the ceiling only sends prebuilt"
        " bulks of the same documents to an index of the same kind",
        Side("reindex", reindexer.build, count),
        elastic.ceiling_side(elastic.prebuilt_requests(count), count),
        pairs=env.scale.long_pairs,
        goal=GOAL,
    )
