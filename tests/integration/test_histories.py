"""Half a minute of a history under faults; `make histories` records ten minutes."""

import os
import random
from pathlib import Path

import pytest

from tests.support.histories.run import record_installation

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("histories")]

SECONDS = 15.0  # with its beginning and its end, half a minute
ANSWERS = 100  # at least; a busy machine takes longer for them


@pytest.mark.timeout(900)
def test_a_history_under_faults_is_one_of_a_correct_server(tmp_path: Path) -> None:
    """Every answer of both processes can be explained by one order of all requests to a message."""
    seed = int(os.environ.get("INSTACHAT_HISTORY_SEED", random.SystemRandom().getrandbits(32)))
    result = record_installation(
        tmp_path, seed, SECONDS, failover=True, clients=6, min_answers=ANSWERS
    )
    assert not result.faults, f"{result}\nthe same faults again: INSTACHAT_HISTORY_SEED={seed}"
