"""The simulation of many applications."""

import pytest

from tools.simulate_shards import SHARDS, Sizes, by_load, by_slots, distribute, report


def test_each_application_and_its_load_are_in_one_shard() -> None:
    """A seed gives the same tokens again."""
    found = distribute(2_000, 1.0, seed=1)
    assert sum(found.applications) == 2_000
    assert sum(found.load) == pytest.approx(1)
    assert found == distribute(2_000, 1.0, seed=1)
    assert found != distribute(2_000, 1.0, seed=2)


def test_a_steeper_law_makes_the_busiest_shard_busier() -> None:
    assert max(distribute(2_000, 1.2, 1).load) > 2 * max(distribute(2_000, 0.5, 1).load)


@pytest.mark.parametrize("nodes", [1, 4, 16])
def test_equal_ranges_have_equally_many_shards(nodes: int) -> None:
    assert by_slots([1] * len(SHARDS), nodes) == [len(SHARDS) / nodes] * nodes


def test_shards_are_moved_to_the_node_that_has_the_least() -> None:
    load = [0.0] * len(SHARDS)
    load[:5] = [5, 4, 3, 2, 1]
    assert sorted(by_load(load, 3)) == [5, 5, 5]


def test_the_report_has_a_row_for_each_skew_and_number_of_nodes() -> None:
    lines = report(1_000, Sizes(application=100, chat=120, message=150)).splitlines()
    assert [line.split("|")[1:3] for line in lines[2:8]] == [
        [f" {skew} ", f" {nodes} "] for skew in (0.8, 1.0) for nodes in (4, 8, 16)
    ]
    assert "120 bytes for the counter of a chat" in lines[-1]
