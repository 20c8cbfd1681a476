"""The checker names each kind of fault of a faulty server, and finds none in a server that is right."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.histories import register
from tests.support.histories.checker import check
from tests.support.histories.exchanges import Exchange, read_history, write_history
from tests.support.histories.faulty_server import DirectClient, FaultyServer, http_server
from tests.support.histories.http_client import HttpClient
from tests.support.histories.recorder import Recorder
from tests.support.histories.violations import Kind
from tests.support.histories.workload import Workload

EXCHANGES = 400
ROUNDS = 25  # each is likely to make a fault of a kind that shows


def record(fault: Kind | None, seed: int = 1) -> list[Exchange]:
    """A history of a faulty server, without a network."""
    server, recorder = FaultyServer(fault, seed), Recorder()
    workload = Workload(
        recorder,
        lambda number: DirectClient(recorder, number, server),
        servers=2,
        seed=seed,
        max_messages=25,
        pause_seconds=0.0001,
    )
    workload.start()
    workload.run_to_the_end(EXCHANGES)
    workload.read_everything()
    return recorder.history


def kinds(history: Sequence[Exchange]) -> set[Kind]:
    """The kinds of what is wrong."""
    return {violation.kind for violation in check(history)}


def test_a_server_that_is_right_has_no_fault() -> None:
    """Although answers are lost, and many requests run at the same time."""
    assert check(record(None)) == []


@pytest.mark.parametrize("fault", [kind for kind in Kind if kind is not Kind.UNDECIDED])
def test_each_kind_of_fault_is_named(fault: Kind) -> None:
    assert any(fault in kinds(record(fault, seed)) for seed in range(ROUNDS))


def test_a_history_that_takes_too_long_to_decide_is_no_proof(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is named like a fault."""
    monkeypatch.setattr(register, "MAX_CONFIGURATIONS", 1)
    assert Kind.UNDECIDED in kinds(record(None))


@pytest.mark.parametrize("fault", [None, Kind.STREAM_SKIPS])
def test_a_history_by_http_is_checked_from_a_file(fault: Kind | None, tmp_path: Path) -> None:
    """Two processes, some of whose answers are lost, and streams, which skip numbers or do not."""
    recorder = Recorder()
    with http_server(FaultyServer(fault)) as urls:
        workload = Workload(
            recorder,
            lambda number: HttpClient(recorder, number, urls),
            servers=len(urls),
            seed=1,
            clients=4,
        )
        workload.start()
        workload.run_to_the_end(EXCHANGES)
        workload.read_everything()
    path = tmp_path / "history"
    write_history(path, recorder.history)
    history = list(read_history(path))
    assert history == recorder.history
    assert kinds(history) == ({fault} if fault else set())
    assert {exchange.server for exchange in history} == {0, 1}
