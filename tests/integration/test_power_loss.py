"""What was answered under `strict` survives a power loss; `make powerloss` cuts at 1,000 points."""

import os
import random
import shutil
from pathlib import Path

import pytest

from backend.settings import Settings
from tests.conftest import skip_absent
from tests.support.engines import redis_binary, valkey_binary
from tests.support.power_loss.run import Result, cut_power

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("power_loss")]

POINTS = 12
SECONDS = 0.8  # of a load, in which the log is rewritten


@pytest.fixture
def seed() -> int:
    """INSTACHAT_POWER_SEED, or any."""
    if shutil.which("strace") is None:
        skip_absent("strace")
    return int(os.environ.get("INSTACHAT_POWER_SEED", random.SystemRandom().getrandbits(32)))


def cut(settings: Settings, binary: Path, seed: int, *options: str) -> Result:
    """A short load, and some points."""
    return cut_power(settings, binary, *options, points=POINTS, seconds=SECONDS, seed=seed)


@pytest.mark.parametrize("name", ["Valkey", "Redis"])
def test_every_answer_survives_a_power_loss(settings: Settings, name: str, seed: int) -> None:
    """Wherever the power is cut: within a write, between a write and its sync, or while names change."""
    binary = valkey_binary() if name == "Valkey" else redis_binary()
    if binary is None:
        skip_absent("Redis 7")
    assert binary
    result = cut(settings, binary, seed)
    assert result.messages
    assert result.operations["UNLINK"], "the log was not rewritten"
    assert not result.faults, f"{result}\nthe same again: INSTACHAT_POWER_SEED={seed}"


def test_a_server_that_syncs_too_late_loses_answers(settings: Settings, seed: int) -> None:
    """So the test above would see it."""
    result = cut(settings, valkey_binary(), seed, "--appendfsync", "no")
    assert result.faults
