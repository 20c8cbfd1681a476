import json
import os
import sys
from pathlib import Path
from typing import Protocol

import pytest

from tools import setup


class AddPython(Protocol):
    def __call__(self, name: str, seconds: float, version: tuple[int, int] = (3, 12)) -> Path: ...


@pytest.fixture
def add_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AddPython:
    """Add a program to PATH that answers as a Python of that pace. The tests' own takes a millisecond."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["setup.py"])

    def write(program: Path, path: str, seconds: float, version: tuple[int, int]) -> Path:
        answer = json.dumps({"version": version, "path": path, "seconds": seconds})
        program.write_text(f"#!/bin/sh\necho '{answer}'\n")
        program.chmod(0o755)
        return program

    def add(name: str, seconds: float, version: tuple[int, int] = (3, 12)) -> Path:
        return write(tmp_path / name, str(tmp_path / name), seconds, version)

    write(tmp_path / "python3", sys.executable, 1e-3, (3, 11))
    return add


def test_a_much_quicker_python_is_taken_and_named(
    add_python: AddPython, capsys: pytest.CaptureFixture[str]
) -> None:
    quicker = add_python("python3.12", 0.6e-3)
    assert setup.much_quicker_python() == str(quicker)
    assert f"Using {quicker}, which is 1.7 times as quick" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "version"),
    [(0.9e-3, (3, 12)), (0.6e-3, (3, 10)), (0.6e-3, (3, 15))],
    ids=["slow", "old", "without wheels"],
)
def test_another_python_is_not_taken(
    add_python: AddPython, seconds: float, version: tuple[int, int]
) -> None:
    add_python("python3.12", seconds, version)
    assert setup.much_quicker_python() is None


def test_a_program_that_is_no_python_is_passed_over(add_python: AddPython) -> None:
    add_python("python3.12", 0.6e-3).write_text("#!/bin/sh\nexit 127\n")
    assert setup.much_quicker_python() is None


def test_a_python_that_was_named_is_kept(
    add_python: AddPython, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_python("python3.12", 0.6e-3)
    monkeypatch.setattr(sys, "argv", ["setup.py", "--this-python"])
    assert setup.much_quicker_python() is None


def test_a_real_python_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    here = os.path.realpath(sys.executable)
    monkeypatch.setenv("PATH", str(Path(here).parent))
    assert 0 < setup.paces()[here] < 1
