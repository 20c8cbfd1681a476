"""Which node of a cluster gets the next request."""

import pytest
from elastic_transport import BaseNode, NodeConfig, Urllib3HttpNode

from backend.storage.elasticsearch import failover
from backend.storage.elasticsearch.failover import FailoverPool


class Clock:
    """The monotonic clock, which only the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(failover, "time", clock)
    return clock


def new_pool(nodes: int = 3) -> FailoverPool:
    """A pool of nodes that no request reaches."""
    return FailoverPool(
        [NodeConfig("http", "127.0.0.1", port) for port in range(1, nodes + 1)], Urllib3HttpNode
    )


def chosen(pool: FailoverPool, requests: int) -> set[BaseNode]:
    return {pool.get() for _ in range(requests)}


def test_working_nodes_are_chosen_in_turn() -> None:
    pool = new_pool()
    assert len(chosen(pool, 3)) == 3


def test_one_request_tries_a_node_whose_pause_is_over(clock: Clock) -> None:
    """The pause doubles up to its maximum, and ends with an answer."""
    pool = new_pool()
    node = pool.get()
    pool.mark_dead(node)
    for pause in (1, 2, 4, 8, 10, 10):
        clock.now += pause - 0.1
        assert node not in chosen(pool, 6)
        clock.now += 0.2
        assert pool.get() is node
        assert node not in chosen(pool, 6)  # while that request waits
        pool.mark_dead(node)
    clock.now += 11
    assert pool.get() is node
    pool.mark_answered(node.config)
    assert node in chosen(pool, 3)


def test_requests_that_fail_together_count_once(clock: Clock) -> None:
    pool = new_pool()
    node = pool.get()
    for _ in range(50):
        pool.mark_dead(node)
    clock.now += 1.1
    assert pool.get() is node


def test_a_request_that_tells_nothing_leaves_its_node_to_a_later_one(clock: Clock) -> None:
    """It was ended, say."""
    pool = new_pool()
    node = pool.get()
    pool.mark_dead(node)
    clock.now += 1.1
    assert pool.get() is node
    clock.now += 1.1
    assert pool.get() is node


def test_nodes_are_tried_in_turn_while_none_works(clock: Clock) -> None:
    pool = new_pool()
    for _ in range(3):
        pool.mark_dead(pool.get())
    for _ in range(2):
        found = []
        for _ in range(3):
            clock.now += 0.01
            found.append(pool.get())
            pool.mark_dead(found[-1])
        assert len(set(found)) == 3
    clock.now += 0.01
    node = pool.get()
    pool.mark_live(node)
    assert chosen(pool, 5) == {node}


def test_a_single_node_is_always_chosen(clock: Clock) -> None:
    assert clock.now
    pool = new_pool(1)
    node = pool.get()
    pool.mark_dead(node)
    assert chosen(pool, 3) == {node}
