"""The folders of engines: what killed test runs have left is deleted."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.scratch import remove_leftovers


def test_folders_of_processes_that_have_ended_are_deleted(tmp_path: Path) -> None:
    """Those of running processes stay, and so does what has another name."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / f"instachat-test-{ended.pid}-redis-abc"
    kept = {tmp_path / f"instachat-test-{os.getpid()}-redis-abc", tmp_path / f"x-{ended.pid}-y"}
    for folder in (left, *kept):
        folder.mkdir()
        (folder / "data").touch()
    remove_leftovers(tmp_path)
    assert set(tmp_path.iterdir()) == kept
