"""Half a minute of the soak; `make soak` runs ten minutes."""

import os
import random
from pathlib import Path

import pytest

from tests.support.faults.soak import Soak

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("soak")]

SECONDS = 15.0  # on two idle cores half a minute with its beginning and its end
RECONCILED = 2  # times, at least


@pytest.mark.scale("All engines and processes: killed, suspended and cut off at random")
@pytest.mark.timeout(900)
def test_half_a_minute_of_random_faults_loses_and_duplicates_no_message(tmp_path: Path) -> None:
    """Any process or engine is killed, suspended or cut off. At the end, the stores do not differ."""
    seed = int(os.environ.get("INSTACHAT_SOAK_SEED", random.SystemRandom().getrandbits(32)))
    outcome = Soak(tmp_path, seed).run(SECONDS, RECONCILED)
    again = f"the same faults again: INSTACHAT_SOAK_SEED={seed}"
    assert not outcome.findings, f"{outcome}\n{again}"
    assert not outcome.faults, f"{outcome}\n{again}"
    assert outcome.answered > 100, f"{outcome}"
