"""Reindexing, against the ceiling of Elasticsearch's bulks: all of it, comparing and turning included."""

from collections.abc import Iterator

from instachat_cli.bench.cases.million import fill
from instachat_cli.bench.harness.elasticsearch import Elastic
from instachat_cli.bench.harness.environment import Ground
from instachat_cli.bench.harness.paired_run import Goal, Row, Side, duel

GOAL = Goal(must=0.8)


def measure(ground: Ground) -> Iterator[Row]:
    """From the first row to searches reading the other index."""
    elastic = Elastic(ground)
    reindexer = ground.backend.reindexer
    assert reindexer is not None
    elastic.renew()
    count = ground.scale.reindexed
    fill(ground, count)
    yield duel(
        "reindex",
        f"{count:,} messages; copied, compared key by key, and turned to; the ceiling only sends the same"
        " documents, made before, to an index of the same kind",
        Side("reindex", reindexer.build, count),
        elastic.ceiling(elastic.prebuilt(count), count),
        pairs=ground.scale.long_pairs,
        goal=GOAL,
    )
