"""The benchmarks of Elasticsearch: each gives sane rows at a tiny size, and leaves nothing behind."""

import json
from dataclasses import replace
from urllib.request import urlopen

import pytest

from instachat_cli.bench import suite
from instachat_cli.bench.harness.paired_run import Row
from tests.conftest import Engines
from tests.integration.bench.test_cases import TINY, left_behind
from tests.support.elasticsearch.fixtures import Elasticsearch
from tests.support.waiting import PATIENCE_SECONDS

SMALL = replace(
    TINY,
    reindexed=600,
    million=2_000,
    keywords=5,
    warm_seconds=0.1,
    long_pairs=2,
    steady_seconds=1.0,
)


def indices(node: Elasticsearch) -> set[str]:
    """All that a node has."""
    with urlopen(f"{node.url}/_alias", timeout=PATIENCE_SECONDS) as answer:
        return set(json.load(answer))


@pytest.mark.parametrize("name", sorted(suite.NEEDS_ELASTICSEARCH))
def test_each_gives_sane_rows_and_leaves_nothing(
    name: str, engines: Engines, elasticsearch: Elasticsearch
) -> None:
    """Every benchmark, whole, at a size where its numbers mean nothing."""
    settings = engines.settings(elasticsearch_url=elasticsearch.url)
    before = indices(elasticsearch)
    reported: list[Row] = []
    rows, facts = suite.run_benchmarks(settings, [name], SMALL, reported.append)
    assert rows == reported != []
    for row in rows:
        assert all(ours > 0 and baseline > 0 for ours, baseline in row.pairs)
        assert row.ratios[0] <= row.ratio <= row.ratios[-1]
    assert facts["Elasticsearch"].startswith("8.19")
    assert left_behind(settings) == []
    assert indices(elasticsearch) == before
