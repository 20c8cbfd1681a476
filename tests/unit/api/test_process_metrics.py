"""The folder in which the server's processes count together."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from backend.api.health.process_metrics import share_metrics

SHARE_UNTIL_KILLED = """
import os, time
from backend.api.health.process_metrics import share_metrics
with share_metrics():
    print(os.environ["PROMETHEUS_MULTIPROC_DIR"], flush=True)
    time.sleep(600)
"""


def test_the_folder_of_a_killed_server_is_removed_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of a running server stays, and so does a folder that is not ours."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    foreign = tmp_path / "instachat-metrics-foreign"
    foreign.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", SHARE_UNTIL_KILLED], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        folder = Path(server.stdout.readline().strip())
        assert folder.parent == tmp_path
        with share_metrics():
            assert folder.exists()
        server.kill()
    assert folder.exists()
    with share_metrics():
        assert not folder.exists()
    assert list(tmp_path.iterdir()) == [foreign]
